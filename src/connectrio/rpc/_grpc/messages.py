"""gRPC's message framing: a flag byte, four bytes of length, the message; and waiting for a whole message.

Source: "Length-Prefixed-Message" in gRPC over HTTP2.
"""

from __future__ import annotations

from anyio.lowlevel import checkpoint_if_cancelled
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.rpc._http2.stream import Stream

PREFIX_SIZE = 5


def frame_message(message: bytes, *, compressed: bool = False) -> bytes:
    """Return `message` behind its prefix."""
    return (b"\1" if compressed else b"\0") + len(message).to_bytes(4, "big") + message


class MessageReader:
    """Cuts bytes, which may be split anywhere, into messages.

    :param limit: bytes; the longest message that is accepted
    """

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes | bytearray) -> None:
        """Take in the next bytes."""
        self._buffer += data

    def next_message(self) -> tuple[bool, bytes] | None:
        """Return whether the next whole message is compressed, and the message; None when more bytes are needed.

        :raises GRPCError: INTERNAL for a flag that is neither 0 nor 1, RESOURCE_EXHAUSTED for a length over the limit
        """
        buffer = self._buffer
        if len(buffer) < PREFIX_SIZE:
            return None
        if buffer[0] > 1:
            raise GRPCError(Status.INTERNAL, f"invalid message: its compression flag is {buffer[0]}, not 0 or 1")
        length = int.from_bytes(buffer[1:PREFIX_SIZE], "big")
        if length > self._limit:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED,
                f"received message larger than max ({length} vs. {self._limit} bytes)",
            )
        end = PREFIX_SIZE + length
        if len(buffer) < end:
            return None
        message = bytes(memoryview(buffer)[PREFIX_SIZE:end])
        compressed = buffer[0] == 1
        del buffer[:end]
        return compressed, message

    def is_empty(self) -> bool:
        """Return whether no byte of an unfinished message is held."""
        return not self._buffer


async def read_message(stream: Stream, reader: MessageReader) -> tuple[bool, bytes] | None:
    """Return whether the next message is compressed, and the message; None when the peer has ended its side.

    Cancelled, whether it has to wait or not, it takes no message: the next call returns what has arrived.

    :raises GRPCError: INTERNAL when the peer ended inside a message; what `MessageReader.next_message` raises
    :raises StreamTerminatedError: the stream was cut short
    """
    # otherwise a task that reads messages as fast as they arrive could never be cancelled
    await checkpoint_if_cancelled()
    while True:
        message = reader.next_message()
        if message is not None:
            return message
        chunk = stream.take()
        if chunk is not None:
            reader.feed(chunk)
        elif not stream.is_complete:
            stream.raise_if_terminated()
            await stream.readable.wait()
        elif reader.is_empty():
            return None
        else:
            raise GRPCError(Status.INTERNAL, "the stream ended in the middle of a message")
