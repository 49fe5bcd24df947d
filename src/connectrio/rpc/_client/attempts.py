"""The attempts of a call: what it sends, the stream it is on, and the next stream when the call is made again.

Rules:
1. One task at a time moves the call; the others find it moved. Cancelled while it waits for a stream, nothing has
   happened, and any task may try again.
2. A call that is settled moves no more, and leaves no stream behind.
3. Only `Outbox.push` gives bytes to a stream, and it keeps count: any task may push, cancelled or not, and every byte
   goes out once, in order.
4. A call may be made again as long as everything it has sent is still in the outbox, and the server has not begun to
   answer. `Retries` says whether it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.exceptions import GRPCError, ProtocolError
from h2.errors import ErrorCodes

from connectrio.rpc._client.response_status import Outcome
from connectrio.rpc._client.retries import Retries, RetryTokens
from connectrio.rpc._http2.stream import Headers, Stream, StreamTerminatedError
from connectrio.rpc.call import OnCall
from connectrio.rpc.interceptors import Interceptor
from connectrio.rpc.options import ChannelOptions, RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelContext:
    """What all calls of a channel share.

    :ivar content_type: of requests; it names the codec's content subtype, unless that is "proto"
    :ivar grpclib_events: the `_DispatchChannelEvents` where `grpclib.events.listen(channel, …)` registers
    :ivar open_stream: `Channel.open_stream`
    :ivar start_soon: `Channel.start_soon`
    :ivar closed: `Channel.wait_for_state`, which waits until the channel is closed if it is given no state
    :ivar retry_tokens: of the channel; None if nothing throttles retries
    :ivar on_call: told of each call; None costs nothing
    :ivar interceptors: around each call, the first outermost
    :ivar connection_error: returns why there is no connection, for people; "" while there is one
    """

    options: ChannelOptions
    codec: CodecBase
    content_type: str
    status_details_codec: StatusDetailsCodecBase | None
    authority: str
    scheme: str
    grpclib_events: Any  # _DispatchChannelEvents: its type for metadata is another than ours
    open_stream: Callable[..., Awaitable[Stream]]
    start_soon: Callable[..., None]
    connection_error: Callable[[], str]
    closed: Callable[[], Awaitable[object]]
    retry_tokens: RetryTokens | None = None
    on_call: OnCall | None = None
    interceptors: tuple[Interceptor, ...] = ()


class UnreachableError(GRPCError):
    """No server can be reached now, but attempts to connect go on."""


class Outbox:
    """The messages of one call, framed, on their way to the server.

    :param limit: bytes that are kept to be sent again; a call that sends more cannot be repeated
    :ivar is_ended: nothing more may be added
    :ivar is_replayable: everything that was sent is still here
    """

    __slots__ = ("_limit", "_messages", "_next_index", "_offset", "_size", "is_ended", "is_replayable")

    def __init__(self, limit: int) -> None:
        self.is_ended = False
        self.is_replayable = True
        self._limit = limit
        self._messages: deque[bytes] = deque()
        self._next_index = 0  # the index of the first message that is not wholly sent
        self._offset = 0  # and how much of it is
        self._size = 0

    def add(self, message: bytes, *, end: bool) -> None:
        """Put a message behind those that wait; `end` says that it is the last."""
        self._messages.append(message)
        self.is_ended = end
        self._size += len(message)
        if self._size > self._limit:
            self.commit()

    def end(self) -> None:
        """Add no more messages."""
        if not self.is_ended:
            self.add(b"", end=True)

    def push(self, stream: Stream) -> bool:
        """Give `stream` as much as it accepts; return whether that was everything.

        :raises StreamTerminatedError: the stream was cut short
        """
        while self._next_index < len(self._messages):
            message = self._messages[self._next_index]
            last = self.is_ended and self._next_index == len(self._messages) - 1
            self._offset += stream.send_some(memoryview(message)[self._offset :], end_stream=last)
            if self._offset < len(message):
                return False
            self._offset = 0
            if self.is_replayable:
                self._next_index += 1
            else:
                self._messages.popleft()
        return True

    def rewind(self) -> None:
        """Begin again with the first message, on another stream."""
        self._next_index = self._offset = 0

    def commit(self) -> None:
        """Forget what was sent: the call will not be repeated."""
        if self.is_replayable:
            self.is_replayable = False
            for _ in range(self._next_index):
                self._messages.popleft()
            self._next_index = 0


class Attempts:
    """One call's streams, one after the other.

    :param request_headers: makes the request's headers, anew for each attempt
    :param outcome: of the call
    :param policy: when the call is made again although a server may have seen it; None for never
    :ivar outbox: what the call sends
    :ivar retries: how often the call was made
    """

    def __init__(
        self,
        context: ChannelContext,
        request_headers: Callable[[], Headers],
        outcome: Outcome,
        *,
        wait_for_ready: bool,
        policy: RetryPolicy | None = None,
    ) -> None:
        self.outbox = Outbox(context.options.retry_buffer_size)
        self._context = context
        self._request_headers = request_headers
        self._outcome = outcome
        self._wait_for_ready = wait_for_ready
        self.retries = Retries(policy, context.retry_tokens)
        self._pause_scope: anyio.CancelScope | None = None
        self._retry_lock = anyio.Lock()
        self._stream: Stream | None = None

    @property
    def is_open(self) -> bool:
        """Whether the request was sent."""
        return self._stream is not None

    @property
    def stream(self) -> Stream:
        """The stream that the call is on now.

        :raises ProtocolError: the request was not sent yet
        """
        if self._stream is None:
            raise ProtocolError("the request was not sent yet")
        return self._stream

    @property
    def is_answered(self) -> bool:
        """Whether the server has ended the call for good, so that nothing more is sent.

        An answer that may lead to a retry counts as soon as `_retry` has looked at it.
        """
        return self.stream.is_complete and not (self.retries.has_policy and self.outbox.is_replayable)

    async def open(self) -> Stream:
        """Wait for a stream, and put the call on it.

        :raises GRPCError: no connection can be had; or the call was settled meanwhile
        """
        is_new = self._stream is None
        while True:
            self._outcome.raise_if_failed()
            try:
                stream = await self._context.open_stream(
                    self._request_headers, wait_for_ready=self._wait_for_ready, is_new=is_new
                )
                break
            except UnreachableError as error:
                pause = self.retries.pause_after_status(error.status)
                if pause is None:
                    raise
                is_new = False
                await self._wait(pause)
        if self._outcome.is_settled:  # another task has ended the call meanwhile
            stream.reset(ErrorCodes.CANCEL)
            stream.release()
            self._outcome.raise_if_failed()
        self._stream = stream
        return stream

    async def flush(self) -> bool:
        """Send everything in the outbox, on another stream if need be; nothing more once the server has answered.

        :returns: whether everything was sent
        :raises StreamTerminatedError: the stream was cut short, and the call cannot move
        """
        while True:
            stream = self.stream
            try:
                while not self.outbox.push(stream):
                    await stream.writable.wait()
            except StreamTerminatedError:
                if self.is_answered:
                    return False
                if not await self._retry(stream):
                    if stream.is_complete:
                        return False
                    raise
            else:
                return True

    async def response_headers(self) -> Headers:
        """Wait for the response's headers, on another stream if need be; from then on the call stays where it is.

        :raises StreamTerminatedError: the stream was cut short, and the call cannot move
        """
        while True:
            stream = self.stream
            if stream.headers is not None:
                if self.retries.has_policy and await self._retry(stream):
                    continue  # it was an answer after which the call is made again
                self.outbox.commit()
                return stream.headers
            if stream.termination is None:
                await stream.readable.wait()
            elif not await self._retry(stream):
                stream.raise_if_terminated()

    def reset(self, detail: str = "") -> None:
        """Tell the server that nobody waits for the call, unless it is over."""
        if self._stream is not None:
            self._stream.reset(ErrorCodes.CANCEL, detail)
        if self._pause_scope is not None:
            self._pause_scope.cancel()

    def release(self) -> None:
        """Give the stream back: the call is over, and needs it no more."""
        self.retries.finish(self._stream, self._outcome.status[0])
        if self._stream is not None:
            self._stream.release()

    async def _retry(self, failed: Stream) -> bool:
        """Make the call again if it has failed on a stream and may be; return whether it has moved."""
        async with self._retry_lock:
            if self._stream is not failed:
                return True
            self._outcome.raise_if_failed()
            pause = self.retries.pause_after(failed, may_repeat=self.outbox.is_replayable)
            if pause is None:
                self.outbox.commit()
                return False
            failed.reset(ErrorCodes.CANCEL)  # if an answer that is not gRPC still comes
            if pause:
                await self._wait(pause)
            stream = await self.open()
            failed.release()
            self.outbox.rewind()
            if not self.outbox.push(stream):
                # the task that sent this may be waiting for the response now
                self._context.start_soon(self._replay, stream)
            return True

    async def _wait(self, seconds: float) -> None:
        """Wait before the call is made again, until it is over or the channel is closed."""
        with anyio.move_on_after(seconds) as self._pause_scope:
            await self._context.closed()

    async def _replay(self, stream: Stream) -> None:
        with suppress(StreamTerminatedError):
            while self._stream is stream and not self.outbox.push(stream):
                await stream.writable.wait()
