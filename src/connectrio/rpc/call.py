"""A call's deadline, and what a servicer can learn about the call it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from typing import Self

import anyio
import grpclib.metadata
from grpclib.const import Status

from connectrio.diagnostics import SafeLogger, text_of, type_name
from connectrio.rpc._grpc import CONTENT_TYPE, ENCODINGS, IDENTITY, Metadata

# seconds. uvloop's clock shows whole milliseconds, rounded down, so it can show less than a deadline that has passed
_COARSEST_CLOCK = 0.001


class Deadline(grpclib.metadata.Deadline):
    """A point in time by which a call must be done, as grpclib's.

    It is on the clock of the running event loop, so that it agrees with cancel scopes and with a test's virtual clock.
    """

    def __init__(self, *, _timestamp: float) -> None:
        super().__init__(_timestamp=_timestamp)
        self.at = _timestamp

    @classmethod
    def from_timeout(cls, timeout: float) -> Self:
        """Return the deadline `timeout` seconds from now."""
        return cls(_timestamp=anyio.current_time() + timeout)

    @classmethod
    def convert(cls, deadline: grpclib.metadata.Deadline) -> Deadline:
        """Return any deadline as one on this clock."""
        return deadline if isinstance(deadline, Deadline) else cls.from_timeout(deadline.time_remaining())

    def time_remaining(self) -> float:
        """Return the seconds left; 0 once it has passed."""
        return max(0.0, self.at - anyio.current_time())

    @property
    def has_passed(self) -> bool:
        """Whether this point in time is reached, as far as the coarsest of the backends' clocks can tell."""
        return self.at - anyio.current_time() < _COARSEST_CLOCK


class Call:
    """One call, as the servicer that answers it sees it; on a channel, as its `on_call` sees it.

    :ivar method: the full method name, "/package.Service/Method"
    :ivar deadline: when the client stops waiting; None when it set none
    :ivar metadata: what the client sent with the request
    :ivar peer: the client's address, "127.0.0.1:50000", "unix:", or "" for a transport that has none; on a channel, the
        channel's `authority`
    :ivar user_agent: what the client calls itself
    :ivar trailing_metadata: what `set_trailing_metadata` has collected
    :ivar content_type: of the request, and so of the response; "application/grpc+json" for messages in JSON
    :ivar request_encoding: how the client's messages are compressed: "identity", "gzip" or "deflate"
    :ivar message_was_compressed: whether the message that was read last came compressed: each may or may not
    :ivar accepted_encodings: what the client can read
    :ivar response_encoding: how the response's messages are compressed, see `compress_response`
    :ivar compress_messages: whether the messages that are sent from now on are compressed; only means something
        where `response_encoding` is not "identity"
    """

    __slots__ = (
        "accepted_encodings",
        "compress_messages",
        "content_type",
        "deadline",
        "message_was_compressed",
        "metadata",
        "method",
        "peer",
        "request_encoding",
        "response_encoding",
        "trailing_metadata",
        "user_agent",
    )

    def __init__(
        self,
        method: str,
        metadata: Metadata,
        *,
        deadline: Deadline | None = None,
        peer: str = "",
        user_agent: str | None = None,
        content_type: str = CONTENT_TYPE,
        request_encoding: str = IDENTITY,
        accepted_encodings: frozenset[str] = frozenset([IDENTITY]),
    ) -> None:
        self.method = method
        self.metadata = metadata
        self.deadline = deadline
        self.peer = peer
        self.user_agent = user_agent
        self.content_type = content_type
        self.request_encoding = request_encoding
        self.message_was_compressed = False
        self.accepted_encodings = accepted_encodings
        self.response_encoding = IDENTITY
        self.compress_messages = True
        self.trailing_metadata: list[tuple[str, str | bytes]] = []

    def compress_response(self, encoding: str) -> bool:
        """Compress the response's messages, if the client can read that; call it before anything is sent.

        :param encoding: "gzip", "deflate" or "identity"
        :returns: whether the response will have that encoding
        :raises ValueError: an encoding that is not supported
        """
        if encoding not in ENCODINGS:
            raise ValueError(f"unknown encoding {encoding!r}; choose one of {', '.join(ENCODINGS)}")
        if encoding in self.accepted_encodings:
            self.response_encoding = encoding
        return self.response_encoding == encoding

    def set_trailing_metadata(self, pairs: Iterable[tuple[str, str | bytes]]) -> None:
        """Send these with the status, whatever it will be.

        :param pairs: lower-case keys, printable ASCII values; `bytes` for keys that end in `-bin`
        """
        self.trailing_metadata.extend(pairs)


_current: ContextVar[Call | None] = ContextVar("connectrio_current_call", default=None)


def current_call() -> Call | None:
    """Return the call that this task, or worker thread, answers; None outside of calls."""
    return _current.get()


def set_current_call(call: Call) -> Token[Call | None]:
    """Make `call` the current one of this task, and of the tasks it starts, until `reset_current_call`."""
    return _current.set(call)


def reset_current_call(token: Token[Call | None]) -> None:
    """Undo `set_current_call`: the call is over."""
    _current.reset(token)


OnCallEnd = Callable[[Status, str | None], None]
"""Called when a call has ended: with its status, and the message that came with it."""

OnCall = Callable[[Call], OnCallEnd | None]
"""Called when a call begins, on a server before its servicer, on a channel before anything is sent.

Both functions run in the task of the call, and neither may wait. On a server, the context variables that they set are
the servicer's too. On a channel, what is added to `Call.metadata` is sent with the request. If they raise, that is
logged, once a second at most, and the call goes on."""

log = SafeLogger("connectrio.rpc")


def call_begins(on_call: OnCall, call: Call) -> OnCallEnd | None:
    """Tell `on_call` of a call that begins; return what is to be told of its end."""
    try:
        return on_call(call)
    except Exception as error:  # noqa: BLE001 - it is the application's, and the call is not about it
        log.repeated_warning("on_call failed at the beginning of a call: %(error)s", {"error": _described(error)})
        return None


def call_ended(on_end: OnCallEnd, status: Status, message: str | None) -> None:
    """Tell `on_end` how its call has ended."""
    try:
        on_end(status, message)
    except Exception as error:  # noqa: BLE001 - as above
        log.repeated_warning("on_call failed at the end of a call: %(error)s", {"error": _described(error)})


def _described(error: Exception) -> str:
    return f"{type_name(error)}: {text_of(error)}"
