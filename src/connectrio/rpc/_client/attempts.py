"""The stream that a call is on, and its move to another one when no server has seen it (gRFC A6).

Rules:
1. One task at a time moves the call; the others find it moved. Cancelled while it waits for a stream, nothing has
   happened, and any task may try again.
2. A call that is settled moves no more, and leaves no stream behind.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import anyio
from grpclib.exceptions import ProtocolError
from h2.errors import ErrorCodes

from connectrio.rpc._client.context import ChannelContext
from connectrio.rpc._client.outbox import Outbox, Retries
from connectrio.rpc._client.outcome import Outcome
from connectrio.rpc._http2.stream import Headers, Stream, StreamTerminatedError


class Attempts:
    """One call's streams, one after the other.

    :param request_headers: makes the request's headers, for each attempt anew
    :param outcome: of the call
    :ivar outbox: what the call sends
    """

    def __init__(
        self, context: ChannelContext, request_headers: Callable[[], Headers], outcome: Outcome, *, wait_for_ready: bool
    ) -> None:
        self.outbox = Outbox(context.options.retry_buffer_size)
        self._context = context
        self._request_headers = request_headers
        self._outcome = outcome
        self._wait_for_ready = wait_for_ready
        self._retries = Retries()
        self._moving = anyio.Lock()
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

    async def open(self) -> None:
        """Wait for a stream.

        :raises GRPCError: there is none to be had; or the call was settled meanwhile
        """
        self._stream = await self._open()

    async def flush(self) -> None:
        """Send all that waits in the outbox, on another stream if need be; nothing more once the server has answered.

        :raises StreamTerminatedError: the stream was cut short, and the call cannot move
        """
        while True:
            stream = self.stream
            try:
                while not self.outbox.push(stream):
                    await stream.writable.wait()
            except StreamTerminatedError:
                if stream.is_complete:
                    return
                await self._move(stream)
            else:
                return

    async def headers(self) -> Headers:
        """Wait for the response's headers, on another stream if need be; from then on the call stays where it is.

        :raises StreamTerminatedError: the stream was cut short, and the call cannot move
        """
        while True:
            stream = self.stream
            if stream.headers is not None:
                self.outbox.commit()
                return stream.headers
            if stream.termination is not None:
                await self._move(stream)
            else:
                await stream.readable.wait()

    def reset(self, detail: str = "") -> None:
        """Tell the server that nobody waits for the call, unless it is over."""
        if self._stream is not None:
            self._stream.reset(ErrorCodes.CANCEL, detail)

    def release(self) -> None:
        """The call needs its stream no more."""
        if self._stream is not None:
            self._stream.release()

    async def _open(self) -> Stream:
        self._outcome.raise_if_failed()
        stream = await self._context.open_stream(self._request_headers, wait_for_ready=self._wait_for_ready)
        if self._outcome.is_settled:  # another task has ended the call meanwhile
            stream.reset(ErrorCodes.CANCEL)
            stream.release()
            self._outcome.raise_if_failed()
        return stream

    async def _move(self, failed: Stream) -> None:
        async with self._moving:
            if self._stream is not failed:
                return
            if not (self.outbox.is_replayable and self._retries.allow(failed)):
                failed.raise_if_terminated()
            if pause := self._retries.pause():
                await anyio.sleep(pause)
            self._stream = await self._open()
            self._retries.count(failed)
            failed.release()
            self.outbox.rewind()
            if not self.outbox.push(self._stream):
                # whoever sent this may be waiting for the response now
                self._context.start_soon(self._replay, self._stream)

    async def _replay(self, stream: Stream) -> None:
        with suppress(StreamTerminatedError):
            while self._stream is stream and not self.outbox.push(stream):
                await stream.writable.wait()
