"""The exceptions that say what kind of failure a connector met. Any other exception counts as a bug of the connector.

    PermanentFailure      the client sees OK, and FAILED at the first poll: Flyte makes no further attempt
    InvalidRequestError   INVALID_ARGUMENT; in `create`, Flyte makes another attempt, if the task has any left
    UnknownJobError       NOT_FOUND; in `get`, Flyte tolerates it, as it does few errors
    TransientError        UNAVAILABLE; in `get`, Flyte does not see it as long as the host absorbs it
    anything else         INTERNAL; Flyte does the same as for the two in the middle

A `GRPCError` goes to the client as it is. A connector that cannot even be loaded is recorded as a `LoadFailure`.
What the errors of vendors' clients say is in `transient.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from grpclib.const import Status

__all__ = [
    "ConnectorError",
    "InvalidRequestError",
    "LoadFailure",
    "PermanentFailure",
    "TransientError",
    "UnknownJobError",
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

    :param retry_after: for how many seconds the other system asks to be left alone; None if it says nothing of it. If
        this is raised `from` the error of a well-known client, the host reads it there
    """

    status = Status.UNAVAILABLE

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


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
