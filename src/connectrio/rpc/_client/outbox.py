"""What a call sends, and sending it again when no server has seen it (gRFC A6, transparent retries).

A6 has a refused call made again once. Servers on gRPC's C core refuse calls that keep to their MAX_CONCURRENT_STREAMS,
again and again, because calls they have answered count until their memory is freed. So a call that is refused again
waits a little and gets in line anew, a bounded number of times.

Rules:
1. Only `Outbox.push` gives bytes to a stream, and it keeps count: any task may push, cancelled or not, and every byte
   goes out once, in order.
2. A call may be repeated as long as all that it has sent is still here, and the server has not begun to answer.
"""

from __future__ import annotations

import random
from collections import deque

from h2.errors import ErrorCodes

from connectrio.rpc._http2.stream import Stream, TerminationCause

# refusals that end a call; its pauses add up to some 0.6 s by then
_REFUSALS = 8
# seconds; each pause is twice the one before, give or take a half
_SHORTEST_PAUSE = 0.01


class Outbox:
    """The messages of one call, framed, on their way to the server.

    :param limit: bytes that are kept to be sent again; a call that sends more cannot be repeated
    """

    __slots__ = ("_bytes", "_ended", "_limit", "_next", "_offset", "_replayable", "_waiting")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[bytes] = deque()
        self._next = 0  # the index of the first message that is not wholly sent
        self._offset = 0  # and how much of it is
        self._bytes = 0
        self._ended = False
        self._replayable = True

    def add(self, message: bytes, *, end: bool) -> None:
        """Put a message behind those that wait."""
        self._waiting.append(message)
        self._ended = end
        self._bytes += len(message)
        if self._bytes > self._limit:
            self.commit()

    def end(self) -> None:
        """There will be no more messages."""
        if not self._ended:
            self.add(b"", end=True)

    def push(self, stream: Stream) -> bool:
        """Give `stream` as much as it takes; whether that was all.

        :raises StreamTerminatedError: the stream was cut short
        """
        while self._next < len(self._waiting):
            message = self._waiting[self._next]
            last = self._ended and self._next == len(self._waiting) - 1
            self._offset += stream.send_some(memoryview(message)[self._offset :], end_stream=last)
            if self._offset < len(message):
                return False
            self._offset = 0
            if self._replayable:
                self._next += 1
            else:
                self._waiting.popleft()
        return True

    def rewind(self) -> None:
        """Begin again with the first message, on another stream."""
        self._next = self._offset = 0

    def commit(self) -> None:
        """Forget what was sent: it will not be needed again."""
        if self._replayable:
            self._replayable = False
            for _ in range(self._next):
                self._waiting.popleft()
            self._next = 0

    @property
    def is_replayable(self) -> bool:
        """Whether all that was sent is still here."""
        return self._replayable

    @property
    def is_ended(self) -> bool:
        """Whether nothing more may be added."""
        return self._ended


class Retries:
    """How often a call was repeated, and whether it may be once more."""

    __slots__ = ("_refusals",)

    def __init__(self) -> None:
        self._refusals = 0

    def allow(self, stream: Stream) -> bool:
        """Whether the call that `stream` carried may be repeated, because no server has seen it.

        One that never left may be for ever, one that servers refused only so often: that cost the servers.
        """
        if stream.termination is None or stream.headers is not None:
            return False
        if stream.termination.cause is TerminationCause.NEVER_SENT:
            return True
        return self._is_refused(stream) and self._refusals < _REFUSALS - 1

    def pause(self) -> float:
        """Seconds to let go by before the call is repeated: none after its first refusal (gRFC A6)."""
        if not self._refusals:
            return 0
        return _SHORTEST_PAUSE * (1 << self._refusals - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret

    def count(self, stream: Stream) -> None:
        """The call that `stream` carried is repeated."""
        self._refusals += self._is_refused(stream)

    @staticmethod
    def _is_refused(stream: Stream) -> bool:
        termination = stream.termination
        return termination is not None and (
            termination.cause is TerminationCause.UNPROCESSED
            or (
                termination.cause is TerminationCause.RESET_BY_PEER
                and termination.error_code == ErrorCodes.REFUSED_STREAM
            )
        )
