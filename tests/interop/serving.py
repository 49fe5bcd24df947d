"""The interoperability service on our server, for the length of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from connectrio.rpc import Server
from interop.servicer import InteropServicer


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """Its port; in the end the server has no call left."""
    async with anyio.create_task_group() as tasks:
        server = Server([InteropServicer()])
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        [(_, port)] = await tasks.start(server.serve, listener)
        yield port
        await server.shutdown(grace=5)
        assert server.active_calls == 0
