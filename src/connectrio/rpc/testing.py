"""Transports in memory: a whole server and its clients without a socket."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import AnyByteStream, Listener, TaskGroup
from anyio.streams.stapled import StapledObjectStream

from connectrio.rpc._client.channel import Channel
from connectrio.rpc._server.server import Server
from connectrio.rpc.options import ChannelOptions


def memory_transport_pair(buffered_sends: float = math.inf) -> tuple[AnyByteStream, AnyByteStream]:
    """Return the two ends of a connection. Each belongs to the caller: close both, or give them to who closes them.

    :param buffered_sends: how many sends an end accepts before it blocks, like a socket whose buffer is full
    """
    a_sends, b_receives = anyio.create_memory_object_stream[bytes](buffered_sends)
    b_sends, a_receives = anyio.create_memory_object_stream[bytes](buffered_sends)
    return StapledObjectStream(a_sends, a_receives), StapledObjectStream(b_sends, b_receives)


class MemoryListener(Listener[AnyByteStream]):
    """Listens in memory, for `Server.serve`: each `connect` of a client starts a handler of the server.

    listener = MemoryListener()
    await tasks.start(server.serve, listener)
    async with Channel(listener.connect) as channel:
        ...
    """

    def __init__(self) -> None:
        self._waiting, self._connections = anyio.create_memory_object_stream[AnyByteStream](math.inf)
        self._is_closed = False

    async def connect(self) -> AnyByteStream:
        """Return the client's end of a new connection; a `Channel` takes this method as its target.

        :raises OSError: the listener is closed
        """
        if self._is_closed:
            raise ConnectionRefusedError("the listener in memory is closed")
        ours, theirs = memory_transport_pair()
        # not `send`, which could be cancelled with the connection half made
        self._waiting.send_nowait(theirs)
        return ours

    async def serve(self, handler: Callable[[AnyByteStream], Any], task_group: TaskGroup | None = None) -> None:
        """Run `handler` for each connection, in a task of `task_group`."""
        try:
            async with anyio.create_task_group() as own:
                async for connection in self._connections:
                    (task_group or own).start_soon(handler, connection)
        finally:
            with anyio.CancelScope(shield=True):
                await self.aclose()

    async def aclose(self) -> None:
        """Refuse further connections, and close those that no handler has yet."""
        self._is_closed = True
        self._waiting.close()
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                await self._connections.receive_nowait().aclose()
        self._connections.close()


@asynccontextmanager
async def memory_channel(
    server: Server, options: ChannelOptions | None = None, **arguments: Any
) -> AsyncIterator[Channel]:
    """Open a channel to `server`, which serves each of its connections in memory while the block runs.

        async with memory_channel(Server([Greeter()])) as channel:
            reply = await GreeterStub(channel).say_hello(HelloRequest(name="you"))

    All but the socket is as over a network: HTTP/2, deadlines, cancellation, limits. At the end of the block, the
    channel is closed and calls that are left are cancelled.

    :param options: of the channel
    :param arguments: further ones of `Channel`
    """
    connections = anyio.create_task_group()

    async def connect() -> AnyByteStream:
        ours, theirs = memory_transport_pair()
        connections.start_soon(server.serve_connection, theirs)
        return ours

    await connections.__aenter__()
    try:
        async with Channel(connect, options=options, **arguments) as channel:
            yield channel
    finally:
        connections.cancel_scope.cancel()
        # the block's own exception passes by the task group, which would wrap it into a group
        await connections.__aexit__(None, None, None)
