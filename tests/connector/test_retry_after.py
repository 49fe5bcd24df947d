"""How long a vendor asks to be left alone."""

from __future__ import annotations

from datetime import timedelta
from email.message import Message
from types import SimpleNamespace
from urllib.error import HTTPError

import grpc
import httpx
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from multidict import CIMultiDict

from connectrio import TransientError
from connectrio.connector.retry_after import retry_after

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
LATER = "Wed, 21 Oct 2026 07:28:42 GMT"
LONG_AGO = "Wed, 21 Oct 2015 07:28:00 GMT"


def httpx_error(**headers: str) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "https://example.com")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(429, headers=named, request=request))


def urllib_error(**headers: str) -> HTTPError:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return HTTPError("https://example.com", 429, "busy", message, None)


def with_members(**members: object) -> Exception:
    return type("VendorError", (Exception,), members)("no")


def grpcio(*trailers: tuple[str, str | bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers))


def status_details(*details) -> bytes:
    packed = []
    for detail in details:
        packed.append(Any())
        packed[-1].Pack(detail)
    return Status(code=14, details=packed).SerializeToString()


def wrapped(cause: Exception, error: Exception | None = None) -> Exception:
    error = error or RuntimeError("polling failed")
    error.__cause__ = cause
    return error


class HostileError(Exception):
    @property
    def headers(self):
        raise SystemExit(3)


IN_7_S = RetryInfo(retry_delay=Duration(seconds=7, nanos=500_000_000))


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (httpx_error(retry_after="7"), 7),
        (httpx_error(retry_after="0"), 0),
        (httpx_error(retry_after="1.5"), 1.5),
        (httpx_error(retry_after="-3"), 0),
        (httpx_error(retry_after="86400"), 300),
        (httpx_error(retry_after="inf"), None),
        (httpx_error(retry_after="nan"), None),
        (httpx_error(retry_after="soon"), None),
        (httpx_error(retry_after=""), None),
        (httpx_error(), None),
        # by the server's clock
        (httpx_error(retry_after=LATER, date=DATE), 42),
        (httpx_error(retry_after=DATE, date=LATER), 0),
        (httpx_error(retry_after=LONG_AGO), 0),
        (httpx_error(retry_after=LONG_AGO, date="?"), 0),
        # the more precise one first
        (httpx_error(retry_after="2", retry_after_ms="1500"), 1.5),
        (httpx_error(retry_after="2", retry_after_ms="?"), 2),
        (httpx_error(x_ms_retry_after_ms="250"), 0.25),
        (httpx_error(x_ratelimit_reset_after="3"), 3),
        (urllib_error(Retry_After="7"), 7),
        (with_members(headers=CIMultiDict({"Retry-After": "7"})), 7),  # aiohttp
        (with_members(headers={"RETRY-AFTER": "7"}), 7),
        (with_members(headers=None, response=SimpleNamespace(headers={"Retry-After": "7"})), 7),  # requests, azure-core
        (with_members(headers=None), None),
        (with_members(response={"ResponseMetadata": {"HTTPHeaders": {"retry-after": "7"}}}), 7),  # botocore
        (with_members(response={}), None),
        (with_members(retry_after_secs=7), 7),  # databricks-sdk
        (with_members(retry_after=True), None),
        (with_members(details=[SimpleNamespace(), SimpleNamespace(retry_delay=timedelta(seconds=7))]), 7),
        (with_members(details=[IN_7_S]), 7.5),  # google-api-core
        (grpcio(("grpc-retry-pushback-ms", "1500")), 1.5),
        (grpcio(("grpc-retry-pushback-ms", "-1")), None),  # "do not try again", gRFC A6
        (grpcio(("grpc-status-details-bin", status_details(ErrorInfo(reason="x"), IN_7_S))), 7.5),
        (grpcio(("grpc-status-details-bin", status_details(ErrorInfo(reason="x")))), None),
        (grpcio(("grpc-status-details-bin", b"\xff")), None),
        (grpcio(), None),
        (TransientError("busy", retry_after=7), 7),
        (TransientError("busy"), None),
        (wrapped(httpx_error(retry_after="7")), 7),
        (wrapped(httpx_error(retry_after="7"), TransientError("busy")), 7),
        (wrapped(httpx_error(retry_after="7"), TransientError("busy", retry_after=3)), 3),
        (ExceptionGroup("tasks", [httpx_error(retry_after="7")]), 7),
        (HostileError(), None),
        (ValueError("a bug"), None),
        (KeyboardInterrupt(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_pause(error, seconds):
    assert retry_after(error) == seconds


def test_a_date_without_the_server_s_clock_is_compared_with_ours(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_792_567_680.0)  # DATE
    assert retry_after(httpx_error(retry_after=LATER)) == 42
