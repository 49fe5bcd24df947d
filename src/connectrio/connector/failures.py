"""The exceptions that say what kind of failure a connector met. Any other exception counts as a bug of the connector.

    PermanentFailure      the client sees OK, and FAILED at the first poll: Flyte makes no further attempt
    InvalidRequestError   INVALID_ARGUMENT; in `create`, Flyte makes another attempt, if the task has any left
    UnknownJobError       NOT_FOUND; in `get`, Flyte tolerates it, as it does few errors
    TransientError        UNAVAILABLE; in `get`, Flyte does not see it as long as the host absorbs it
    anything else         INTERNAL; Flyte does the same as for the two in the middle

A `GRPCError` goes to the client as it is. A connector that cannot even be loaded is recorded as a `LoadFailure`.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import ClassVar

from grpclib import GRPCError
from grpclib.const import Status

__all__ = [
    "ConnectorError",
    "InvalidRequestError",
    "LoadFailure",
    "PermanentFailure",
    "TransientError",
    "UnknownJobError",
    "failure_kind",
    "passes",
]


class ConnectorError(Exception):
    """A failure of a known kind. The text is for the user: what happened, to what, and what to do.

    :cvar status: what the client sees
    """

    status: ClassVar[Status] = Status.UNKNOWN


class PermanentFailure(ConnectorError):  # noqa: N818 - it is the task's, and ends it; the others end one call
    """The task cannot succeed, however often it is tried.

    Raised in `create`, the call succeeds, and the first poll reports FAILED with this text: Flyte's executor would
    answer an error with another attempt. Raised in `get`, the job counts as FAILED. Other methods fail with
    FAILED_PRECONDITION.
    """

    status = Status.FAILED_PRECONDITION


class InvalidRequestError(ConnectorError, ValueError):
    """The request is wrong: a bad argument, a malformed token, a task without a query."""

    status = Status.INVALID_ARGUMENT


class UnknownJobError(ConnectorError, LookupError):
    """The job does not exist, or no longer."""

    status = Status.NOT_FOUND


class TransientError(ConnectorError):
    """The other system is unreachable, overloaded or restarting: the same call may succeed in a moment.

    Raised in `get`, the host tries again, and then answers with the last known phase for a while.
    """

    status = Status.UNAVAILABLE


# what clients raise when a connection fails, something takes too long or a service asks them to come again, besides
# Python's ConnectionError and TimeoutError; by name, so that nothing is imported
_FOREIGN = {
    "aiohttp.client_exceptions.ClientConnectionError",
    "asyncssh.misc.ChannelOpenError",
    "asyncssh.misc.ConnectionLost",
    "azure.core.exceptions.ServiceRequestError",
    "azure.core.exceptions.ServiceResponseError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "databricks.sdk.errors.platform.DeadlineExceeded",
    "databricks.sdk.errors.platform.InternalError",
    "databricks.sdk.errors.platform.TemporarilyUnavailable",
    "databricks.sdk.errors.platform.TooManyRequests",
    "google.api_core.exceptions.BadGateway",
    "google.api_core.exceptions.GatewayTimeout",
    "google.api_core.exceptions.InternalServerError",
    "google.api_core.exceptions.RetryError",
    "google.api_core.exceptions.ServiceUnavailable",
    "google.api_core.exceptions.TooManyRequests",
    "google.auth.exceptions.TransportError",
    "http.client.IncompleteRead",
    "httpx.TransportError",
    "openai.APIConnectionError",
    "requests.exceptions.ChunkedEncodingError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
    "snowflake.connector.errors.BadGatewayError",
    "snowflake.connector.errors.GatewayTimeoutError",
    "snowflake.connector.errors.HttpError",
    "snowflake.connector.errors.InternalServerError",
    "snowflake.connector.errors.OperationalError",
    "snowflake.connector.errors.ServiceUnavailableError",
    "snowflake.connector.errors.TooManyRequests",
    "ssl.SSLEOFError",
    "urllib.error.URLError",
    "urllib3.exceptions.MaxRetryError",
    "urllib3.exceptions.NewConnectionError",
    "urllib3.exceptions.ProtocolError",
    "urllib3.exceptions.TimeoutError",
}
_PASSING_STATUSES = {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.RESOURCE_EXHAUSTED}
_PASSING_STATUS_NAMES = {status.name for status in _PASSING_STATUSES}
_PASSING_HTTP_STATUSES = {429, 500, 502, 503, 504}
_PASSING_ERRNOS = {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH}
# parts of the codes with which services of AWS throttle; their HTTP status is often 400
_THROTTLED = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "SlowDown")


def passes(error: Exception) -> bool:
    """Return whether `error` says that the other system is unreachable or overloaded for the moment."""
    if isinstance(error, TransientError | ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, GRPCError):
        return error.status in _PASSING_STATUSES
    if isinstance(error, OSError) and error.errno in _PASSING_ERRNOS:
        return True
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
    if "grpc.RpcError" in names:
        code = getattr(error, "code", None)
        return callable(code) and getattr(code(), "name", None) in _PASSING_STATUS_NAMES
    if "botocore.exceptions.ClientError" in names and any(part in _aws_code(error) for part in _THROTTLED):
        return True
    status = _http_status(error)
    return bool(names & _FOREIGN) if status is None else status in _PASSING_HTTP_STATUSES


def failure_kind(error: BaseException) -> str:
    """Return what sort of failure of the other system `error` is, in one word."""
    if isinstance(error, TimeoutError):
        return "timeout"
    return "connection" if isinstance(error, ConnectionError | socket.gaierror) else "other"


def _aws_code(error: Exception) -> str:
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _http_status(error: Exception) -> int | None:
    """Return the status of the response that `error` is about, where HTTP clients keep it; None if there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        candidates = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
    else:
        candidates = [getattr(each, name, None) for each in (error, response) for name in ("status_code", "status")]
    return next((status for status in candidates if isinstance(status, int) and 400 <= status < 600), None)


@dataclass(frozen=True)
class LoadFailure:
    """An entry point that could not be loaded, or a connector whose lifespan is not open, and why.

    :ivar source: what has failed, by name
    :ivar kind: why, without any value: the class of the error, or what happened. Everyone may see this
    :ivar error: the text of the error, with credentials masked, for those who can see the log, and for the authors of
        tasks that need the connector
    """

    source: str
    kind: str
    error: str
