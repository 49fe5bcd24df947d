"""Connections that come while the server stops accepting."""

from __future__ import annotations

import gc
import socket
import sys

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

from connectrio.rpc import Server
from rpc.serving import leaving_nothing


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
async def test_a_connection_that_comes_as_the_server_stops(before: int, after: int, monkeypatch: pytest.MonkeyPatch):
    """Whichever is first, no socket is lost: asyncio's `sock_accept`, cancelled too late, drops what it accepted."""
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: lost.append(raised.exc_value))
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        server = Server([])
        await tasks.start(server.serve, listener)
        with socket.socket() as client:
            for _ in range(before):
                await checkpoint()
            client.connect(("127.0.0.1", port))
            for _ in range(after):
                await checkpoint()
        await server.shutdown(grace=0)
    gc.collect()
    assert lost == []
