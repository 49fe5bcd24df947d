"""A call from the client's side, with the interface of grpclib's client stream.

Rules:
1. Every wait is bounded by the call's deadline. When it passes, the stream is reset with CANCEL and the caller gets
   DEADLINE_EXCEEDED.
2. Leaving the block before the status has come resets the stream, so that the server stops working for nobody.
3. Whatever goes wrong with the connection reaches the caller as a `GRPCError`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

import anyio
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, ProtocolError
from grpclib.metadata import encode_metadata
from grpclib.stream import StreamIterator
from h2.errors import ErrorCodes
from multidict import MultiDict

from connectrio._version import __version__
from connectrio.rpc._client_status import check_response, error_from_termination, status_from_trailers
from connectrio.rpc._compression import ACCEPT_ENCODING, IDENTITY, compress, decompress
from connectrio.rpc._framing import MessageReader, frame_message
from connectrio.rpc._headers import CONTENT_TYPE, Metadata, decode_metadata, encode_timeout
from connectrio.rpc._messages import read_message, write_bytes
from connectrio.rpc._stream import Headers, Stream, StreamTerminatedError
from connectrio.rpc.deadline import Deadline

if TYPE_CHECKING:
    from connectrio.rpc.channel import Channel

_Send = TypeVar("_Send")
_Recv = TypeVar("_Recv")

USER_AGENT = f"grpc-python-connectrio/{__version__}"


class ClientStream(StreamIterator[_Recv], Generic[_Send, _Recv]):
    """One call: an async context manager that `Channel.request` makes.

    :ivar initial_metadata: what came with the response's headers; None until they are here
    :ivar trailing_metadata: what came with the status; None until it is here
    """

    def __init__(
        self,
        channel: Channel,
        method: str,
        cardinality: Cardinality,
        send_type: type[_Send],
        recv_type: type[_Recv],
        *,
        deadline: Deadline | None,
        metadata: Metadata,
    ) -> None:
        self.initial_metadata: Metadata | None = None
        self.trailing_metadata: Metadata | None = None
        self._channel = channel
        self._method = method
        self._cardinality = cardinality
        self._send_type = send_type
        self._recv_type = recv_type
        self._deadline = deadline
        self._metadata = metadata
        self._reader = MessageReader(channel.options.max_receive_message_size)
        self._stream: Stream | None = None
        self._messages_sent = 0
        self._messages_received = 0
        self._status: tuple[Status, str | None] | None = None

    # sending

    async def send_request(self, *, end: bool = False) -> None:
        """Open the call: wait for a connection and send the request's headers.

        :param end: nothing will be sent; only for calls that stream their requests
        :raises GRPCError: UNAVAILABLE when there is no connection to be had
        """
        if self._stream is not None:
            raise ProtocolError("the request was sent already")
        if end and not self._cardinality.client_streaming:
            raise ProtocolError("a unary request carries one message; send it before ending the request")
        (metadata,) = await self._channel.__dispatch__.send_request(
            cast("Any", self._metadata), method_name=self._method, deadline=self._deadline, content_type=CONTENT_TYPE
        )
        self._metadata = cast("Metadata", metadata)
        with self._until_deadline():
            connection = await self._channel.connected()
            # nothing waits between the connection's consent and the stream
            self._stream = connection.open(self._request_headers(), end_stream=end)

    def _request_headers(self) -> Headers:
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", self._method),
            (":authority", self._channel.authority),
        ]
        if self._deadline is not None:
            headers.append(("grpc-timeout", encode_timeout(self._deadline.time_remaining())))
        headers += [("te", "trailers"), ("content-type", CONTENT_TYPE), ("user-agent", USER_AGENT)]
        if self._channel.options.compression != IDENTITY:
            headers.append(("grpc-encoding", self._channel.options.compression))
        headers.append(("grpc-accept-encoding", ACCEPT_ENCODING))
        return [*headers, *encode_metadata(cast("Any", self._metadata))]

    async def send_message(self, message: _Send, *, end: bool = False) -> None:
        """Send a message; the request's headers first, if they are not sent yet.

        Once the server has ended the call, messages are dropped: what it said comes from receiving.

        :param end: this is the last message (always so for a unary request)
        """
        if self._stream is None:
            await self.send_request()
        stream = self._opened()
        if not self._cardinality.client_streaming:
            if self._messages_sent:
                raise ProtocolError("a unary request carries one message, and it was sent already")
            end = True
        if stream.local_is_done and stream.termination is None:
            raise ProtocolError("the request was ended already")
        (message,) = await self._channel.__dispatch__.send_message(message)
        data = self._encode(message)
        with self._until_deadline():
            try:
                await write_bytes(stream, data, end_stream=end)
            except StreamTerminatedError:
                self._raise_unless_answered()
        self._messages_sent += 1

    def _encode(self, message: Any) -> bytes:
        raw = self._channel.codec.encode(message, self._send_type)
        encoding = self._channel.options.compression
        if encoding == IDENTITY:
            return frame_message(raw)
        return frame_message(compress(raw, encoding), compressed=True)

    async def end(self) -> None:
        """Say that no more messages will be sent."""
        stream = self._opened()
        if stream.local_is_done:
            return
        if not self._cardinality.client_streaming:
            raise ProtocolError("a unary request carries one message; send it before ending the request")
        stream.send_some(memoryview(b""), end_stream=True)

    async def send_all(self, messages: AsyncIterable[_Send] | Iterable[_Send]) -> None:
        """Send every one of `messages`, then end the request."""
        if isinstance(messages, AsyncIterable):
            async for message in messages:
                await self.send_message(message)
        else:
            for message in messages:
                await self.send_message(message)
        await self.end()

    # receiving

    async def recv_initial_metadata(self) -> None:
        """Wait for the response's headers; they are in `initial_metadata` afterwards.

        :raises GRPCError: the call has failed already
        """
        stream = self._opened()
        if self.initial_metadata is not None:
            raise ProtocolError("the initial metadata was received already")
        with self._until_deadline():
            while stream.headers is None:
                if stream.termination is not None:
                    raise error_from_termination(stream.termination)
                await stream.readable.wait()
        headers = stream.headers
        check_response(headers)
        trailers_only = "grpc-status" in dict(headers)
        metadata = MultiDict() if trailers_only else decode_metadata(headers)
        (received,) = await self._channel.__dispatch__.recv_initial_metadata(cast("Any", metadata))
        self.initial_metadata = cast("Metadata", received)
        if trailers_only:
            await self._settle(headers)

    async def recv_message(self) -> _Recv | None:
        """The next message; None when the server has sent its last.

        Cancelled while it waits, no message is lost.

        :raises GRPCError: the call has failed
        """
        if self.initial_metadata is None:
            await self.recv_initial_metadata()
        stream = self._opened()
        with self._until_deadline():
            try:
                raw = await read_message(stream, self._reader)
            except StreamTerminatedError as error:
                raise error_from_termination(error.termination) from error
            except GRPCError as error:
                stream.reset(ErrorCodes.CANCEL, error.message or "")
                raise
        if raw is None:
            return None
        self._messages_received += 1
        if self._messages_received > 1 and not self._cardinality.server_streaming:
            raise GRPCError(Status.UNIMPLEMENTED, "a unary response must carry one message, this one has more")
        (message,) = await self._channel.__dispatch__.recv_message(self._decode(*raw))
        return cast("_Recv", message)

    def _decode(self, compressed: bool, raw: bytes) -> Any:
        if compressed:
            encoding = dict(self._opened().headers or []).get("grpc-encoding", IDENTITY)
            raw = decompress(raw, encoding, self._channel.options.max_receive_message_size)
        try:
            return self._channel.codec.decode(raw, self._recv_type)
        except Exception as error:
            # any: what a codec raises on malformed bytes is its own affair
            raise GRPCError(
                Status.INTERNAL, f"cannot decode the response as {self._recv_type.__name__}: {error}"
            ) from error

    async def recv_trailing_metadata(self) -> None:
        """Wait for the status; the trailers' metadata is in `trailing_metadata` afterwards.

        :raises GRPCError: the status is not OK
        """
        if self.initial_metadata is None:
            await self.recv_initial_metadata()
        stream = self._opened()
        with self._until_deadline():
            while not stream.is_complete:
                if stream.termination is not None:
                    raise error_from_termination(stream.termination)
                if stream.take() is None:  # messages that nobody asked for must not keep the status away
                    await stream.readable.wait()
        if self._status is None:
            await self._settle(stream.trailers)
        self._raise_for_status()

    async def _settle(self, trailers: Headers | None) -> None:
        """Take the status from `trailers`."""
        status, message = status_from_trailers(trailers)
        (metadata,) = await self._channel.__dispatch__.recv_trailing_metadata(
            cast("Any", decode_metadata(trailers or [])), status=status, status_message=message, status_details=None
        )
        self.trailing_metadata = cast("Metadata", metadata)
        self._status = (status, message)
        self._raise_for_status()

    def _raise_for_status(self) -> None:
        if self._status is not None and self._status[0] is not Status.OK:
            raise GRPCError(*self._status)
        if not self._messages_received and not self._cardinality.server_streaming:
            raise GRPCError(Status.UNIMPLEMENTED, "a unary response must carry one message, this one has none")

    # the life of the call

    async def cancel(self) -> None:
        """Tell the server that nobody waits for this call any more."""
        self._opened().reset(ErrorCodes.CANCEL, "the client cancelled the call")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is None:
            return
        try:
            if exc_value is None and self._stream.termination is None and self._status is None:
                await self.recv_trailing_metadata()
        finally:
            self._stream.reset(ErrorCodes.CANCEL, "the client left the call")
            self._stream.release()

    @contextmanager
    def _until_deadline(self) -> Iterator[None]:
        """:raises GRPCError: DEADLINE_EXCEEDED, when the deadline passes inside this block"""
        with anyio.CancelScope(deadline=math.inf if self._deadline is None else self._deadline.at) as scope:
            yield
        if scope.cancelled_caught:
            if self._stream is not None:
                self._stream.reset(ErrorCodes.CANCEL, "the deadline passed")
            raise GRPCError(Status.DEADLINE_EXCEEDED, "the deadline passed before the call was done")

    def _raise_unless_answered(self) -> None:
        """Sending failed: fine when the server has answered already, and else the call's end."""
        stream = self._opened()
        if not stream.is_complete and stream.termination is not None:
            raise error_from_termination(stream.termination)

    def _opened(self) -> Stream:
        if self._stream is None:
            raise ProtocolError("the request was not sent yet")
        return self._stream
