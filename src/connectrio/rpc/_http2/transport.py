"""The thin async shell around a core: one task reads the socket, one writes it.

A reader is the driver's own loop: it awaits `receive`, has the core `process` what came, and acts on what happened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
from anyio.abc import AnyByteStream, ByteStream
from anyio.lowlevel import checkpoint
from anyio.streams.buffered import BufferedByteStream

from connectrio.rpc._http2.connection import Connection, ConnectionState, EndCause
from connectrio.rpc.sockets import prepare

_READ_SIZE = 64 * 1024
# One read can hold thousands of tiny frames; other tasks get a turn after so many.
FRAMES_PER_TURN = 64

LOST = (anyio.BrokenResourceError, anyio.ClosedResourceError)


Reader = Callable[[ByteStream], Awaitable[None]]


@asynccontextmanager
async def run(
    transport: AnyByteStream, connection: Connection, reader: Reader, *, linger: float
) -> AsyncIterator[None]:
    """Read and write `connection` over `transport` for as long as the block runs.

    When the block is left, what is in the output is flushed and the peer is given `linger` seconds to read it and to
    close its side; then the transport is closed. Cancelled, or left with an exception, the transport is closed at once.

    :param reader: feeds the connection until its state is CLOSED
    """
    prepare(transport)
    # in-memory transports carry objects of any size; the buffer cuts them to what is asked for
    byte_stream = transport if isinstance(transport, ByteStream) else BufferedByteStream(transport)
    reader_ended, writer_ended = anyio.Event(), anyio.Event()
    try:
        async with anyio.create_task_group() as io:
            io.start_soon(_then_set, reader_ended, reader, byte_stream)
            io.start_soon(_then_set, writer_ended, partial(write, connection), byte_stream)
            yield
            connection.finish()
            with anyio.move_on_after(linger):
                await writer_ended.wait()
                await _close_our_side(byte_stream)
                await reader_ended.wait()
                await _read_to_the_end(byte_stream)
            io.cancel_scope.cancel()
    finally:
        connection.fail("the connection was ended", EndCause.STOPPED)
        await anyio.aclose_forcefully(transport)


async def _then_set(event: anyio.Event, task: Reader, transport: ByteStream) -> None:
    try:
        await task(transport)
    finally:
        event.set()


async def _close_our_side(transport: ByteStream) -> None:
    """Tell the peer that nothing more will come. Closing outright could destroy what it has not read yet."""
    # a peer that has gone is an OSError on trio and a RuntimeError on uvloop; TLS cannot close one side
    with suppress(*LOST, OSError, RuntimeError, NotImplementedError):
        await transport.send_eof()


async def _read_to_the_end(transport: ByteStream) -> None:
    with suppress(*LOST, anyio.EndOfStream):
        while True:
            await transport.receive(_READ_SIZE)


async def receive(connection: Connection, transport: ByteStream) -> int:
    """Feed the connection with the next bytes, or fail it when the peer has nothing more to say. Return how many.

    Read nothing while more than `max_control_backlog` bytes wait for the writer. Cancelled, nothing is lost.
    """
    while connection.output_size() > connection.options.max_control_backlog:
        await connection.output_taken.wait()
    try:
        data = await transport.receive(_READ_SIZE)
    except anyio.EndOfStream:
        connection.fail("the peer closed the connection", EndCause.CLOSED_BY_PEER)
    except LOST as error:
        connection.fail(f"reading failed: {error.__cause__ or error!r}")
    else:
        connection.feed(data)
        return len(data)
    return 0


async def read(connection: Connection, transport: ByteStream) -> None:
    """Feed the connection until it is closed. The client's reader; the server has its own, `ServedConnection._read`.

    Cancelled anywhere, what was received is in the connection, and nothing of it is lost.
    """
    while connection.state is not ConnectionState.CLOSED:
        await receive(connection, transport)
        while connection.process(FRAMES_PER_TURN):
            await checkpoint()


async def write(connection: Connection, transport: ByteStream) -> None:
    """Write what the connection puts out, until it is closed and everything is written.

    All that is ready when this task gets its turn goes out in one write. Cancelled in the middle of a write, bytes
    that h2 believes are sent may be lost, so only the end of the connection may cancel it.
    """
    while True:
        if connection.h2.has_pending_output():
            try:
                connection.writing_since = anyio.current_time()
                await transport.send(connection.take_output())
                connection.writing_since = None
            except LOST as error:
                connection.fail(f"writing failed: {error.__cause__ or error!r}")
                connection.take_output()
        elif connection.state is ConnectionState.CLOSED:
            return
        else:
            await connection.output_ready.wait()
