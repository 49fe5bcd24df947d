"""What becomes of connections in memory that nobody has begun to serve."""

from __future__ import annotations

import anyio
import pytest

from connectrio.rpc.testing import MemoryListener
from rpc.kit.serving import leaving_nothing


async def handle(transport) -> None:
    raise AssertionError("nobody serves")


async def test_closed_it_closes_the_connections_that_wait():
    async with leaving_nothing():
        listener = MemoryListener()
        async with await listener.connect() as client:
            await listener.aclose()
            with pytest.raises(anyio.EndOfStream):
                await client.receive()


async def test_cancelled_it_closes_the_connections_that_wait():
    async with leaving_nothing():
        listener = MemoryListener()
        async with await listener.connect() as client:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await listener.serve(handle)
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
            with pytest.raises(ConnectionRefusedError):
                await listener.connect()


async def test_connecting_is_not_cancelled_half_way():
    async with leaving_nothing():
        listener = MemoryListener()
        with anyio.CancelScope() as scope:
            scope.cancel()
            client = await listener.connect()
        await client.aclose()
        await listener.aclose()
        with pytest.raises(ConnectionRefusedError):
            await listener.connect()
