"""What a connector may know of its host and of the call that it answers. The host sets the variables here."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from connectrio.connector.failures import TransientError

if TYPE_CHECKING:
    import anyio

__all__ = [
    "CurrentCall",
    "Start",
    "begin_work",
    "current_call",
    "pending_start",
    "process_count",
    "reset_current_call",
    "set_creation",
    "set_current_call",
    "unsafe_sql",
    "worker_limit",
]

worker_limit: ContextVar[int] = ContextVar("connectrio_worker_limit", default=10)
"""How many threads a connector may use for code that blocks: the host's `worker`. Set while a lifespan opens."""

process_count: ContextVar[int] = ContextVar("connectrio_process_count", default=1)
"""How many processes host the connector side by side and share the machine. Set while a lifespan opens."""

unsafe_sql: ContextVar[bool] = ContextVar("connectrio_unsafe_sql", default=False)
"""Whether SQL may use all files of the host, as the host's `unsafe_sql` says. Set while a lifespan opens."""


@dataclass(frozen=True)
class CurrentCall:
    """A call, as a connector sees it.

    :ivar key: in `create`, the name of the new job: 43 lower-case letters, digits and "-". It is the same whenever this
        job is asked for again, on any host, and different for each attempt; but an attempt that finishes what the ended
        host of an earlier one has begun has the key of that one. Give it to the other system as the job's id or
        idempotency token. None in other methods, and for clients that do not say what they create the job for
    :ivar peer: the client's address
    :ivar metadata: the request's metadata, a `MultiDict`; not in the `repr`, because it may hold a token
    """

    key: str | None = None
    peer: str = ""
    metadata: Mapping[str, str | bytes] = field(default_factory=dict, repr=False)
    _deadline: float | None = field(default=None, repr=False)  # of `time.monotonic`

    def time_remaining(self) -> float | None:
        """Return the seconds until the client stops waiting, 0 once it has; None if it set no deadline.

        It asks no event loop, so it is right in any thread, and on event loops that have other clocks.
        """
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


@dataclass(slots=True)
class Start:
    """The moment at which a connector's code begins to create a job. Until then, the client's end drops the request.

    :ivar scope: shielded at that moment: from then on, the job may exist in the other system
    :ivar usual: returns the seconds that the connector needs for a job, as far as the host knows
    :ivar record: if not None, awaited just before that moment, to write it down; raises if the code must not begin
    :ivar on_begin: called at that moment on the event loop of the call; perhaps again later
    :ivar arrived: when the host was asked for the job; this and the next two as `time.monotonic` counts
    :ivar deadline: when the client stops waiting; None if it did not say
    :ivar began: when the connector's code began; None before
    """

    scope: anyio.CancelScope
    usual: Callable[[], float]
    on_begin: Callable[[], None] = lambda: None
    record: Callable[[], Awaitable[None]] | None = None
    arrived: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    began: float | None = None

    def check(self) -> None:
        """Check that there is time to create the job, if there was at first; in any thread.

        :raises TransientError: it has waited for a thread for so long that the client would not see the job
        """
        if self.deadline is not None and self.arrived <= self.deadline - self.usual() < time.monotonic():
            raise TransientError(
                "the host was busy for so long that the job could not be created before the client's deadline; nothing"
                " was created, so try again. If this is frequent, raise `worker`, or make `create` an `async def`"
            )


# key, peer, metadata and deadline of a `CurrentCall`, which is only made when a connector asks for it; and the start
_Particulars = tuple[str | None, str, Mapping[str, str | bytes], float | None, Start | None]
_current: ContextVar[_Particulars | None] = ContextVar("connectrio_connector_call", default=None)


def current_call() -> CurrentCall:
    """Return the call that this task or worker thread answers; outside of any call, one without any particulars."""
    particulars = _current.get()
    return CurrentCall() if particulars is None else CurrentCall(*particulars[:4])


def set_current_call(
    peer: str, metadata: Mapping[str, str | bytes], deadline: float | None
) -> Token[_Particulars | None]:
    """Make a call the current one of this task, and of what it starts, until `reset_current_call`.

    :param deadline: when the client stops waiting, as `time.monotonic` counts; None if it did not say
    """
    return _current.set((None, peer, metadata, deadline, None))


def set_creation(key: str, start: Start) -> Token[_Particulars | None]:
    """Give the current call `key` and `start`, until `reset_current_call`: the host is about to call `create`."""
    _, peer, metadata, deadline, _ = _current.get() or (None, "", {}, None, None)
    start.deadline = deadline
    return _current.set((key, peer, metadata, deadline, start))


def reset_current_call(token: Token[_Particulars | None]) -> None:
    """Undo `set_current_call` or `set_creation`; the task may go on to answer another call."""
    _current.reset(token)


def pending_start() -> Start | None:
    """Return the start of the job that the current call creates; None if it creates none."""
    particulars = _current.get()
    return None if particulars is None else particulars[4]


def begin_work() -> bool:
    """Tell the host that a connector's code begins now, on the event loop of the call.

    :returns: whether the work goes on although the client goes away: it creates a job
    """
    particulars = _current.get()
    if particulars is None or (start := particulars[4]) is None:
        return False
    start.scope.shield = True
    start.began = start.began or time.monotonic()
    start.on_begin()
    return True
