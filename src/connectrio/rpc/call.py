"""What a servicer may know of the call it is answering."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectrio.rpc._headers import Metadata
    from connectrio.rpc.deadline import Deadline


class Call:
    """One call, from the side of the servicer that answers it.

    :ivar method: the full method name, "/package.Service/Method"
    :ivar deadline: when the client stops waiting; None when it did not say
    :ivar metadata: what the client sent along
    :ivar peer: the client's address, "127.0.0.1:50000", or "" for a transport that has none
    :ivar user_agent: what the client calls itself
    :ivar trailing_metadata: what `set_trailing_metadata` has collected
    """

    __slots__ = ("deadline", "metadata", "method", "peer", "trailing_metadata", "user_agent")

    def __init__(
        self, method: str, metadata: Metadata, *, deadline: Deadline | None, peer: str, user_agent: str | None
    ) -> None:
        self.method = method
        self.metadata = metadata
        self.deadline = deadline
        self.peer = peer
        self.user_agent = user_agent
        self.trailing_metadata: list[tuple[str, str | bytes]] = []

    def set_trailing_metadata(self, pairs: Iterable[tuple[str, str | bytes]]) -> None:
        """Send these along with the status, whatever it will be.

        :param pairs: lower-case keys, printable ASCII values; `bytes` for keys that end in `-bin`
        """
        self.trailing_metadata.extend(pairs)


_current: ContextVar[Call | None] = ContextVar("connectrio_current_call", default=None)


def current_call() -> Call | None:
    """The call that this task, or worker thread, is answering; None outside of any."""
    return _current.get()


def set_current_call(call: Call) -> None:
    """Make `call` the current one of this task and of what it starts."""
    _current.set(call)
