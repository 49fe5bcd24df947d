"""What a connector may know of its host and of the call that it answers. The host sets the variables here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field

__all__ = [
    "CurrentCall",
    "current_call",
    "process_count",
    "reset_current_call",
    "set_current_call",
    "set_key",
    "worker_limit",
]

worker_limit: ContextVar[int] = ContextVar("connectrio_worker_limit", default=10)
"""How many threads a connector may use for code that blocks: the host's `worker`. Set while a lifespan opens."""

process_count: ContextVar[int] = ContextVar("connectrio_process_count", default=1)
"""How many processes host the connector side by side and share the machine. Set while a lifespan opens."""


@dataclass(frozen=True)
class CurrentCall:
    """A call, as a connector sees it.

    :ivar key: in `create`, the name of the new job: 43 lower-case letters, digits and "-". It is the same whenever this
        job is asked for again, on any host, and different for each attempt. Give it to the other system as the job's
        id or idempotency token. None in other methods, and for clients that do not say what they create the job for
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


# key, peer, metadata and deadline of a `CurrentCall`, which is only made when a connector asks for it
_Particulars = tuple[str | None, str, Mapping[str, str | bytes], float | None]
_current: ContextVar[_Particulars | None] = ContextVar("connectrio_connector_call", default=None)


def current_call() -> CurrentCall:
    """Return the call that this task or worker thread answers; outside of any call, one without any particulars."""
    particulars = _current.get()
    return CurrentCall() if particulars is None else CurrentCall(*particulars)


def set_current_call(
    peer: str, metadata: Mapping[str, str | bytes], deadline: float | None
) -> Token[_Particulars | None]:
    """Make a call the current one of this task, and of what it starts, until `reset_current_call`.

    :param deadline: when the client stops waiting, as `time.monotonic` counts; None if it did not say
    """
    return _current.set((None, peer, metadata, deadline))


def set_key(key: str) -> Token[_Particulars | None]:
    """Give the current call `key`, until `reset_current_call`: the host is about to call `create`."""
    _, peer, metadata, deadline = _current.get() or (None, "", {}, None)
    return _current.set((key, peer, metadata, deadline))


def reset_current_call(token: Token[_Particulars | None]) -> None:
    """Undo `set_current_call` or `set_key`; the task may go on to answer another call."""
    _current.reset(token)
