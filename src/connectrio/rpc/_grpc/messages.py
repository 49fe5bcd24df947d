"""gRPC's message framing: a flag byte, four bytes of length, the message.

Source: "Length-Prefixed-Message" in gRPC over HTTP2.
"""

from __future__ import annotations

from grpclib.const import Status
from grpclib.exceptions import GRPCError

PREFIX_SIZE = 5


def frame_message(message: bytes, *, compressed: bool = False) -> bytes:
    """`message` behind its prefix."""
    return (b"\1" if compressed else b"\0") + len(message).to_bytes(4, "big") + message


class MessageReader:
    """Cuts a stream of bytes, split anywhere, into messages.

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
        """The next whole message and whether it is compressed; None when more bytes are needed.

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
        """Whether no byte of an unfinished message is held."""
        return not self._buffer
