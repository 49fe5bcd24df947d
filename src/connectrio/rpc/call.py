"""A call's deadline, and what a servicer can learn about the call it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from typing import Any, Self

import anyio
import grpclib.metadata
from grpclib.const import Cardinality, Status
from grpclib.exceptions import ProtocolError

from connectrio.diagnostics import SafeLogger, text_of, type_name
from connectrio.rpc._grpc import CONTENT_TYPE, ENCODINGS, IDENTITY, Metadata

PlainMetadata = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]

# seconds. uvloop's clock shows whole milliseconds, rounded down, so it can show less than a deadline that has passed
_COARSEST_CLOCK = 0.001


class Deadline(grpclib.metadata.Deadline):
    """A point in time by which a call must be done, as grpclib's.

    It is on the clock of the running event loop, so that it agrees with cancel scopes and with a test's virtual clock.

    :ivar at: the point in time, in seconds, as of `anyio.current_time`
    """

    def __init__(self, *, _timestamp: float) -> None:
        super().__init__(_timestamp=_timestamp)
        self.at = _timestamp

    @classmethod
    def from_timeout(cls, timeout: float) -> Self:
        """Return the deadline `timeout` seconds from now. Call it in a running event loop."""
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
    """One call, as its servicer and the server's interceptors see it; on a channel, as its interceptors see it.

    :ivar method: the full method name, "/package.Service/Method"
    :ivar cardinality: whether requests and responses are one message or many
    :ivar deadline: when the client stops waiting; None when it set none. On a channel, an interceptor may set it
    :ivar metadata: what the client sent with the request. On a channel, what will be sent: interceptors may change it
    :ivar peer: the client's address, "127.0.0.1:50000", "unix:", or "" for a transport that has none; on a channel, the
        channel's `authority`
    :ivar user_agent: what the client calls itself
    :ivar previous_attempts: how often the client has made this call before, by its retry policy (gRFC A6)
    :ivar initial_metadata: what `set_initial_metadata` has collected
    :ivar trailing_metadata: what `set_trailing_metadata` has collected
    :ivar status: how the call has ended; CANCELLED as long as it has not. An interceptor asks after `proceed()`
    :ivar status_message: the text that came with the status
    :ivar content_type: of the request, and so of the response; "application/grpc+json" for messages in JSON
    :ivar request_encoding: how the client's messages are compressed: "identity", "gzip" or "deflate"
    :ivar message_was_compressed: whether the message that was read last came compressed: each may or may not
    :ivar accepted_encodings: what the client can read
    :ivar response_encoding: how the response's messages are compressed, see `compress_response`
    :ivar compress_messages: whether the messages that are sent from now on are compressed; only means something
        where `response_encoding` is not "identity"
    """

    __slots__ = (
        "_state",
        "_stream",
        "accepted_encodings",
        "cardinality",
        "compress_messages",
        "content_type",
        "deadline",
        "initial_metadata",
        "message_was_compressed",
        "metadata",
        "method",
        "peer",
        "previous_attempts",
        "request_encoding",
        "response_encoding",
        "status",
        "status_message",
        "trailing_metadata",
        "user_agent",
    )

    def __init__(
        self,
        method: str,
        metadata: Metadata,
        *,
        cardinality: Cardinality = Cardinality.UNARY_UNARY,
        deadline: Deadline | None = None,
        peer: str = "",
        user_agent: str | None = None,
        previous_attempts: int = 0,
        content_type: str = CONTENT_TYPE,
        request_encoding: str = IDENTITY,
        accepted_encodings: frozenset[str] = frozenset([IDENTITY]),
    ) -> None:
        self.method = method
        self.cardinality = cardinality
        self.metadata = metadata
        self.deadline = deadline
        self.peer = peer
        self.user_agent = user_agent
        self.previous_attempts = previous_attempts
        self.content_type = content_type
        self.request_encoding = request_encoding
        self.message_was_compressed = False
        self.accepted_encodings = accepted_encodings
        self.response_encoding = IDENTITY
        self.compress_messages = True
        self.initial_metadata: list[tuple[str, str | bytes]] = []
        self.trailing_metadata: list[tuple[str, str | bytes]] = []
        self.status = Status.CANCELLED
        self.status_message: str | None = None
        self._state: dict[Any, Any] | None = None
        self._stream: Any = None  # the ServerStream while the call is answered: they refer to each other

    @property
    def state(self) -> dict[Any, Any]:
        """A place for what interceptors and servicers tell each other about this call; nothing else uses it."""
        if self._state is None:
            self._state = {}
        return self._state

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

    def set_initial_metadata(self, metadata: PlainMetadata) -> None:
        """Send these with the headers of the response: before its first message, or with the status if it has none.

        :param metadata: a mapping, or pairs: lower-case keys, printable ASCII values; `bytes` under keys in `-bin`
        :raises TypeError: it is neither
        :raises ProtocolError: the headers are sent already; or this is not a call that a server is answering
        """
        self._answering().raise_if_headers_sent()
        self.initial_metadata.extend(_pairs(metadata))

    async def send_initial_metadata(self) -> None:
        """Send the headers of the response now, with what `set_initial_metadata` has collected.

        Otherwise they go with the first message, which may take long. Only a listener of grpclib's may wait here;
        cancelled there, nothing is sent.

        :raises ProtocolError: as `set_initial_metadata`
        :raises ValueError: the metadata cannot be sent
        """
        await self._answering().send_initial_metadata()

    def _answering(self) -> Any:
        if self._stream is None:
            raise ProtocolError(
                f"{self.method} has no response to send initial metadata with: only a call that a server is answering"
                " has one, until its servicer has returned"
            )
        return self._stream

    def set_trailing_metadata(self, metadata: PlainMetadata) -> None:
        """Send these with the status, whatever it will be.

        :param metadata: a mapping, or pairs: lower-case keys, printable ASCII values; `bytes` under keys in `-bin`
        :raises TypeError: it is neither
        """
        self.trailing_metadata.extend(_pairs(metadata))


def _pairs(metadata: PlainMetadata) -> list[tuple[str, str | bytes]]:
    """Return the pairs of `metadata`. What is wrong with it is said here, where the servicer's line is on the stack."""
    pairs: list[Any] = list(metadata.items() if isinstance(metadata, Mapping) else metadata)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"metadata is a mapping, or pairs such as [('x-cost', '5')], got {text_of(pair)} in place of a pair"
            )
    return pairs


_current: ContextVar[Call | None] = ContextVar("connectrio_current_call", default=None)


def current_call() -> Call:
    """Return the call that this task, or worker thread, answers: for servicers and a server's interceptors.

    :raises LookupError: no call is being answered here
    """
    call = _current.get()
    if call is None:
        raise LookupError(
            "current_call() is for code that answers a call: a servicer, an interceptor of a server, and the tasks and"
            " worker threads that these start. This code runs outside of any"
        )
    return call


def find_current_call() -> Call | None:
    """Return what `current_call` returns; None outside of calls."""
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
