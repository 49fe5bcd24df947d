"""A call from the client's side, with the interface of grpclib's client stream.

Rules:
1. Every wait is bounded by the call's deadline. When it passes, the stream is reset with CANCEL and the caller gets
   DEADLINE_EXCEEDED.
2. Leaving the block before the status has come resets the stream, so that the server does not work in vain.
3. Whatever goes wrong with the connection reaches the caller as a `GRPCError`. The first failure of a call stays its
   failure.
4. Until the response's headers are here the call may move to another stream (see `attempts`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, ProtocolError
from grpclib.stream import StreamIterator
from multidict import MultiDict

from connectrio._version import __version__
from connectrio.rpc._client.attempts import Attempts, ChannelContext
from connectrio.rpc._client.response_metadata import show_outcome
from connectrio.rpc._client.response_status import (
    CallEndedError,
    Outcome,
    check_response,
    details_from_trailers,
    error_from_termination,
    received_metadata,
    status_from_trailers,
)
from connectrio.rpc._grpc import (
    ACCEPT_ENCODING,
    IDENTITY,
    MessageReader,
    Metadata,
    compress,
    decompress,
    encode_metadata,
    encode_timeout,
    frame_message,
    read_message,
)
from connectrio.rpc._http2.connection import HeadersTooLargeError
from connectrio.rpc._http2.stream import Headers, StreamTerminatedError
from connectrio.rpc.call import Call, Deadline, OnCallEnd, call_begins, call_ended

_Send = TypeVar("_Send")
_Recv = TypeVar("_Recv")

USER_AGENT = f"grpc-python-connectrio/{__version__}"


class ClientStream(StreamIterator[_Recv], Generic[_Send, _Recv]):
    """One call: an async context manager, made by `Channel.request`.

    :param call: what the channel's interceptors know of it; None if there are none
    :ivar context: what the call shares with the others of its channel
    :ivar compress_messages: whether messages sent from now on are compressed; without effect if the channel's
        `compression` is "identity"
    :ivar message_was_compressed: whether the message received last came compressed; it differs from message to message
    """

    def __init__(
        self,
        context: ChannelContext,
        method: str,
        cardinality: Cardinality,
        send_type: type[_Send],
        recv_type: type[_Recv],
        *,
        deadline: Deadline | None,
        metadata: Metadata,
        wait_for_ready: bool,
        call: Call | None = None,
    ) -> None:
        self.compress_messages = True
        self.message_was_compressed = False
        self.context = context
        self._method = method
        self._cardinality = cardinality
        self._send_type = send_type
        self._recv_type = recv_type
        self._metadata: Any = metadata
        self._metadata_headers: Headers = ()
        self._outcome = Outcome(deadline)
        show_outcome(self._outcome)
        self._attempts = Attempts(
            context,
            self._request_headers,
            self._outcome,
            wait_for_ready=wait_for_ready,
            policy=context.options.method_config(method).retry,
        )
        self._reader = MessageReader(context.options.max_receive_message_size)
        self._messages_sent = 0
        self._messages_received = 0
        self._call = call
        self._on_end: OnCallEnd | None = None

    @property
    def initial_metadata(self) -> Metadata | None:
        """The metadata of the response's headers; None until they are here."""
        return self._outcome.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        """The metadata of the trailers; None until they are here."""
        return self._outcome.trailing_metadata

    # sending

    async def send_request(self, *, end: bool = False) -> None:
        """Open the call: wait for a connection and send the request's headers.

        :param end: no message will be sent; only for calls that stream their requests
        :raises GRPCError: UNAVAILABLE when no server can be reached
        :raises ValueError: the metadata cannot be sent
        """
        if self._attempts.is_open:
            raise ProtocolError("the request was sent already")
        if end and not self._cardinality.client_streaming:
            raise ProtocolError("a unary request carries one message; send it before ending the request")
        (self._metadata,) = await self.context.grpclib_events.send_request(
            self._metadata,
            method_name=self._method,
            deadline=self._outcome.deadline,
            content_type=self.context.content_type,
        )
        self._metadata_headers = encode_metadata(self._metadata)
        with self._within_deadline():
            await self._attempts.open()
        if end:
            await self.end()

    def _request_headers(self) -> Headers:
        headers = [
            (":method", "POST"),
            (":scheme", self.context.scheme),
            (":path", self._method),
            (":authority", self.context.authority),
        ]
        deadline = self._outcome.deadline
        if deadline is not None:
            headers.append(("grpc-timeout", encode_timeout(deadline.time_remaining())))
        previous = self._attempts.retries.previous_attempts
        if previous:
            headers.append(("grpc-previous-rpc-attempts", str(previous)))
        headers += [("te", "trailers"), ("content-type", self.context.content_type), ("user-agent", USER_AGENT)]
        if self.context.options.compression != IDENTITY:
            headers.append(("grpc-encoding", self.context.options.compression))
        headers.append(("grpc-accept-encoding", ACCEPT_ENCODING))
        return [*headers, *self._metadata_headers]

    async def send_message(self, message: _Send, *, end: bool = False) -> None:
        """Send a message; the request's headers first, if they are not sent yet.

        Cancelled while it waits for the server's window, the message stays in line, and is sent before the next one or
        by `end`. That it was sent does not say that the server has read it.

        :param end: this is the last message (always so for a unary request)
        :raises GRPCError: the call has failed, with this status; a status that comes before all of a unary request is
            sent is raised where the response is received
        :raises CallEndedError: the server has ended the call with OK, and the message was not sent, or only in part
        """
        if not self._attempts.is_open:
            await self.send_request()
        if not self._cardinality.client_streaming:
            if self._messages_sent:
                raise ProtocolError("a unary request carries one message, and it was sent already")
            end = True
        if self._attempts.outbox.is_ended:
            raise ProtocolError("the request was ended already")
        self._raise_if_answered()
        (message,) = await self.context.grpclib_events.send_message(message)
        raw = self.context.codec.encode(message, self._send_type)
        encoding = self.context.options.compression
        if encoding == IDENTITY or not self.compress_messages:
            data = frame_message(raw)
        else:
            data = frame_message(compress(raw, encoding), compressed=True)
        self._messages_sent += 1
        if not self._attempts.is_answered:
            self._attempts.outbox.add(data, end=end)
            with self._within_deadline():
                is_sent = await self._attempts.flush()
            if not is_sent:
                self._raise_if_answered()

    def _raise_if_answered(self) -> None:
        """Do nothing while the server may read messages. The status of a unary request is raised with its response.

        :raises GRPCError: the server has ended the call with this status
        :raises CallEndedError: the same with OK
        """
        if not self._attempts.is_answered or not self._cardinality.client_streaming:
            return
        stream = self._attempts.stream
        self._outcome.raise_if_failed()
        trailers = stream.trailers or ()
        if stream.is_trailers_only:
            trailers = stream.headers or ()
            check_response(trailers, content_type=self.context.content_type)
        status, message = status_from_trailers(trailers)
        if status is Status.OK:
            raise CallEndedError
        details = details_from_trailers(trailers, status, message, self.context.status_details_codec)
        raise GRPCError(status, message, details)

    async def end(self) -> None:
        """Tell the server that no more messages will be sent."""
        is_answered = self._attempts.is_answered
        if not self._cardinality.client_streaming and not self._attempts.outbox.is_ended:
            raise ProtocolError("a unary request carries one message; send it before ending the request")
        if not is_answered:
            self._attempts.outbox.end()
            with self._within_deadline():
                await self._attempts.flush()

    @property
    def is_answered(self) -> bool:
        """Whether the server has ended the call for good, so that it reads no more messages."""
        return self._attempts.is_answered

    # receiving

    async def recv_initial_metadata(self) -> None:
        """Wait for the response's headers; their metadata is in `initial_metadata` afterwards.

        :raises GRPCError: the call has failed already
        """
        if self.initial_metadata is not None:
            raise ProtocolError("the initial metadata was received already")
        self._outcome.raise_if_failed()
        with self._within_deadline():
            headers = await self._attempts.response_headers()
            trailers_only = self._attempts.stream.is_trailers_only
            check_response(headers, trailers_only=trailers_only, content_type=self.context.content_type)
            metadata = MultiDict() if trailers_only else received_metadata(headers)
        (self._outcome.initial_metadata,) = await self.context.grpclib_events.recv_initial_metadata(metadata)
        if trailers_only:
            await self._settle(headers)

    async def recv_message(self) -> _Recv | None:
        """Return the next message; None when the server has sent its last.

        Cancelled while it waits, no message is lost.

        :raises GRPCError: the call has failed
        """
        if self.initial_metadata is None:
            await self.recv_initial_metadata()
        self._outcome.raise_if_failed()
        if self._outcome.is_settled:  # the call is over, even if the deadline has passed since
            return None
        with self._within_deadline():
            raw = await self._read_message()
            if raw is None:
                return None
            if self._messages_received and not self._cardinality.server_streaming:
                raise GRPCError(Status.UNIMPLEMENTED, "a unary response must carry one message, this one has more")
            decoded = self._decode(*raw)
        self._messages_received += 1
        message: _Recv
        (message,) = await self.context.grpclib_events.recv_message(decoded)
        return message

    async def _read_message(self) -> tuple[bool, bytes] | None:
        stream = self._attempts.stream
        try:
            return await read_message(stream, self._reader, stream.readable.wait)
        except GRPCError:
            # a server that fails in the middle of a message says why in its trailers
            if stream.trailers and status_from_trailers(stream.trailers)[0] is not Status.OK:
                await self._settle(stream.trailers)
            raise

    def _decode(self, compressed: bool, raw: bytes) -> Any:
        self.message_was_compressed = compressed
        if compressed:
            encoding = dict(self._attempts.stream.headers or []).get("grpc-encoding", IDENTITY)
            raw = decompress(raw, encoding, self.context.options.max_receive_message_size)
        try:
            return self.context.codec.decode(raw, self._recv_type)
        except Exception as error:
            # any exception: codecs are free in what they raise for malformed bytes
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
            with self._within_deadline():
                # the status comes after messages that nobody has asked for
                while await self._read_message() is not None:
                    self._messages_received += 1
            await self._settle(self._attempts.stream.trailers)
        self._raise_for_status()

    async def _settle(self, trailers: Headers | None) -> None:
        """Settle the call with the status in `trailers`."""
        trailers = trailers or ()
        status, message = status_from_trailers(trailers)
        with self._within_deadline():
            metadata = received_metadata(trailers)
        details = details_from_trailers(trailers, status, message, self.context.status_details_codec)
        (self._outcome.trailing_metadata,) = await self.context.grpclib_events.recv_trailing_metadata(
            metadata, status=status, status_message=message, status_details=details
        )
        self._outcome.settle(status, message, details)
        self._raise_for_status()

    def _raise_for_status(self) -> None:
        self._outcome.raise_if_failed()
        if self._messages_received != 1 and not self._cardinality.server_streaming:
            count = self._messages_received or "none"
            raise GRPCError(Status.UNIMPLEMENTED, f"a unary response must carry one message, this one has {count}")

    # ending

    async def cancel(self) -> None:
        """Cancel the call, and tell the server."""
        if not self._attempts.is_open:
            raise ProtocolError("the request was not sent yet")
        self._fail(Status.CANCELLED, "the client cancelled the call")

    async def __aenter__(self) -> Self:
        if self.context.on_call is not None:
            call = Call(
                self._method,
                self._metadata,
                cardinality=self._cardinality,
                deadline=self._outcome.deadline,
                peer=self.context.authority,
            )
            self._on_end = call_begins(self.context.on_call, call)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._attempts.is_open:
            self._tell_end()
            return
        try:
            if exc_value is None and not self._outcome.is_settled:
                await self.recv_trailing_metadata()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave the call without waiting for anything; tell the server, unless the call is done."""
        self._fail(Status.CANCELLED, "the client left the call")
        self._attempts.release()
        self._tell_end()

    def _tell_end(self) -> None:
        """Tell interceptors, and once what `on_call` has returned, how the call has ended."""
        if self._call is not None:
            self._call.status, self._call.status_message = self._outcome.status
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            call_ended(on_end, *self._outcome.status)

    @contextmanager
    def _within_deadline(self) -> Iterator[None]:
        """Bound the block by the call's deadline; an error in the block settles the call.

        :raises GRPCError: DEADLINE_EXCEEDED, when the deadline passes; or the error that the call has failed with
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
            failure = self._outcome.expire("" if self._attempts.is_open else self.context.connection_error())
            self._attempts.reset(failure.message or "")
            raise failure

    def _fail(self, status: Status, message: str | None) -> GRPCError:
        """Settle the call with an error of this side, unless it is settled; return the error to raise."""
        failure = self._outcome.settle(status, message)
        self._attempts.reset(failure.message or "")
        return failure
