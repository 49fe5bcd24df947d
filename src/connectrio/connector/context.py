"""What a connector's method may know of the call that it answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectrio.rpc.deadline import Deadline

__all__ = ["CurrentCall", "current_call", "reset_key", "set_key"]


@dataclass(frozen=True)
class CurrentCall:
    """A call, as a connector sees it.

    :ivar key: in `create`, the name of the job to be: 43 lower-case letters, digits and "-", the same whenever this
        job is asked for again, on any host, and different for each attempt. Give it to the other system as the job's
        id or idempotency token. None elsewhere, and for clients that do not say what they create the job for
    :ivar peer: the client's address
    :ivar metadata: what the client sent along, a `MultiDict`; not in the `repr`, for it may hold a token
    """

    key: str | None = None
    peer: str = ""
    metadata: Mapping[str, str | bytes] = field(default_factory=dict, repr=False)
    _deadline: Deadline | None = field(default=None, repr=False)

    def time_remaining(self) -> float | None:
        """Seconds until the client stops waiting, 0 once it has; None if it did not say.

        For methods of connectors, in the host's tasks and worker threads.
        """
        if self._deadline is None:
            return None
        from anyio import from_thread

        try:
            return self._deadline.time_remaining()
        except RuntimeError:  # there is no event loop in this thread
            return from_thread.run_sync(self._deadline.time_remaining)


_key: ContextVar[str | None] = ContextVar("connectrio_key", default=None)


def set_key(key: str) -> Token[str | None]:
    """Make `key` the one of the `create` that this task is about to call, until `reset_key`."""
    return _key.set(key)


def reset_key(token: Token[str | None]) -> None:
    """That `create` is over; the task may go on to answer another call."""
    _key.reset(token)


def current_call() -> CurrentCall:
    """The call that this task, or worker thread, is answering; outside of any, one that knows nothing."""
    from connectrio.rpc.call import current_call as current_rpc

    call = current_rpc()
    if call is None:
        return CurrentCall(_key.get())
    return CurrentCall(_key.get(), call.peer, call.metadata, call.deadline)
