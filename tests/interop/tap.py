"""A relay between a client and a server that counts the bytes, to check who says that a message was compressed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream, SocketAttribute


class Tap:
    """A relay on a port of its own.

    :ivar port: where clients connect
    :ivar from_clients: bytes so far
    :ivar from_server: bytes so far
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.from_clients = 0
        self.from_server = 0
        self._server_port = server_port

    async def relay(self, client: ByteStream) -> None:
        """Carry bytes both ways until both sides have ended."""
        server = await anyio.connect_tcp("127.0.0.1", self._server_port)
        async with client, server, anyio.create_task_group() as tasks:
            tasks.start_soon(self._pump, client, server, "from_clients")
            tasks.start_soon(self._pump, server, client, "from_server")

    async def _pump(self, source: ByteStream, sink: ByteStream, count: str) -> None:
        try:
            async for data in source:
                setattr(self, count, getattr(self, count) + len(data))
                await sink.send(data)
            await sink.send_eof()
        except (anyio.BrokenResourceError, OSError):
            pass


@asynccontextmanager
async def tapping(server_port: int) -> AsyncIterator[Tap]:
    """A relay to the server on that port of the loopback interface, for the length of the block."""
    tap = Tap(server_port)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tap.port = listener.extra(SocketAttribute.local_port)
        tasks.start_soon(listener.serve, tap.relay)
        yield tap
        tasks.cancel_scope.cancel()
