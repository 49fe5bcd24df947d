"""In-memory transports: a whole server and its clients without a socket."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import AnyByteStream
from anyio.streams.stapled import StapledObjectStream

from connectrio.rpc.channel import Channel
from connectrio.rpc.options import ChannelOptions
from connectrio.rpc.server import Server


def memory_transport_pair(buffered_sends: float = math.inf) -> tuple[AnyByteStream, AnyByteStream]:
    """The two ends of a connection.

    :param buffered_sends: how many sends an end takes before it blocks, like a socket whose buffer is full
    """
    a_sends, b_receives = anyio.create_memory_object_stream[bytes](buffered_sends)
    b_sends, a_receives = anyio.create_memory_object_stream[bytes](buffered_sends)
    return StapledObjectStream(a_sends, a_receives), StapledObjectStream(b_sends, b_receives)


@asynccontextmanager
async def memory_channel(server: Server, options: ChannelOptions | None = None) -> AsyncIterator[Channel]:
    """A channel to `server`, which serves each of its connections in memory while the block runs."""
    connections = anyio.create_task_group()

    async def connect() -> AnyByteStream:
        ours, theirs = memory_transport_pair()
        connections.start_soon(server.serve_connection, theirs)
        return ours

    await connections.__aenter__()
    try:
        async with Channel(connect, options=options) as channel:
            yield channel
    finally:
        connections.cancel_scope.cancel()
        # the block's own exception passes by the task group, which would wrap it into a group
        await connections.__aexit__(None, None, None)
