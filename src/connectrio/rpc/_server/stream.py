"""The stream that a servicer sees: grpclib's, on our transport."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import grpclib.server
from anyio import CapacityLimiter, to_thread
from grpclib.const import Handler, Status
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.events import _DispatchServerEvents
from grpclib.exceptions import GRPCError, ProtocolError
from grpclib.metadata import encode_metadata
from h2.errors import ErrorCodes
from multidict import MultiDict

from connectrio.rpc._grpc.compression import ACCEPT_ENCODING, ENCODINGS, IDENTITY, compress, decompress
from connectrio.rpc._grpc.headers import CONTENT_TYPE, status_headers, trailers_only
from connectrio.rpc._grpc.messages import MessageReader, frame_message
from connectrio.rpc._grpc.read_message import read_message
from connectrio.rpc._http2.stream import Headers, Stream
from connectrio.rpc.call import Call
from connectrio.rpc.options import KIB
from connectrio.rpc.peer import Peer
from connectrio.rpc.status import fit_status_message

# bytes. A message can be made so that decoding it takes half a microsecond for each of its bytes, and the event loop
# should not stand still for more than a few hundredths of a second
_LARGE = 64 * KIB

_Recv = TypeVar("_Recv")
_Send = TypeVar("_Send")


_RESPONSE_HEADERS = {
    encoding: (
        (":status", "200"),
        ("content-type", CONTENT_TYPE),
        *([("grpc-encoding", encoding)] if encoding != IDENTITY else []),
        ("grpc-accept-encoding", ACCEPT_ENCODING),
    )
    for encoding in ENCODINGS
}
_SUCCESS_TRAILERS = tuple(status_headers(Status.OK, None))


class _GrpclibPort:
    """The part of grpclib's HTTP/2 stream that the inherited methods use."""

    __slots__ = ("_stream",)

    # Whether the inherited `send_trailing_metadata` should reset the stream afterwards: `end` below does.
    closable = False

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send_headers(self, headers: Headers, end_stream: bool = False) -> None:
        self._stream.send_headers(headers, end_stream=end_stream)
        if end_stream:
            # the client may stop sending: RFC 9113 §8.1, after a complete response
            self._stream.reset(ErrorCodes.NO_ERROR)

    async def reset(self) -> None:
        self._stream.reset(ErrorCodes.CANCEL, "the servicer cancelled the call")


class ServerStream(grpclib.server.Stream[_Recv, _Send]):
    """A call as grpclib's servicers know it; see `grpclib.server.Stream`.

    Beyond grpclib's: messages over the limit are refused before they are buffered, a unary request is exactly one
    message, and trailing metadata set through `current_call()` goes out with the status.

    :ivar is_cut: a message was sent in part, and the rest never will be
    """

    def __init__(
        self,
        stream: Stream,
        call: Call,
        handler: Handler,
        *,
        codec: CodecBase,
        status_details_codec: StatusDetailsCodecBase | None,
        dispatch: _DispatchServerEvents,
        peer: Peer,
        max_message_size: int,
        decoding: CapacityLimiter,
    ) -> None:
        # grpclib's constructor is not called: it reaches into grpclib's own connection
        self._stream = cast("Any", _GrpclibPort(stream))
        self._http2 = stream
        self._call = call
        self._method_name = call.method
        self._cardinality = handler.cardinality
        self._recv_type = handler.request_type
        self._send_type = handler.reply_type
        self._codec = codec
        self._status_details_codec = status_details_codec
        self._dispatch = dispatch
        self._reader = MessageReader(max_message_size)
        self._first: tuple[bool, bytes] | None = None  # a message that is here, but may not be the only one
        self._max_message_size = max_message_size
        self._decoding = decoding
        self.is_cut = False
        self.deadline = call.deadline
        self.metadata = cast("Any", call.metadata)
        self.user_agent = call.user_agent
        self.peer = cast("Any", peer)

    async def recv_message(self) -> _Recv | None:
        """The next message; None when the client has ended its side. See `grpclib.server.Stream.recv_message`.

        Cancelled while it waits, no message is lost.

        :raises GRPCError: UNIMPLEMENTED when a unary request is not exactly one message, RESOURCE_EXHAUSTED for a
            message over the limit, INTERNAL for one that cannot be decoded
        """
        raw = self._first = self._first or await read_message(self._http2, self._reader)
        unary = not self._cardinality.client_streaming
        if raw is None:
            if unary and not self._messages_received:
                raise GRPCError(Status.UNIMPLEMENTED, "a unary request must carry one message, this one has none")
            return None
        if unary and not self._is_last() and await read_message(self._http2, self._reader) is not None:
            raise GRPCError(Status.UNIMPLEMENTED, "a unary request must carry one message, this one has more")
        try:
            decoded = await self._decode(*raw)
        except GRPCError:
            self._first = None
            raise
        self._first = None
        if self.has_listeners:
            (decoded,) = await self._dispatch.recv_message(decoded)
        self._messages_received += 1
        return cast("_Recv", decoded)

    def _is_last(self) -> bool:
        """Whether it is known already that no message follows the one that was read."""
        return self._http2.is_exhausted and self._reader.is_empty()

    async def _decode(self, compressed: bool, raw: bytes) -> Any:
        """The message; cancelled while it waits, it can be decoded again."""
        self._call.message_was_compressed = compressed
        if compressed:
            raw = decompress(raw, self._call.request_encoding, self._max_message_size)
        if len(raw) < _LARGE:
            return self._decode_now(raw)
        return await to_thread.run_sync(self._decode_now, raw, abandon_on_cancel=True, limiter=self._decoding)

    def _decode_now(self, raw: bytes) -> Any:
        try:
            return self._codec.decode(raw, self._recv_type)
        except Exception as error:
            # any: what a codec raises on malformed bytes is its own affair
            raise GRPCError(
                Status.INTERNAL, f"cannot decode the request as {self._recv_type.__name__}: {error}"
            ) from error

    async def send_message(self, message: _Send) -> None:
        """Send a message, after the initial metadata. See `grpclib.server.Stream.send_message`.

        Cancelled while it waits for the client's window, the message may be cut; then the call can only be failed.
        """
        self._check_can_go_on()
        if not self._send_initial_metadata_done:
            await self.send_initial_metadata()
        if self._send_message_done and not self._cardinality.server_streaming:
            raise ProtocolError("a unary response is one message, and it was sent already")
        if self.has_listeners:
            (message,) = await self._dispatch.send_message(message)
        await self._write(memoryview(self._encode(message)))
        self._send_message_done = True
        self._messages_sent += 1

    def _check_can_go_on(self) -> None:
        if self._send_trailing_metadata_done:
            raise ProtocolError("the call was ended already")
        if self.is_cut:
            raise ProtocolError("sending a message was cancelled half-way; the call can only be failed")

    async def _write(self, data: memoryview) -> None:
        sent = self._http2.send_some(data)
        while sent < len(data):
            self.is_cut = sent > 0
            await self._http2.writable.wait()
            sent += self._http2.send_some(data[sent:])
        self.is_cut = False

    def _encode(self, message: Any) -> bytes:
        raw = self._codec.encode(message, self._send_type)
        if self._call.response_encoding == IDENTITY or not self._call.compress_messages:
            return frame_message(raw)
        return frame_message(compress(raw, self._call.response_encoding), compressed=True)

    async def send_initial_metadata(self, *, metadata: Any = None) -> None:
        """Send the response's headers. See `grpclib.server.Stream.send_initial_metadata`.

        Nothing here waits, so it cannot be cancelled half-way.
        """
        self._check_can_go_on()
        if self._send_initial_metadata_done:
            raise ProtocolError("the initial metadata was sent already")
        headers = _RESPONSE_HEADERS[self._call.response_encoding]
        if metadata or self.has_listeners:
            (metadata,) = await self._dispatch.send_initial_metadata(cast("Any", MultiDict(metadata or ())))
            headers += tuple(encode_metadata(metadata))
        self._http2.send_headers(headers)
        self._send_initial_metadata_done = True

    async def send_trailing_metadata(
        self,
        *,
        status: Status = Status.OK,
        status_message: str | None = None,
        status_details: Any = None,
        metadata: Any = None,
    ) -> None:
        """End the call with a status. See `grpclib.server.Stream.send_trailing_metadata`.

        Nothing here waits, so it cannot be cancelled half-way.
        """
        if status is Status.OK and not self._send_trailing_metadata_done:
            self._check_can_go_on()
            adorned = metadata or self._call.trailing_metadata or status_message or status_details
            if self._send_message_done and not adorned and not self.has_listeners:
                self._end(_SUCCESS_TRAILERS)
                return
        trailing = MultiDict(metadata or ())
        trailing.extend(self._call.trailing_metadata)
        if status_message is not None:
            status_message = fit_status_message(status_message)
        await super().send_trailing_metadata(
            status=status, status_message=status_message, status_details=status_details, metadata=trailing
        )

    def send_bare_status(self, status: Status, message: str) -> None:
        """End the call with a status and nothing that could be wrong with it."""
        done = self._send_initial_metadata_done
        self._end(status_headers(status, message) if done else trailers_only(status, message))

    def _end(self, headers: Headers) -> None:
        self._http2.send_headers(headers, end_stream=True)
        self._http2.reset(ErrorCodes.NO_ERROR)  # the client may stop sending: RFC 9113 §8.1
        self._send_trailing_metadata_done = True

    @property
    def has_listeners(self) -> bool:
        """Whether anybody has asked grpclib for events, who may change what is sent."""
        return bool(self._dispatch._listeners)  # noqa: SLF001 - grpclib has no other way to ask

    @property
    def is_finished(self) -> bool:
        """Whether the servicer has ended the call itself, with a status or by cancelling it."""
        return self._send_trailing_metadata_done or self._cancel_done

    @property
    def lacks_response(self) -> bool:
        """Whether a unary response is still due."""
        return not self._cardinality.server_streaming and not self._send_message_done
