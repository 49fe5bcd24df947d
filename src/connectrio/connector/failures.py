"""The exceptions that say what kind of failure a connector met. Any other exception counts as a bug of the connector.

    PermanentFailure      the client sees OK, and FAILED at the first poll: Flyte makes no further attempt
    InvalidRequestError   INVALID_ARGUMENT; in `create`, Flyte makes another attempt, if the task has any left
    UnknownJobError       NOT_FOUND; in `get`, Flyte tolerates it, as it does few errors
    TransientError        UNAVAILABLE; in `get`, Flyte does not see it as long as the host absorbs it
    anything else         INTERNAL; Flyte does the same as for the two in the middle

A `GRPCError` goes to the client as it is. A connector that cannot even be loaded is recorded as a `LoadFailure`.
"""

from __future__ import annotations

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


# what HTTP clients raise when a connection fails or something takes too long, besides Python's ConnectionError and
# TimeoutError; by name, so that nothing is imported
_FOREIGN = {
    "aiohttp.client_exceptions.ClientConnectionError",
    "google.api_core.exceptions.GatewayTimeout",
    "google.api_core.exceptions.ServiceUnavailable",
    "google.auth.exceptions.TransportError",
    "httpx.TransportError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
    "urllib3.exceptions.MaxRetryError",
    "urllib3.exceptions.NewConnectionError",
    "urllib3.exceptions.ProtocolError",
    "urllib3.exceptions.TimeoutError",
}
_PASSING_STATUSES = {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}


def passes(error: Exception) -> bool:
    """Return whether `error` says that the other system is unreachable for the moment."""
    if isinstance(error, TransientError | ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, GRPCError):
        return error.status in _PASSING_STATUSES
    return any(f"{cls.__module__}.{cls.__qualname__}" in _FOREIGN for cls in type(error).__mro__)


@dataclass(frozen=True)
class LoadFailure:
    """An entry point that could not be loaded, or whose lifespan failed, and why."""

    source: str
    error: str
