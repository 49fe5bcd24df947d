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
from typing import ClassVar, Literal

from grpclib import GRPCError
from grpclib.const import Status

__all__ = [
    "ConnectorError",
    "FailureKind",
    "InvalidRequestError",
    "LoadFailure",
    "PermanentFailure",
    "TransientError",
    "UnknownJobError",
    "failure_kind",
    "passes",
]

FailureKind = Literal[
    "throttled", "timeout", "connection", "unavailable", "server_error", "denied", "not_found", "other"
]
"""What an error says of the system that a connector calls, in one word.

`throttled`: it asks to come again later; `timeout`: it was too slow; `connection`: it could not be reached, or the
connection was lost; `unavailable`: it says that it cannot answer now; `server_error`: it has failed; `denied`: it does
not accept the credentials; `not_found`: it does not know the job; `other`: anything else, a bug of the connector too.
"""


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
# Python's ConnectionError and TimeoutError, and the kind of each; by name, so that nothing is imported
_FOREIGN: dict[str, FailureKind] = {
    "aiohttp.client_exceptions.ClientConnectionError": "connection",
    "asyncssh.misc.ChannelOpenError": "connection",
    "asyncssh.misc.ConnectionLost": "connection",
    "azure.core.exceptions.ServiceRequestError": "connection",
    "azure.core.exceptions.ServiceResponseError": "connection",
    "botocore.exceptions.ConnectionError": "connection",
    "botocore.exceptions.HTTPClientError": "connection",
    "databricks.sdk.errors.platform.DeadlineExceeded": "timeout",
    "databricks.sdk.errors.platform.InternalError": "server_error",
    "databricks.sdk.errors.platform.TemporarilyUnavailable": "unavailable",
    "databricks.sdk.errors.platform.TooManyRequests": "throttled",
    "google.api_core.exceptions.BadGateway": "unavailable",
    "google.api_core.exceptions.GatewayTimeout": "timeout",
    "google.api_core.exceptions.InternalServerError": "server_error",
    "google.api_core.exceptions.RetryError": "timeout",
    "google.api_core.exceptions.ServiceUnavailable": "unavailable",
    "google.api_core.exceptions.TooManyRequests": "throttled",
    "google.auth.exceptions.TransportError": "connection",
    "http.client.IncompleteRead": "connection",
    "httpx.TransportError": "connection",
    "openai.APIConnectionError": "connection",
    "requests.exceptions.ChunkedEncodingError": "connection",
    "requests.exceptions.ConnectionError": "connection",
    "requests.exceptions.Timeout": "timeout",
    "snowflake.connector.errors.BadGatewayError": "unavailable",
    "snowflake.connector.errors.GatewayTimeoutError": "timeout",
    "snowflake.connector.errors.HttpError": "server_error",
    "snowflake.connector.errors.InternalServerError": "server_error",
    "snowflake.connector.errors.OperationalError": "connection",
    "snowflake.connector.errors.ServiceUnavailableError": "unavailable",
    "snowflake.connector.errors.TooManyRequests": "throttled",
    "ssl.SSLEOFError": "connection",
    "urllib.error.URLError": "connection",
    "urllib3.exceptions.MaxRetryError": "connection",
    "urllib3.exceptions.NewConnectionError": "connection",
    "urllib3.exceptions.ProtocolError": "connection",
    "urllib3.exceptions.TimeoutError": "timeout",
}
_PASSING_STATUSES = {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.RESOURCE_EXHAUSTED}
_PASSING_STATUS_NAMES = {status.name for status in _PASSING_STATUSES}
_PASSING_HTTP_STATUSES = {429, 500, 502, 503, 504}
_PASSING_ERRNOS = {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH}
# parts of the codes with which services of AWS throttle; their HTTP status is often 400
_THROTTLED = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "SlowDown")

_KINDS_OF_STATUSES: dict[str, FailureKind] = {
    "RESOURCE_EXHAUSTED": "throttled",
    "DEADLINE_EXCEEDED": "timeout",
    "UNAVAILABLE": "unavailable",
    "INTERNAL": "server_error",
    "UNKNOWN": "server_error",
    "DATA_LOSS": "server_error",
    "UNAUTHENTICATED": "denied",
    "PERMISSION_DENIED": "denied",
    "NOT_FOUND": "not_found",
}
_KINDS_OF_HTTP_STATUSES: dict[int, FailureKind] = {
    401: "denied",
    403: "denied",
    404: "not_found",
    408: "timeout",
    410: "not_found",
    429: "throttled",
    502: "unavailable",
    503: "unavailable",
    504: "timeout",
}
# what clients name classes for one cause, whatever their module; and parts of such names
_KINDS_OF_CLASSES: dict[str, FailureKind] = {
    "Forbidden": "denied",
    "NotFound": "not_found",
    "PermissionDenied": "denied",
    "Unauthenticated": "denied",
    "Unauthorized": "denied",
}
_TIMEOUTS = ("Timeout", "TimeLimit", "DeadlineExceeded")


def passes(error: Exception) -> bool:
    """Return whether `error` says that the other system is unreachable or overloaded for the moment."""
    if isinstance(error, TransientError | ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, GRPCError):
        return error.status in _PASSING_STATUSES
    if isinstance(error, OSError) and error.errno in _PASSING_ERRNOS:
        return True
    names = _class_names(error)
    if "grpc.RpcError" in names:
        return _grpc_status_name(error) in _PASSING_STATUS_NAMES
    if _is_throttled_by_aws(error, names):
        return True
    status = _http_status(error)
    return not _FOREIGN.keys().isdisjoint(names) if status is None else status in _PASSING_HTTP_STATUSES


def failure_kind(error: BaseException) -> FailureKind:
    """Return what `error` says of the system that a connector calls, in one word. Raises nothing."""
    try:
        return _failure_kind(error)
    except BaseException:  # noqa: BLE001 - the error's class is the connector's, and its attributes may do anything
        return "other"


def _failure_kind(error: BaseException) -> FailureKind:
    cause = error.__cause__
    if isinstance(error, TransientError):
        kind = "other" if cause is None else _failure_kind(cause)
        return "unavailable" if kind == "other" else kind
    if isinstance(error, UnknownJobError):
        return "not_found"
    names = _class_names(error)
    if isinstance(error, GRPCError) or "grpc.RpcError" in names:
        name = error.status.name if isinstance(error, GRPCError) else _grpc_status_name(error)
        return _KINDS_OF_STATUSES.get(str(name), "other")
    if _is_throttled_by_aws(error, names):
        return "throttled"
    status = _http_status(error)
    if status is not None:
        return _KINDS_OF_HTTP_STATUSES.get(status, "server_error" if status >= 500 else "other")
    if any(part in name for part in _TIMEOUTS for name in names):
        return "timeout"
    if isinstance(error, ConnectionError | socket.gaierror) or getattr(error, "errno", None) in _PASSING_ERRNOS:
        return "connection"
    found = (_FOREIGN.get(name) or _KINDS_OF_CLASSES.get(name.rpartition(".")[2]) for name in names)
    return next((kind for kind in found if kind is not None), "other")


def _class_names(error: BaseException) -> list[str]:
    """Return the full names of the error's class and those that it is made from, the closest first."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__]


def _grpc_status_name(error: BaseException) -> str | None:
    """Return the name of the status of an error of grpcio's."""
    code = getattr(error, "code", None)
    return getattr(code(), "name", None) if callable(code) else None


def _is_throttled_by_aws(error: BaseException, names: list[str]) -> bool:
    return "botocore.exceptions.ClientError" in names and any(part in _aws_code(error) for part in _THROTTLED)


def _aws_code(error: BaseException) -> str:
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _http_status(error: BaseException) -> int | None:
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
