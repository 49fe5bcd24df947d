"""The stream that a call is on, and its move to another when no server has seen it (gRFC A6, transparent retries).

A6 repeats a refused call once. Servers on gRPC's C core refuse calls that keep to their MAX_CONCURRENT_STREAMS, again
and again, because calls they have answered count until their memory is freed. So a call that is refused again waits a
little and joins the queue anew, a bounded number of times.

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
from connectrio.rpc._client.outbox import Outbox
from connectrio.rpc._client.response_status import Outcome
from connectrio.rpc._http2.stream import Headers, Stream, StreamTerminatedError, TerminationCause
from connectrio.rpc.backoff import Backoff

# refusals that end a call; its pauses add up to some 0.6 s by then
_MAX_REFUSALS = 8
# seconds; each pause is twice the one before, give or take a half
_INITIAL_PAUSE = 0.01


class Retries:
    """How often a call was repeated, and whether it may be once more.

    :ivar pause: seconds to wait before the call is repeated; 0 after its first refusal (gRFC A6)
    """

    __slots__ = ("_backoff", "_refusals", "pause")

    def __init__(self) -> None:
        self.pause = 0.0
        self._refusals = 0
        self._backoff: Backoff | None = None

    def allow(self, stream: Stream) -> bool:
        """Return whether the call that `stream` carried may be repeated, because no server has seen it.

        A call that was never sent may be repeated without limit. One that servers refused may not: refusing costs them.
        """
        if stream.termination is None or stream.headers is not None:
            return False
        if stream.termination.cause is TerminationCause.NEVER_SENT:
            return True
        return _is_refused(stream) and self._refusals < _MAX_REFUSALS - 1

    def count(self, stream: Stream) -> None:
        """Note that the call that `stream` carried is repeated."""
        if _is_refused(stream):
            self._refusals += 1
            self._backoff = self._backoff or Backoff(_INITIAL_PAUSE, factor=2, jitter=0.5)
            self.pause = self._backoff.next()


def _is_refused(stream: Stream) -> bool:
    termination = stream.termination
    return termination is not None and (
        termination.cause is TerminationCause.UNPROCESSED
        or (termination.cause is TerminationCause.RESET_BY_PEER and termination.error_code == ErrorCodes.REFUSED_STREAM)
    )


class Attempts:
    """One call's streams, one after the other.

    :param request_headers: makes the request's headers, anew for each attempt
    :param outcome: of the call
    :ivar outbox: what the call sends
    """

    def __init__(
        self,
        context: ChannelContext,
        request_headers: Callable[[], Headers],
        outcome: Outcome,
        *,
        wait_for_ready: bool,
    ) -> None:
        self.outbox = Outbox(context.options.retry_buffer_size)
        self._context = context
        self._request_headers = request_headers
        self._outcome = outcome
        self._wait_for_ready = wait_for_ready
        self._retries = Retries()
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

    async def open(self) -> Stream:
        """Wait for a stream, and put the call on it.

        :raises GRPCError: no connection can be had; or the call was settled meanwhile
        """
        self._outcome.raise_if_failed()
        stream = await self._context.open_stream(self._request_headers, wait_for_ready=self._wait_for_ready)
        if self._outcome.is_settled:  # another task has ended the call meanwhile
            stream.reset(ErrorCodes.CANCEL)
            stream.release()
            self._outcome.raise_if_failed()
        self._stream = stream
        return stream

    async def flush(self) -> None:
        """Send everything in the outbox, on another stream if need be; nothing more once the server has answered.

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
                await self._retry(stream)
            else:
                return

    async def response_headers(self) -> Headers:
        """Wait for the response's headers, on another stream if need be; from then on the call stays where it is.

        :raises StreamTerminatedError: the stream was cut short, and the call cannot move
        """
        while True:
            stream = self.stream
            if stream.headers is not None:
                self.outbox.commit()
                return stream.headers
            if stream.termination is not None:
                await self._retry(stream)
            else:
                await stream.readable.wait()

    def reset(self, detail: str = "") -> None:
        """Tell the server that nobody waits for the call, unless it is over."""
        if self._stream is not None:
            self._stream.reset(ErrorCodes.CANCEL, detail)

    def release(self) -> None:
        """Give the stream back: the call needs it no more."""
        if self._stream is not None:
            self._stream.release()

    async def _retry(self, failed: Stream) -> None:
        async with self._retry_lock:
            if self._stream is not failed:
                return
            if not (self.outbox.is_replayable and self._retries.allow(failed)):
                failed.raise_if_terminated()
            if self._retries.pause:
                await anyio.sleep(self._retries.pause)
            stream = await self.open()
            self._retries.count(failed)
            failed.release()
            self.outbox.rewind()
            if not self.outbox.push(stream):
                # the task that sent this may be waiting for the response now
                self._context.start_soon(self._replay, stream)

    async def _replay(self, stream: Stream) -> None:
        with suppress(StreamTerminatedError):
            while self._stream is stream and not self.outbox.push(stream):
                await stream.writable.wait()
