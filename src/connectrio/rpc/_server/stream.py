"""The stream that a servicer sees: the contract of `grpclib.server.Stream`, on our transport."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Generic, NoReturn, TypeVar, cast

import anyio
from anyio import to_thread
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError, ProtocolError
from grpclib.metadata import encode_bin_value
from grpclib.stream import StreamIterator
from h2.errors import ErrorCodes
from multidict import MultiDict

from connectrio.rpc._grpc import (
    ACCEPT_ENCODING,
    IDENTITY,
    MessageReader,
    TooLargeError,
    compress,
    decompress,
    encode_metadata,
    frame_message,
    read_message,
)
from connectrio.rpc._http2.stream import Headers, Stream
from connectrio.rpc._server.memory import SMALL_ON_THE_WIRE, NoRoomError
from connectrio.rpc._server.requests import CallContext
from connectrio.rpc.call import Call
from connectrio.rpc.garbage import without_collections
from connectrio.rpc.options import KIB
from connectrio.rpc.status import fit_status_message, message_room, status_headers, trailers_only

# bytes. A message can be made so that decoding it takes half a microsecond for each of its bytes, and the event loop
# should not stand still for more than a few hundredths of a second
_LARGE_MESSAGE = 64 * KIB

_Recv = TypeVar("_Recv")
_Send = TypeVar("_Send")


@cache  # a server has a few content types
def _response_headers(content_type: str, encoding: str) -> tuple[tuple[str, str], ...]:
    return (
        (":status", "200"),
        ("content-type", content_type),
        *([("grpc-encoding", encoding)] if encoding != IDENTITY else []),
        ("grpc-accept-encoding", ACCEPT_ENCODING),
    )


_SUCCESS_TRAILERS = tuple(status_headers(Status.OK, None))


class CallState(enum.Enum):
    """Where a call is on the server. It only moves down this list, except from HALF_SENT back to MESSAGE_SENT."""

    WAITING = enum.auto()  # admitted; more of what the client sent is being read
    RUNNING = enum.auto()  # the servicer is working, or next; nothing was sent
    HEADERS_SENT = enum.auto()
    MESSAGE_SENT = enum.auto()  # one at least
    HALF_SENT = enum.auto()  # a message was sent in part; if the rest does not follow, the call can only be failed
    ENDED = enum.auto()  # the status was sent
    CANCELLED = enum.auto()  # the servicer reset the stream


# the servicer has ended the call itself
FINISHED = (CallState.ENDED, CallState.CANCELLED)
_CANNOT_SEND = (CallState.HALF_SENT, *FINISHED)


class ServerStream(StreamIterator[_Recv], Generic[_Recv, _Send]):
    """A call as grpclib's servicers know it; see `grpclib.server.Stream`.

    Beyond grpclib's: messages over the limit are refused before they are buffered, a unary request is exactly one
    message, and metadata set through `current_call()` goes out with the response's headers and with the status.

    :ivar state: where the call is
    :ivar metadata: what the client sent along
    :ivar deadline: when the client stops waiting; None when it did not say
    :ivar user_agent: what the client calls itself
    :ivar peer: who the client is: `addr()` and `cert()`
    :ivar listeners: who has asked grpclib for events; they may change what is sent
    :ivar encoding_error: of the last message that could not be encoded
    """

    def __init__(self, http2_stream: Stream, handler: Handler, call: Call, context: CallContext) -> None:
        self.state = CallState.WAITING
        self.metadata = cast("Any", call.metadata)
        self.deadline = call.deadline
        self.user_agent = call.user_agent
        self.peer = context.peer
        self.encoding_error: Exception | None = None
        self._http2_stream = http2_stream
        self._handler = handler
        self._call = call
        self._context = context
        self._codec = context.codecs[call.content_type]
        self.listeners = context.grpclib_events._listeners  # noqa: SLF001 - grpclib has no other way to ask
        self._reader = MessageReader(context.options.max_receive_message_size)
        self._held_message: tuple[bool, bytes] | None = None  # a message that is here, but may not be the only one
        self._has_received = False

    async def recv_message(self) -> _Recv | None:
        """Return the next message; None when the client has ended its side.

        Cancelled while it waits, no message is lost.

        :raises GRPCError: UNIMPLEMENTED when a unary request is not exactly one message, RESOURCE_EXHAUSTED for a
            message over the limit, INTERNAL for one that cannot be decoded
        """
        http2_stream, reader, wait = self._http2_stream, self._reader, self._wait_for_rest
        raw = self._held_message = self._held_message or await read_message(http2_stream, reader, wait)
        is_unary = not self._handler.cardinality.client_streaming
        if raw is None:
            if is_unary and not self._has_received:
                raise GRPCError(Status.UNIMPLEMENTED, "a unary request must carry one message, this one has none")
            return None
        if is_unary:
            is_last = http2_stream.is_exhausted and not len(reader)
            if not is_last and await read_message(http2_stream, reader, wait) is not None:
                raise GRPCError(Status.UNIMPLEMENTED, "a unary request must carry one message, this one has more")
        compressed, data = raw
        self._call.message_was_compressed = compressed
        try:
            if compressed or len(data) >= SMALL_ON_THE_WIRE:
                message = await self._decode_carefully(data, is_compressed=compressed)
            else:
                message = self._decode(data)
        except GRPCError:
            self._held_message = None
            raise
        if self.listeners:
            (message,) = await self._context.grpclib_events.recv_message(message)
        self._held_message = None
        self._has_received = True
        return cast("_Recv", message)

    async def _wait_for_rest(self) -> None:
        """Wait until more of the request is here."""
        http2_stream = self._http2_stream
        is_unary = not self._handler.cardinality.client_streaming
        deadline = http2_stream.opened_at + self._context.options.request_timeout if is_unary else math.inf
        with self._holding(len(self._reader), deadline):
            await http2_stream.readable.wait()

    @contextmanager
    def _holding(self, size: int, deadline: float = math.inf) -> Iterator[None]:
        """Count `size` bytes of the request while the block waits, and end the wait if they are too many.

        :param deadline: on the clock of the event loop
        :raises GRPCError: DEADLINE_EXCEEDED or RESOURCE_EXHAUSTED
        """
        options, is_refused = self._context.options, False

        def refuse() -> None:
            nonlocal is_refused
            is_refused = True
            scope.cancel()

        with anyio.CancelScope(deadline=deadline) as scope, self._context.memory.holding(size, refuse):
            yield
        if is_refused:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED,
                f"unfinished requests hold more than {options.max_request_memory} bytes of this server's memory"
                " (max_request_memory), and this was one of the largest; try again",
            )
        if scope.cancelled_caught:
            raise GRPCError(
                Status.DEADLINE_EXCEEDED,
                f"the request did not arrive within {options.request_timeout:g} s (request_timeout)",
            )

    async def _decode_carefully(self, data: bytes, *, is_compressed: bool) -> Any:
        """Return the message in `data`; what is large is left to a thread, one at a time.

        A compressed one is decompressed in the thread as well, so that it is small while it waits for its turn.
        """
        limit, encoding = self._context.options.max_receive_message_size, self._call.request_encoding
        size = 0

        def decode(most: int) -> Any:
            nonlocal size
            whole = decompress(data, encoding, most) if is_compressed else data
            size = len(whole)
            return self._decode(whole)

        def decode_in_thread() -> Any:
            """Return the message, or the error without what was decoded by then, which its traceback would hold."""
            with without_collections():  # full ones would visit all parts that were decoded by then
                try:
                    return decode(limit)
                except GRPCError as error:
                    each: BaseException | None = error
                    while each is not None:
                        each.__traceback__ = None
                        each = each.__cause__ or each.__context__
                    return error

        if len(data) < _LARGE_MESSAGE:
            try:
                message = decode(min(limit, _LARGE_MESSAGE))
            except TooLargeError:
                pass
            else:
                return self._kept(message, size)
        with self._holding(len(data)):
            async with self._context.decode_turn:
                one = anyio.CapacityLimiter(1)
                decoded = await to_thread.run_sync(decode_in_thread, abandon_on_cancel=True, limiter=one)
        if isinstance(decoded, GRPCError):
            try:
                raise decoded
            finally:
                del decoded  # this frame is in its traceback
        return self._kept(decoded, size)

    def _kept(self, message: Any, size: int) -> Any:
        """Return a message that was decoded from `size` bytes.

        :raises GRPCError: RESOURCE_EXHAUSTED, there is no memory for it
        """
        try:
            self._context.memory.keep(message, size)
        except NoRoomError:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED,
                "large requests that are being answered hold all the memory that this server has for them"
                f" (max_request_memory, {self._context.options.max_request_memory} bytes, by estimate); try again",
            ) from None
        return message

    def _decode(self, data: bytes) -> Any:
        kind = self._handler.request_type
        try:
            return self._codec.decode(data, kind)
        except Exception as error:
            # any: a codec may raise anything when the bytes are malformed
            raise GRPCError(Status.INTERNAL, f"cannot decode the request as {kind.__name__}: {error}") from error

    async def send_initial_metadata(self, *, metadata: Any = None) -> None:
        """Send the response's headers. Only a listener of grpclib's may wait here; cancelled there, nothing is sent."""
        if self.state in _CANNOT_SEND:
            self._raise_cannot_send()
        if self.state is not CallState.RUNNING:
            self.raise_if_headers_sent()
        call = self._call
        headers = _response_headers(call.content_type, call.response_encoding)
        if metadata or call.initial_metadata or self.listeners:
            initial = MultiDict(call.initial_metadata)
            initial.extend(metadata or ())
            (initial,) = await self._context.grpclib_events.send_initial_metadata(cast("Any", initial))
            headers += tuple(encode_metadata(initial))
        self._http2_stream.send_headers(headers)
        self.state = CallState.HEADERS_SENT

    def raise_if_headers_sent(self) -> None:
        """Do nothing while the response's headers can still be changed.

        :raises ProtocolError: they are sent already
        """
        if self.state is not CallState.RUNNING:
            raise ProtocolError(
                "the initial metadata was sent already: it goes with the response's headers, which are sent with its"
                " first message or by send_initial_metadata(). Set it before, or send trailing metadata"
            )

    async def send_message(self, message: _Send) -> None:
        """Send a message, after the initial metadata.

        Cancelled while it waits for the client's window, the message may be cut; then the call can only be failed.

        :raises GRPCError: RESOURCE_EXHAUSTED, the client does not read
        :raises EncodeError: the message cannot be encoded, and nothing of it was sent; messages that are not
            betterproto2's raise errors of their own
        """
        if self.state in _CANNOT_SEND:
            self._raise_cannot_send()
        handler, call, http2_stream = self._handler, self._call, self._http2_stream
        if self.state is CallState.RUNNING:
            await self.send_initial_metadata()
        if self.state is CallState.MESSAGE_SENT and not handler.cardinality.server_streaming:
            raise ProtocolError("a unary response is one message, and it was sent already")
        if self.listeners:
            (message,) = await self._context.grpclib_events.send_message(message)
        try:
            encoded = self._codec.encode(message, handler.reply_type)
        except TypeError:  # no message of this method: a fault of the servicer like any other
            raise
        except Exception as error:
            self.encoding_error = error
            raise
        if call.response_encoding == IDENTITY or not call.compress_messages:
            data = memoryview(frame_message(encoded))
        else:
            data = memoryview(frame_message(compress(encoded, call.response_encoding), compressed=True))
        sent = http2_stream.send_some(data)
        if sent < len(data):
            await self._send_rest(data[sent:], is_begun=sent > 0)
        self.state = CallState.MESSAGE_SENT

    async def _send_rest(self, data: memoryview, *, is_begun: bool) -> None:
        """Send what the client's windows did not take at once.

        :raises GRPCError: RESOURCE_EXHAUSTED, the client does not read
        """
        sent, http2_stream = 0, self._http2_stream
        seconds = self._context.options.write_stall_timeout
        with anyio.move_on_after(seconds):
            while sent < len(data):
                if is_begun or sent:
                    self.state = CallState.HALF_SENT
                await http2_stream.writable.wait()
                sent += http2_stream.send_some(data[sent:])
            return
        raise GRPCError(
            Status.RESOURCE_EXHAUSTED,
            f"the client has not read a message within {seconds:g} s (write_stall_timeout); read faster, or cancel",
        )

    async def send_trailing_metadata(
        self,
        *,
        status: Status = Status.OK,
        status_message: str | None = None,
        status_details: Any = None,
        metadata: Any = None,
    ) -> None:
        """End the call with a status. Only a listener of grpclib's may wait here; cancelled there, nothing is sent."""
        call, context = self._call, self._context
        if self.state in FINISHED:
            how = "the status was already sent" if self.state is CallState.ENDED else "the call was already cancelled"
            raise ProtocolError(f"the call cannot end with {status.name}: {how}")
        if status is Status.OK:
            has_extras = metadata or call.trailing_metadata or status_message or status_details
            if self.state is CallState.MESSAGE_SENT and not has_extras and not self.listeners:
                self._end(_SUCCESS_TRAILERS)
                call.status = Status.OK
                return
            if self.state is CallState.HALF_SENT:
                self._raise_cannot_send()
            if self.lacks_response:
                raise ProtocolError("a unary response with the status OK is one message, and none was sent")
        limit = self._http2_stream.header_list_limit
        if call.initial_metadata and self.state is CallState.RUNNING:
            await self.send_initial_metadata()
        if status_message is not None:
            status_message = fit_status_message(status_message, message_room(limit))
        headers = self._status_headers(status, status_message)
        if status_details is not None and context.status_details_codec is not None:
            details = context.status_details_codec.encode(status, status_message, status_details)
            headers.append(("grpc-status-details-bin", encode_bin_value(details).decode("ascii")))
        trailing = MultiDict(metadata or ())
        trailing.extend(call.trailing_metadata)
        (trailing,) = await context.grpclib_events.send_trailing_metadata(
            cast("Any", trailing), status=status, status_message=status_message, status_details=status_details
        )
        self._end([*headers, *encode_metadata(cast("Any", trailing))])
        call.status, call.status_message = status, status_message

    def send_bare_status(self, status: Status, message: str) -> None:
        """End the call with a status and nothing that could be wrong with it."""
        self._end(self._status_headers(status, message))
        self._call.status, self._call.status_message = status, message

    def _status_headers(self, status: Status, message: str | None) -> list[tuple[str, str]]:
        """Return the trailers with a status, or the whole response if nothing was sent yet."""
        limit = self._http2_stream.header_list_limit
        if self.state is CallState.RUNNING:
            return list(trailers_only(status, message, limit, self._call.content_type))
        return list(status_headers(status, message, limit))

    async def cancel(self) -> None:
        """Reset the stream: the client gets CANCEL and no status."""
        if self.state is CallState.CANCELLED:
            raise ProtocolError("the call was cancelled already")
        self._http2_stream.reset(ErrorCodes.CANCEL, "the servicer cancelled the call")
        self.state = CallState.CANCELLED

    @property
    def lacks_response(self) -> bool:
        """Whether a unary response is still due."""
        is_unary = not self._handler.cardinality.server_streaming
        return is_unary and self.state in (CallState.RUNNING, CallState.HEADERS_SENT)

    def _raise_cannot_send(self) -> NoReturn:
        """Raise what says why nothing can be sent.

        :raises StreamTerminatedError: the stream was cut short, by either side
        :raises ProtocolError: the call has ended, or a message was cut
        """
        if self.state is CallState.ENDED:  # asked first: with the status the stream may have been reset, by us
            raise ProtocolError("the call was ended already")
        self._http2_stream.raise_if_terminated()
        raise ProtocolError("sending a message was cancelled half-way; the call can only be failed")

    def _end(self, headers: Headers) -> None:
        self._http2_stream.send_headers(headers, end_stream=True)
        # the client may stop sending: RFC 9113 §8.1, after a complete response
        self._http2_stream.reset(ErrorCodes.NO_ERROR)
        self.state = CallState.ENDED
