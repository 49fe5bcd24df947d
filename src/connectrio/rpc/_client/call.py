"""A call from the client's side, with the interface of grpclib's client stream.

Rules:
1. Every wait is bounded by the call's deadline. When it passes, the stream is reset with CANCEL and the caller gets
   DEADLINE_EXCEEDED.
2. Leaving the block before the status has come resets the stream, so that the server stops working for nobody.
3. Whatever goes wrong with the connection reaches the caller as a `GRPCError`; how a call has failed once is how it
   has failed.
4. Until the response's headers are here the call may move to another stream (see `attempts`).
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, ProtocolError
from grpclib.metadata import encode_metadata
from grpclib.stream import StreamIterator
from multidict import MultiDict

from connectrio._version import __version__
from connectrio.rpc._client.attempts import Attempts
from connectrio.rpc._client.outcome import Outcome
from connectrio.rpc._client.response_status import (
    check_response,
    error_from_termination,
    received_metadata,
    status_from_trailers,
)
from connectrio.rpc._grpc.compression import ACCEPT_ENCODING, IDENTITY, compress, decompress
from connectrio.rpc._grpc.headers import CONTENT_TYPE, Metadata, encode_timeout
from connectrio.rpc._grpc.messages import MessageReader, frame_message, read_message
from connectrio.rpc._http2.client_side import HeadersTooLargeError
from connectrio.rpc._http2.stream import Headers, StreamTerminatedError
from connectrio.rpc.deadline import Deadline

if TYPE_CHECKING:
    from connectrio.rpc._client.channel import Channel

_Send = TypeVar("_Send")
_Recv = TypeVar("_Recv")

USER_AGENT = f"grpc-python-connectrio/{__version__}"


class ClientStream(StreamIterator[_Recv], Generic[_Send, _Recv]):
    """One call: an async context manager that `Channel.request` makes.

    :ivar initial_metadata: what came with the response's headers; None until they are here
    :ivar trailing_metadata: what came with the status; None until it is here
    :ivar compress_messages: whether the messages that are sent from now on are compressed; only means something where
        the channel's `compression` is not "identity"
    :ivar message_was_compressed: whether the message that was received last came compressed: each may or may not
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
        wait_for_ready: bool,
    ) -> None:
        self.initial_metadata: Metadata | None = None
        self.trailing_metadata: Metadata | None = None
        self.compress_messages = True
        self.message_was_compressed = False
        self._channel = channel
        self._method = method
        self._cardinality = cardinality
        self._send_type = send_type
        self._recv_type = recv_type
        self._metadata = metadata
        self._outcome = Outcome(deadline)
        self._attempts = Attempts(channel, self._request_headers, self._outcome, wait_for_ready=wait_for_ready)
        self._reader = MessageReader(channel.options.max_receive_message_size)
        self._messages_sent = 0
        self._messages_received = 0

    # sending

    async def send_request(self, *, end: bool = False) -> None:
        """Open the call: wait for a connection and send the request's headers.

        :param end: nothing will be sent; only for calls that stream their requests
        :raises GRPCError: UNAVAILABLE when there is no connection to be had
        """
        if self._attempts.is_open:
            raise ProtocolError("the request was sent already")
        if end and not self._cardinality.client_streaming:
            raise ProtocolError("a unary request carries one message; send it before ending the request")
        (metadata,) = await self._channel.__dispatch__.send_request(
            cast("Any", self._metadata),
            method_name=self._method,
            deadline=self._outcome.deadline,
            content_type=CONTENT_TYPE,
        )
        self._metadata = cast("Metadata", metadata)
        with self._bounded():
            await self._attempts.open()
        if end:
            await self.end()

    def _request_headers(self) -> Headers:
        headers = [
            (":method", "POST"),
            (":scheme", self._channel.scheme),
            (":path", self._method),
            (":authority", self._channel.authority),
        ]
        deadline = self._outcome.deadline
        if deadline is not None:
            headers.append(("grpc-timeout", encode_timeout(deadline.time_remaining())))
        headers += [("te", "trailers"), ("content-type", CONTENT_TYPE), ("user-agent", USER_AGENT)]
        if self._channel.options.compression != IDENTITY:
            headers.append(("grpc-encoding", self._channel.options.compression))
        headers.append(("grpc-accept-encoding", ACCEPT_ENCODING))
        return [*headers, *encode_metadata(cast("Any", self._metadata))]

    async def send_message(self, message: _Send, *, end: bool = False) -> None:
        """Send a message; the request's headers first, if they are not sent yet.

        Once the server has ended the call, messages are dropped: what it said comes from receiving. Cancelled while it
        waits for the server's window, the message stays in line, and is sent before the next one or by `end`.

        :param end: this is the last message (always so for a unary request)
        """
        if not self._attempts.is_open:
            await self.send_request()
        if not self._cardinality.client_streaming:
            if self._messages_sent:
                raise ProtocolError("a unary request carries one message, and it was sent already")
            end = True
        if self._attempts.outbox.is_ended:
            raise ProtocolError("the request was ended already")
        (message,) = await self._channel.__dispatch__.send_message(message)
        data = self._encode(message)
        self._messages_sent += 1
        if not self._attempts.stream.is_complete:
            self._attempts.outbox.add(data, end=end)
            with self._bounded():
                await self._attempts.flush()

    def _encode(self, message: Any) -> bytes:
        raw = self._channel.codec.encode(message, self._send_type)
        encoding = self._channel.options.compression
        if encoding == IDENTITY or not self.compress_messages:
            return frame_message(raw)
        return frame_message(compress(raw, encoding), compressed=True)

    async def end(self) -> None:
        """Say that no more messages will be sent."""
        stream = self._attempts.stream
        if not self._cardinality.client_streaming and not self._attempts.outbox.is_ended:
            raise ProtocolError("a unary request carries one message; send it before ending the request")
        if not stream.is_complete:
            self._attempts.outbox.end()
            with self._bounded():
                await self._attempts.flush()

    async def send_all(self, messages: AsyncIterable[_Send] | Iterable[_Send]) -> None:
        """Send every one of `messages`, then end the request; no more of them once the server has ended the call.

        An asynchronous generator is closed afterwards, in any case.
        """
        if isinstance(messages, AsyncIterable):
            await self._send_async(messages)
        else:
            for message in messages:
                await self.send_message(message)
                if self._attempts.stream.is_complete:
                    return
                await checkpoint()  # nothing may ever wait, and the server must be heard
        await self.end()

    async def _send_async(self, messages: AsyncIterable[_Send]) -> None:
        async with AsyncExitStack() as stack:
            if isinstance(messages, AsyncGenerator):
                await stack.enter_async_context(aclosing(messages))
            async for message in messages:
                await self.send_message(message)
                if self._attempts.stream.is_complete:
                    return
                await checkpoint()  # as above

    # receiving

    async def recv_initial_metadata(self) -> None:
        """Wait for the response's headers; they are in `initial_metadata` afterwards.

        :raises GRPCError: the call has failed already
        """
        if self.initial_metadata is not None:
            raise ProtocolError("the initial metadata was received already")
        self._outcome.raise_if_failed()
        with self._bounded():
            headers = await self._attempts.headers()
            check_response(headers)
            trailers_only = "grpc-status" in dict(headers)
            metadata = cast("Metadata", MultiDict()) if trailers_only else received_metadata(headers)
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
        self._outcome.raise_if_failed()
        if self._outcome.is_settled:  # nothing is left, late as it may be
            return None
        with self._bounded():
            raw = await self._read()
            if raw is None:
                return None
            if self._messages_received and not self._cardinality.server_streaming:
                raise GRPCError(Status.UNIMPLEMENTED, "a unary response must carry one message, this one has more")
            decoded = self._decode(*raw)
        self._messages_received += 1
        (message,) = await self._channel.__dispatch__.recv_message(decoded)
        return cast("_Recv", message)

    async def _read(self) -> tuple[bool, bytes] | None:
        stream = self._attempts.stream
        try:
            return await read_message(stream, self._reader)
        except GRPCError:
            # a server that fails in the middle of a message says why
            if stream.trailers and status_from_trailers(stream.trailers)[0] is not Status.OK:
                await self._settle(stream.trailers)
            raise

    def _decode(self, compressed: bool, raw: bytes) -> Any:
        self.message_was_compressed = compressed
        if compressed:
            encoding = dict(self._attempts.stream.headers or []).get("grpc-encoding", IDENTITY)
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
        self._outcome.raise_if_failed()
        if not self._outcome.is_settled:
            await self._drain()
            await self._settle(self._attempts.stream.trailers)
        self._raise_for_status()

    async def _drain(self) -> None:
        with self._bounded():
            # messages that nobody asked for must not keep the status away
            while await self._read() is not None:
                self._messages_received += 1

    async def _settle(self, trailers: Headers | None) -> None:
        """Take the status from `trailers`."""
        status, message = status_from_trailers(trailers)
        with self._bounded():
            metadata = received_metadata(trailers or [])
        (received,) = await self._channel.__dispatch__.recv_trailing_metadata(
            cast("Any", metadata), status=status, status_message=message, status_details=None
        )
        self.trailing_metadata = cast("Metadata", received)
        self._outcome.settle(status, message)
        self._raise_for_status()

    def _raise_for_status(self) -> None:
        self._outcome.raise_if_failed()
        if self._messages_received != 1 and not self._cardinality.server_streaming:
            count = self._messages_received or "none"
            raise GRPCError(Status.UNIMPLEMENTED, f"a unary response must carry one message, this one has {count}")

    # the life of the call

    async def cancel(self) -> None:
        """Tell the server that nobody waits for this call any more."""
        if not self._attempts.is_open:
            raise ProtocolError("the request was not sent yet")
        self._fail(Status.CANCELLED, "the client cancelled the call")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._attempts.is_open:
            return
        try:
            if exc_value is None and not self._outcome.is_settled:
                await self.recv_trailing_metadata()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave the call without waiting for anything; the server is told, unless it is done."""
        self._fail(Status.CANCELLED, "the client left the call")
        self._attempts.release()

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Within the deadline; what goes wrong inside this block is how the call ends.

        :raises GRPCError: DEADLINE_EXCEEDED, when the deadline passes; what else the call fails with
        """
        deadline = self._outcome.deadline
        with anyio.CancelScope(deadline=math.inf if deadline is None else deadline.at) as scope:
            try:
                yield
            except StreamTerminatedError as error:
                failure = error_from_termination(error.termination)
                raise self._fail(failure.status, failure.message) from error
            except HeadersTooLargeError as error:
                raise self._fail(Status.INTERNAL, str(error)) from error
            except GRPCError as error:
                failure = self._fail(error.status, error.message)
                if failure.status is error.status:
                    raise
                raise failure from error
        if scope.cancelled_caught:
            failure = self._outcome.expire("" if self._attempts.is_open else self._channel.error)
            self._attempts.reset(failure.message or "")
            raise failure

    def _fail(self, status: Status, message: str | None) -> GRPCError:
        """Settle the call with what went wrong on this side, unless it is settled; the error to raise."""
        failure = self._outcome.settle(status, message)
        self._attempts.reset(failure.message or "")
        return failure
