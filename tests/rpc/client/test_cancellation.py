"""Calls that are cancelled after every number of steps, and what is true afterwards.

After each: no stream is open, nobody is in line, the one slot that the server allows is free, and the next call works.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from grpclib.const import Status
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectrio.rpc import Channel, ChannelOptions, GRPCError, Server, ServerOptions
from connectrio.rpc.testing import memory_transport_pair
from rpc.kit.frames import Data, Headers, Reset
from rpc.kit.raw import RawPeer
from rpc.kit.script import Note, Script, ScriptStub
from rpc.kit.serving import PATIENCE, eventually, in_memory, leaving_nothing, turns

STEPS = range(40)
LARGE = Note("x" * 100_000)

Victim = Callable[[ScriptStub], Awaitable[Any]]


async def cancel_after(steps: int, channel: Channel, victim: Victim) -> None:
    """Cancel the call after so many turns of the event loop; it may be done before."""
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            try:
                await victim(ScriptStub(channel))
            except GRPCError as error:
                assert error.status is Status.UNAVAILABLE  # noqa: PT017 - a lost connection may come first

        tasks.start_soon(run)
        await turns(steps)
        tasks.cancel_scope.cancel()


async def unary(stub: ScriptStub) -> None:
    await stub.unary(LARGE)


async def bidi(stub: ScriptStub) -> None:
    async for _ in stub.bidi([LARGE, Note("b"), LARGE]):
        pass


async def client_streaming(stub: ScriptStub) -> None:
    await stub.client_streaming([LARGE, LARGE])


each_victim = pytest.mark.parametrize("victim", [unary, bidi, client_streaming])


@each_victim
async def test_on_a_connection_with_one_slot(victim: Victim):
    async with in_memory(Script(), options=ServerOptions(max_concurrent_streams=1)) as served:
        await served.stub.unary(Note())
        for steps in STEPS:
            await cancel_after(steps, served.channel, victim)
            assert await served.stub.unary(Note(str(steps)), timeout=PATIENCE) == Note(str(steps))
            assert not served.channel._policy.is_busy
            assert not served.channel._queue


@each_victim
async def test_in_line_behind_another(victim: Victim):
    async with in_memory(Script(), options=ServerOptions(max_concurrent_streams=1)) as served:
        for steps in STEPS:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(served.stub.unary, LARGE)
                tasks.start_soon(cancel_after, steps, served.channel, victim)
                tasks.start_soon(served.stub.unary, Note("behind"))
            assert not served.channel._policy.is_busy
            assert not served.channel._queue


async def test_while_connecting():
    async with in_memory(Script()) as served:
        for steps in STEPS:
            [address] = await served.channel._target.resolve()
            async with Channel(address.connect, options=ChannelOptions(close_timeout=0.01)) as channel:
                await cancel_after(steps, channel, unary)
                assert await ScriptStub(channel).unary(Note("next"), timeout=PATIENCE) == Note("next")


@pytest.mark.parametrize("steps", range(0, 30, 3))
async def test_leaving_the_channel_itself(steps: int):
    async with leaving_nothing(), anyio.create_task_group() as servers:
        server = Server([Script()])

        async def connect():
            ours, theirs = memory_transport_pair()
            servers.start_soon(server.serve_connection, theirs)
            return ours

        async def use() -> None:
            async with Channel(connect, options=ChannelOptions(close_timeout=0.01)) as channel:
                await bidi(ScriptStub(channel))

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(use)
                await turns(steps)
                scope.cancel()
        await eventually(lambda: server.active_calls == 0)
        servers.cancel_scope.cancel()


class Refusing:
    """A server with one slot that refuses every other call, half-way through its request."""

    def __init__(self) -> None:
        self.refused = 0

    async def serve(self, transport: Any) -> None:
        peer = RawPeer(transport)
        settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 1, SettingCodes.INITIAL_WINDOW_SIZE: 40_000}
        await peer.send(peer.make.settings(settings), peer.make.settings_ack(), peer.make.window_update(0, 2**30))
        stream_id = 1
        async with transport:
            try:
                while True:
                    await self._serve_stream(peer, stream_id, refuse=stream_id % 4 == 1)
                    stream_id += 2
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    async def _serve_stream(self, peer: RawPeer, stream_id: int, *, refuse: bool) -> None:
        await peer.until(lambda frame: isinstance(frame, Headers) and frame.stream_id == stream_id)
        if refuse:
            self.refused += 1
            await peer.send(peer.make.reset(stream_id, ErrorCodes.REFUSED_STREAM))
            return
        await peer.send(peer.make.window_update(stream_id, 10**6))
        frames = await peer.whole(stream_id)
        if any(isinstance(frame, Reset) for frame in frames):
            return
        data = b"".join(frame.data for frame in frames if isinstance(frame, Data))
        await peer.send(
            peer.make.headers(stream_id, [(":status", "200"), ("content-type", "application/grpc")]),
            peer.make.message(stream_id, data[5:15]),
            peer.make.headers(stream_id, [("grpc-status", "0")], end_stream=True),
        )


@asynccontextmanager
async def refusing() -> AsyncIterator[tuple[Refusing, Channel]]:
    server = Refusing()
    async with leaving_nothing(), anyio.create_task_group() as servers:

        async def connect():
            ours, theirs = memory_transport_pair()
            servers.start_soon(server.serve, theirs)
            return ours

        async with Channel(connect, options=ChannelOptions(close_timeout=0.01)) as channel:
            yield server, channel
        servers.cancel_scope.cancel()


@pytest.mark.parametrize("victim", [unary, client_streaming])
async def test_while_it_is_made_again(victim: Victim):
    async with refusing() as (server, channel):
        for steps in STEPS:
            await cancel_after(steps, channel, victim)
            call = ScriptStub(channel)
            # a cancelled call may leave the even number that is refused to this one, once
            assert await call.unary(Note("0123456789"), timeout=PATIENCE) == Note("0123456789")
            assert not channel._policy.is_busy
            assert not channel._queue
    assert server.refused > 20
