"""When a vendor that throttles wants to be asked again."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from connectrio.connector.transient import origins

__all__ = ["retry_after"]

# seconds; a vendor that names a later time is asked again by then
_LONGEST_PAUSE = 300.0
# headers with a time, and their unit in seconds. RFC 9110, 10.2.3 has the last; it may also hold a date
_RETRY_HEADERS = {"retry-after-ms": 0.001, "x-ms-retry-after-ms": 0.001, "x-ratelimit-reset-after": 1.0}


def retry_after(error: BaseException) -> float | None:
    """Return for how many seconds the other system asks to be left alone, at most 300; None if it says nothing of it.

    It is read from `retry_after` of a `TransientError` (or `retry_after_secs`, of databricks-sdk); from the headers
    `Retry-After` (seconds or a date), `retry-after-ms`, `x-ms-retry-after-ms` and `x-ratelimit-reset-after` of a
    response; from gRPC's `grpc-retry-pushback-ms` and `google.rpc.RetryInfo`. Raises nothing.
    """
    try:
        for each in origins(error):
            seconds = _asked_pause(each)
            if seconds is not None and math.isfinite(seconds):
                return min(max(seconds, 0.0), _LONGEST_PAUSE)
    except BaseException:  # noqa: BLE001 - the error's class is the connector's, and its attributes may do anything
        return None
    return None


def _asked_pause(error: Any) -> float | None:
    """Return for how many seconds the vendor wants to be left alone, as far as `error` itself says so."""
    for name in ("retry_after", "retry_after_secs"):
        value = getattr(error, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    details = getattr(error, "details", None)
    metadata = getattr(error, "trailing_metadata", None)
    if callable(metadata):
        return _pause_of_metadata(dict(metadata() or ()))
    if isinstance(details, list | tuple):
        found = next((each.retry_delay for each in details if hasattr(each, "retry_delay")), None)
        if found is not None:
            return _seconds(found)
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    else:
        candidates = [getattr(each, "headers", None) for each in (error, response)]
        headers = next((each for each in candidates if hasattr(each, "items")), None)
    return None if headers is None else _pause_of_headers({str(name).lower(): headers[name] for name in headers})


def _pause_of_headers(headers: dict[str, Any]) -> float | None:
    for name, unit in _RETRY_HEADERS.items():
        with suppress(KeyError, ValueError):
            return float(headers[name]) * unit
    text = str(headers.get("retry-after", ""))
    with suppress(ValueError):
        return float(text)
    try:
        at = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    now = time.time()
    with suppress(KeyError, ValueError, TypeError):
        now = parsedate_to_datetime(headers["date"]).timestamp()  # the clocks may differ
    return at - now


def _pause_of_metadata(trailers: dict[str, Any]) -> float | None:
    """Return what gRPC's trailers say: those of gRFC A6, and Google's details of a status."""
    with suppress(KeyError, ValueError):
        pause = int(trailers["grpc-retry-pushback-ms"])
        return pause / 1000 if pause >= 0 else None
    encoded = trailers.get("grpc-status-details-bin")
    if encoded is None:
        return None
    try:
        from google.rpc.error_details_pb2 import RetryInfo
        from google.rpc.status_pb2 import Status
    except ImportError:
        return None
    for detail in Status.FromString(encoded).details:
        info = RetryInfo()
        if detail.Unpack(info):
            return _seconds(info.retry_delay)
    return None


def _seconds(delay: Any) -> float:
    """Return a `timedelta` or a `google.protobuf.Duration` in seconds."""
    if hasattr(delay, "total_seconds"):
        return float(delay.total_seconds())
    return float(delay.seconds + delay.nanos / 1e9)
