"""One HTTP/2 stream: what has arrived, what may be sent, and how it ended. Synchronous; nothing here awaits.

Rules:
1. Only the connection that owns the stream changes it. The stream knows its owner as a `StreamOwner`.
2. Received bytes are credited to the flow control windows when they are taken or the stream is released, never on
   arrival: a peer can send no more than somebody has read.
3. A stream that is terminated sends nothing more; what it had received can still be taken.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from h2.errors import ErrorCodes

from connectrio.rpc._http2.wakeup import Wakeup

Headers = Sequence[tuple[str, str]]

# A window full of frames of one byte each must not take a hundred times the window in memory.
_MERGED_CHUNK_SIZE = 16 * 1024


class StreamState(enum.Enum):
    """The states of RFC 9113 §5.1 that a stream which was opened can be in."""

    OPEN = enum.auto()
    HALF_CLOSED_LOCAL = enum.auto()
    HALF_CLOSED_REMOTE = enum.auto()
    CLOSED = enum.auto()


class TerminationCause(enum.Enum):
    """Why a stream ended before both sides had said that they were done."""

    RESET_BY_PEER = "the peer reset the stream"
    RESET_BY_US = "the stream was reset"
    UNPROCESSED = "the peer went away before it had processed the stream"
    NEVER_SENT = "the connection was lost before the request was sent"
    CONNECTION_LOST = "the connection was lost"


@dataclass(frozen=True)
class Termination:
    """How a stream was cut short: the cause, the HTTP/2 error code where there is one, and a sentence for people."""

    cause: TerminationCause
    error_code: ErrorCodes | int | None = None
    detail: str = ""

    def __str__(self) -> str:
        code = self.error_code
        name = code.name if isinstance(code, ErrorCodes) else code
        return "; ".join(
            filter(None, [self.cause.value, f"error code {name}" if name is not None else "", self.detail])
        )


class StreamTerminatedError(ConnectionError):
    """The stream was cut short, so nothing can be sent on it and nothing more will arrive.

    :ivar termination: how
    """

    def __init__(self, termination: Termination) -> None:
        super().__init__(str(termination))
        self.termination = termination


_AFTER_LOCAL_END = {
    StreamState.OPEN: StreamState.HALF_CLOSED_LOCAL,
    StreamState.HALF_CLOSED_REMOTE: StreamState.CLOSED,
}
_AFTER_REMOTE_END = {
    StreamState.OPEN: StreamState.HALF_CLOSED_REMOTE,
    StreamState.HALF_CLOSED_LOCAL: StreamState.CLOSED,
}


class StreamOwner(Protocol):
    """What a stream asks of its connection: to send, and to take back what the stream holds."""

    @property
    def header_list_limit(self) -> float: ...

    def send_headers(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None: ...

    def send_data(self, stream: Stream, data: memoryview, *, end_stream: bool) -> int: ...

    def credit(self, stream_id: int, length: int) -> None: ...

    def reset(self, stream: Stream, error_code: ErrorCodes, detail: str) -> None: ...

    def forget(self, stream: Stream, unread: int) -> None: ...


class Stream:
    """The state of one stream.

    :ivar headers: the peer's first header block: the request, or the response's initial metadata
    :ivar trailers: the peer's last header block, for a response that was not trailers-only
    :ivar is_trailers_only: the response is only its headers, which ended the stream
    :ivar opened_at: when the peer opened it, on a server; on the connection's clock
    :ivar deadline: when the peer stops waiting for the answer, on a server; on the same clock
    :ivar is_complete: END_STREAM has arrived: nothing the peer had to say is missing, however the stream ended
    :ivar termination: set once the stream has been cut short
    :ivar readable: woken when something arrives or the stream ends
    :ivar writable: woken when more may be sent or the stream ends
    """

    __slots__ = (
        "_chunks",
        "_owner",
        "deadline",
        "headers",
        "id",
        "is_complete",
        "is_trailers_only",
        "opened_at",
        "readable",
        "state",
        "termination",
        "trailers",
        "writable",
    )

    def __init__(self, owner: StreamOwner, stream_id: int) -> None:
        self.id = stream_id
        self.state = StreamState.OPEN
        self.headers: Headers | None = None
        self.trailers: Headers | None = None
        self.opened_at = 0.0
        self.deadline = math.inf
        self.is_complete = False
        self.is_trailers_only = False
        self.termination: Termination | None = None
        self.readable = Wakeup()
        self.writable = Wakeup()
        self._owner = owner
        self._chunks: deque[tuple[bytes | bytearray, int]] = deque()

    # what the connection tells

    def received(self, data: bytes, flow_controlled_length: int) -> None:
        """Hold `data` until it is taken. Padding counts in `flow_controlled_length`."""
        if self._chunks and len(self._chunks[-1][0]) + len(data) <= _MERGED_CHUNK_SIZE:
            held, length = self._chunks[-1]
            merged = held if isinstance(held, bytearray) else bytearray(held)
            merged += data
            self._chunks[-1] = merged, length + flow_controlled_length
        elif flow_controlled_length:
            self._chunks.append((data, flow_controlled_length))
        self.readable.wake()

    def remote_ended(self) -> None:
        """Record that the peer has sent END_STREAM."""
        self.is_complete = True
        self.state = _AFTER_REMOTE_END.get(self.state, self.state)
        self.readable.wake()

    def local_ended(self) -> None:
        """Record that END_STREAM has been sent."""
        self.state = _AFTER_LOCAL_END.get(self.state, self.state)

    def terminate(self, termination: Termination) -> bool:
        """Cut the stream short.

        :returns: False when it was over already, and nothing was done
        """
        if self.state is StreamState.CLOSED:
            return False
        self.state = StreamState.CLOSED
        self.termination = termination
        self.readable.wake()
        self.writable.wake()
        return True

    # what the application asks

    @property
    def local_is_done(self) -> bool:
        """Whether nothing more may be sent."""
        return self.state in (StreamState.HALF_CLOSED_LOCAL, StreamState.CLOSED)

    @property
    def header_list_limit(self) -> float:
        """Bytes; the largest header list that the peer accepts."""
        return self._owner.header_list_limit

    @property
    def is_exhausted(self) -> bool:
        """Whether the peer has ended its side, and everything it sent has been taken."""
        return self.is_complete and not self._chunks

    def take(self) -> bytes | bytearray | None:
        """Return the next bytes that have arrived, and credit them to the windows; None when there are none now."""
        if not self._chunks:
            return None
        data, length = self._chunks.popleft()
        self._owner.credit(self.id, length)
        return data

    def raise_if_terminated(self) -> None:
        """Do nothing while the stream is whole.

        :raises StreamTerminatedError: the stream was cut short
        """
        if self.termination is not None:
            raise StreamTerminatedError(self.termination)

    def send_headers(self, headers: Headers, *, end_stream: bool = False) -> None:
        """Put a header block into the connection's output. Headers are not flow-controlled.

        :raises StreamTerminatedError: the stream was cut short
        :raises HeadersTooLargeError: the peer does not accept so much; nothing was sent
        """
        if self.termination is not None:
            raise StreamTerminatedError(self.termination)
        self._owner.send_headers(self, headers, end_stream=end_stream)

    def send_some(self, data: memoryview, *, end_stream: bool = False) -> int:
        """Put as much of `data` into the output as the windows and the write buffer allow.

        END_STREAM goes with the last byte. What has been accepted will be sent, whatever becomes of the caller.

        :returns: how many bytes were accepted
        :raises StreamTerminatedError: the stream was cut short
        """
        if self.termination is not None:
            raise StreamTerminatedError(self.termination)
        return self._owner.send_data(self, data, end_stream=end_stream)

    def reset(self, error_code: ErrorCodes, detail: str = "") -> None:
        """Send RST_STREAM, unless the stream is over."""
        self._owner.reset(self, error_code, detail)

    def release(self) -> None:
        """Credit what was not read and forget the stream: the application is done with it."""
        unread = 0
        for _, length in self._chunks:
            unread += length
        self._chunks.clear()
        self._owner.forget(self, unread)
