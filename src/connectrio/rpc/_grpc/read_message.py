"""Messages over a stream, on either side: waiting for a whole one."""

from __future__ import annotations

from anyio.lowlevel import checkpoint_if_cancelled
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.rpc._grpc.messages import MessageReader
from connectrio.rpc._http2.stream import Stream


async def read_message(stream: Stream, reader: MessageReader) -> tuple[bool, bytes] | None:
    """The next message and whether it is compressed; None when the peer has ended its side.

    Cancelled, whether it has to wait or not, it takes no message: what has arrived is there for the next call.

    :raises GRPCError: INTERNAL when the peer ended inside a message; what `MessageReader.next_message` raises
    :raises StreamTerminatedError: the stream was cut short
    """
    # or else whoever reads messages as fast as they come could not be cancelled
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
