"""What errors of vendors' clients say, by stand-ins with the names of their classes.

`test_real_clients.py` raises the real ones.
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import urllib.error
from types import SimpleNamespace
from typing import get_args

import httpx
import pytest
import urllib3
from grpclib import GRPCError
from grpclib.const import Status

from connectrio import InvalidRequestError, PermanentFailure, TransientError, failures
from connectrio.connector.failures import UnknownJobError
from connectrio.connector.transient import _CLASSES, FailureKind, failure_kind, is_one_of, passes


class ServerTimeoutError(TimeoutError):
    pass


def foreign(name: str, *bases: type, **members) -> Exception:
    """An error of a client that need not be installed, by its class's full name."""
    module, _, cls = name.rpartition(".")
    return type(cls, bases or (Exception,), {"__module__": module, **members})()


def status_error(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "https://example.com")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def aws(code: str, status: int) -> Exception:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return foreign("botocore.exceptions.ClientError", response=response)


def vendor(name: str, text: str = "no", *bases: type, **members) -> Exception:
    """An error of a client, with a text and attributes of its own."""
    error = type(foreign(name, *bases))(text)
    for member, value in members.items():
        setattr(error, member, value)
    return error


def caused(error, cause):
    error.__cause__ = cause
    return error


def while_handling(other: Exception) -> Exception:
    """An error that was raised while another was handled, without `from`."""
    error = KeyError("a bug of the handler")
    error.__context__ = other
    return error


def endless() -> Exception:
    """An error whose causes go in a circle."""
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    return first


def deep(depth: int) -> Exception:
    """An error with so many errors above the one that it was raised from at first."""
    error: Exception = ConnectionResetError()
    for _ in range(depth):
        error = caused(RuntimeError("no"), error)
    return error


def grpcio(code: str) -> Exception:
    return foreign(
        "grpc.aio._call.AioRpcError", type(foreign("grpc.RpcError")), code=lambda self: SimpleNamespace(name=code)
    )


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (ConnectionRefusedError(), True),
        (BrokenPipeError(), True),
        (TimeoutError(), True),
        (ServerTimeoutError(), True),
        (socket.gaierror(), True),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ssl.SSLEOFError(), True),
        (ssl.SSLCertVerificationError(), False),
        (TransientError("busy"), True),
        (GRPCError(Status.UNAVAILABLE), True),
        (GRPCError(Status.DEADLINE_EXCEEDED), True),
        (GRPCError(Status.RESOURCE_EXHAUSTED), True),
        (GRPCError(Status.INTERNAL), False),
        (grpcio("UNAVAILABLE"), True),
        (grpcio("INTERNAL"), False),
        (foreign("grpc.RpcError"), False),
        (httpx.ConnectTimeout("slow"), True),
        (httpx.ReadError("reset"), True),
        (httpx.HTTPStatusError("404", request=None, response=None), False),
        *[(status_error(status), True) for status in (429, 500, 502, 503, 504)],
        *[(status_error(status), False) for status in (400, 401, 404, 501)],
        (foreign("aiohttp.client_exceptions.ClientResponseError", status=503), True),
        (foreign("aiohttp.client_exceptions.ClientResponseError", status=403), False),
        (foreign("openai.APIStatusError", status_code=429), True),
        (urllib.error.URLError("no route"), True),
        (urllib.error.HTTPError("https://example.com", 503, "busy", {}, None), True),
        (urllib.error.HTTPError("https://example.com", 404, "not found", {}, None), False),
        (http.client.IncompleteRead(b""), True),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "slow"), True),
        (urllib3.exceptions.LocationParseError("x"), False),
        (aws("ThrottlingException", 400), True),
        (aws("ServiceUnavailable", 503), True),
        (aws("AccessDenied", 403), False),
        (foreign("google.api_core.exceptions.TooManyRequests", code=429), True),
        (foreign("google.api_core.exceptions.NotFound", code=404), False),
        (foreign("snowflake.connector.errors.ProgrammingError"), False),
        # a number that is no HTTP status says nothing
        (foreign("vendor.VendorError", status=3), False),
        (foreign("vendor.VendorTimeout", TimeoutError, status=404), True),
        *[(status_error(status), True) for status in (408, 520, 521, 522, 523, 524, 529)],
        *[(status_error(status), False) for status in (403, 409, 410, 413, 422, 505, 507, 525)],
        # no TLS, in whatever it is wrapped; but a connection that was cut meanwhile
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA]"), False),
        (caused(httpx.ConnectError("no"), ssl.SSLCertVerificationError()), False),
        (caused(httpx.ConnectError("no"), ssl.SSLEOFError()), True),
        (vendor("requests.exceptions.SSLError", urllib3.exceptions.SSLError(ssl.SSLCertVerificationError())), False),
        (urllib.error.URLError(ssl.SSLCertVerificationError()), False),
        (urllib.error.URLError(ssl.SSLZeroReturnError()), True),
        (caused(TimeoutError("tried for a minute"), ssl.SSLCertVerificationError()), False),
        # not what a server does
        (httpx.UnsupportedProtocol("x"), False),
        (httpx.LocalProtocolError("x"), False),
        (foreign("httpx2.ConnectError", type(foreign("httpx2.TransportError"))), True),
        (foreign("httpx2.LocalProtocolError", type(foreign("httpx2.TransportError"))), False),
        (urllib.error.HTTPError("https://example.com", 302, "in a circle", {}, None), False),
        (urllib3.exceptions.MaxRetryError(None, "/", urllib3.exceptions.ResponseError("too many redirects")), False),
        (vendor("urllib3.exceptions.ResponseError", "too many 503 error responses"), True),
        (vendor("urllib3.exceptions.ResponseError", "too many 404 error responses"), False),
        (vendor("vendor.ResponseError", "too many 503 error responses"), False),
        # codes
        (aws("RequestTimeout", 400), True),
        (aws("RequestTimeTooSkewed", 403), False),
        (aws("ProvisionedThroughputExceededException", 400), True),
        (aws("ServiceUnavailableException", 200), True),  # in a stream of events
        (aws("ExpiredTokenException", 400), False),
        (aws("LimitExceededException", 400), False),
        (aws("ResourceLimitExceeded", 400), False),
        (vendor("openai.RateLimitError", status_code=429, code="insufficient_quota"), False),
        (vendor("openai.RateLimitError", status_code=429, code="rate_limit_exceeded"), True),
        (vendor("google.api_core.exceptions.Forbidden", errors=[{"reason": "rateLimitExceeded"}]), True),
        (vendor("google.api_core.exceptions.Forbidden", errors=[{"reason": "quotaExceeded"}]), False),
        (vendor("google.api_core.exceptions.Forbidden", errors=[]), False),
        (
            foreign(
                "databricks.sdk.errors.platform.DataLoss", type(foreign("databricks.sdk.errors.platform.InternalError"))
            ),
            False,
        ),
        (caused(foreign("google.auth.exceptions.RefreshError"), ConnectionResetError()), True),
        (vendor("google.auth.exceptions.GoogleAuthError", retryable=True), True),
        (vendor("google.auth.exceptions.GoogleAuthError", retryable=False), False),
        (vendor("snowflake.connector.errors.OperationalError", http_status=403, errno=-1), False),
        (vendor("snowflake.connector.errors.HttpError", errno=290404), False),
        (vendor("snowflake.connector.errors.HttpError", errno=290502), True),
        (vendor("snowflake.connector.errors.DatabaseError", errno=250001), False),
        (vendor("snowflake.connector.errors.DatabaseError", "HTTP request failed after retries: reset by peer"), True),
        (
            vendor("snowflake.connector.errors.DatabaseError", "HTTP request failed after retries: bad certificate"),
            False,
        ),
        (vendor("asyncssh.misc.DisconnectError", code=12), True),
        (vendor("asyncssh.misc.DisconnectError", code=2), False),
        (vendor("paramiko.ssh_exception.SSHException", "Error reading SSH protocol banner"), True),
        (vendor("paramiko.ssh_exception.SSHException", "Invalid key"), False),
        (foreign("paramiko.ssh_exception.NoValidConnectionsError", OSError), True),
        *[(vendor("psycopg.OperationalError", sqlstate=state), True) for state in ("08006", "53300", "57P03", "40001")],
        *[(vendor("psycopg.OperationalError", sqlstate=state), False) for state in ("28P01", "53100", "57014")],
        (vendor("psycopg2.OperationalError", pgcode="57P01"), True),
        (vendor("psycopg.OperationalError", "connection refused"), True),
        (vendor("psycopg.OperationalError", 'FATAL:  password authentication failed for user "f"'), False),
        (vendor("psycopg.OperationalError", "FATAL:  sorry, too many clients already"), True),
        (vendor("psycopg.OperationalError", "FATAL:  the database system is starting up"), True),
        (vendor("psycopg.OperationalError", "SSL error: certificate verify failed"), False),
        (vendor("psycopg.ProgrammingError", "connection refused"), False),
        # what it was raised from, if it says nothing by itself
        (caused(RuntimeError("polling failed"), httpx.ConnectError("no")), True),
        (caused(RuntimeError("polling failed"), status_error(404)), False),
        (caused(RuntimeError("a"), caused(RuntimeError("b"), ConnectionResetError())), True),
        (RuntimeError("polling failed", ConnectionResetError()), True),
        (caused(InvalidRequestError("no such warehouse"), ConnectionResetError()), False),
        (caused(status_error(404), ConnectionResetError()), False),
        (while_handling(ConnectionResetError()), False),
        (endless(), False),
        (ExceptionGroup("tasks", [ExceptionGroup("tasks", [ConnectionResetError()])]), True),
        (ExceptionGroup("tasks", [ConnectionResetError(), ValueError("a bug")]), False),
        (deep(15), True),
        (deep(500), False),  # there is an end to what is looked at
        (FileNotFoundError(), False),
        (OSError(), False),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_transient_by_default(error, passing):
    assert passes(error) is passing


@pytest.mark.parametrize("name", sorted(name for name, kind in _CLASSES.items() if kind is not None))
def test_errors_of_well_known_clients_are_transient(name):
    assert passes(foreign("somewhere.Special", type(foreign(name))))


@pytest.mark.parametrize("name", sorted(name for name, kind in _CLASSES.items() if kind is None))
def test_some_of_their_errors_are_not(name):
    assert not passes(foreign("somewhere.Special", type(foreign(name, type(foreign("httpx.TransportError"))))))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["asyncssh.misc.ProcessError"], True),
        (["asyncssh.ProcessError"], True),  # where it is imported from
        (["x", "asyncssh.misc.Error"], True),  # a base
        (["ProcessError"], False),
        (["misc.ProcessError"], False),
        (["asyncssh.sftp.ProcessError"], False),
        (["asyncssh"], False),
        (["409"], False),
        ([], False),
    ],
)
def test_errors_that_are_named(words, found):
    error = foreign("asyncssh.misc.ProcessError", type(foreign("asyncssh.misc.Error")))
    assert is_one_of(error, words) is found
    assert is_one_of(caused(RuntimeError(), error), words) is found


@pytest.mark.parametrize(("status", "found"), [(409, True), (425, True), (404, False)])
def test_statuses_that_are_named(status, found):
    assert is_one_of(status_error(status), {"409", "425"}) is found


def test_authors_find_the_rules_in_a_module_of_their_own():
    assert failures.passes(status_error(503))
    assert failures.failure_kind(status_error(503)) == "unavailable"
    assert failures.retry_after(TransientError("busy", retry_after=7)) == 7


class HostileError(Exception):
    @property
    def response(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(), "connection"),
        (socket.gaierror(), "connection"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "connection"),
        (OSError(errno.ENOSPC, "No space left on device"), "other"),
        (ssl.SSLEOFError(), "connection"),
        (TimeoutError(), "timeout"),
        (ServerTimeoutError(), "timeout"),
        (httpx.ConnectTimeout("slow"), "timeout"),
        (httpx.ReadError("reset"), "connection"),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "slow"), "timeout"),
        (foreign("vendor.VendorTimeout", TimeoutError, status=404), "timeout"),
        (TransientError("busy"), "unavailable"),
        (caused(TransientError("busy"), status_error(429)), "throttled"),
        (caused(TransientError("busy"), caused(RuntimeError("no"), status_error(429))), "throttled"),
        (caused(TimeoutError("tried for a minute"), status_error(429)), "throttled"),
        (caused(TimeoutError("tried for a minute"), ValueError()), "timeout"),
        (caused(TransientError("busy"), ValueError()), "unavailable"),
        (UnknownJobError("gone"), "not_found"),
        (PermanentFailure("bad SQL"), "other"),
        (GRPCError(Status.UNAVAILABLE), "unavailable"),
        (GRPCError(Status.RESOURCE_EXHAUSTED), "throttled"),
        (GRPCError(Status.DEADLINE_EXCEEDED), "timeout"),
        (GRPCError(Status.UNAUTHENTICATED), "denied"),
        (GRPCError(Status.INVALID_ARGUMENT), "other"),
        (grpcio("INTERNAL"), "server_error"),
        (grpcio("NOT_FOUND"), "not_found"),
        (foreign("grpc.RpcError"), "other"),
        *[(status_error(status), "server_error") for status in (500, 501)],
        *[(status_error(status), "unavailable") for status in (502, 503)],
        *[(status_error(status), "denied") for status in (401, 403)],
        (status_error(504), "timeout"),
        (status_error(404), "not_found"),
        (status_error(400), "other"),
        (urllib.error.HTTPError("https://example.com", 429, "busy", {}, None), "throttled"),
        (urllib.error.URLError("no route"), "connection"),
        (aws("ThrottlingException", 400), "throttled"),
        (aws("AccessDenied", 403), "denied"),
        (foreign("google.api_core.exceptions.TooManyRequests", code=429), "throttled"),
        (foreign("google.api_core.exceptions.NotFound", code=404), "not_found"),
        (foreign("databricks.sdk.errors.platform.PermissionDenied"), "denied"),
        (foreign("snowflake.connector.errors.ProgrammingError"), "other"),
        (FileNotFoundError(), "other"),
        (ValueError(), "other"),
        (HostileError(), "other"),
        (KeyboardInterrupt(), "other"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_kind_of_an_error(error, kind):
    assert failure_kind(error) == kind
    assert kind in get_args(FailureKind)


@pytest.mark.parametrize("name", sorted(name for name, kind in _CLASSES.items() if kind is not None))
def test_transient_errors_of_well_known_clients_have_a_kind(name):
    assert failure_kind(foreign("somewhere.Special", type(foreign(name)))) not in ("other", "denied", "not_found")
