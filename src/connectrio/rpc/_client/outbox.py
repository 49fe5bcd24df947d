"""What a call sends.

Rules:
1. Only `Outbox.push` gives bytes to a stream, and it keeps count: any task may push, cancelled or not, and every byte
   goes out once, in order.
2. A call may be repeated as long as everything it has sent is still here, and the server has not begun to answer.
"""

from __future__ import annotations

from collections import deque

from connectrio.rpc._http2.stream import Stream


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
