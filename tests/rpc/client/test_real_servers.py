"""Our channel against grpcio's server and grpclib's own, on every backend."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest
from anyio import to_thread
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from connectrio.rpc import Channel, ChannelOptions
from connectrio.rpc.options import MIB
from rpc.kit.commanded import FAILURE, LARGE, Commanded, GrpcioCommanded, Sleeps
from rpc.kit.real_clients import PATHS
from rpc.kit.script import Note, ScriptStub
from rpc.kit.serving import PATIENCE, eventually, held_port, leaving_nothing, timeouts

LARGE_OPTIONS = ChannelOptions(max_receive_message_size=16 * MIB)


@dataclass
class RealServer:
    """Somebody else's server.

    :ivar sleeps: how the calls that were told to sleep fare
    """

    port: int
    sleeps: Sleeps


@asynccontextmanager
async def grpcio(port: int = 0) -> AsyncIterator[RealServer]:
    grpc = pytest.importorskip("grpc", reason="needs the package grpcio")
    servicer = GrpcioCommanded(grpc)
    with ThreadPoolExecutor(4) as workers:
        server = grpc.server(workers, handlers=[servicer.handlers()], options=[("grpc.so_reuseport", 0)])
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield RealServer(port, servicer.sleeps)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(server.stop(None).wait)


@asynccontextmanager
async def grpclib() -> AsyncIterator[RealServer]:
    """On an event loop of asyncio's in a thread of its own."""
    from grpclib.server import Server

    servicer = Commanded()
    started, stop = threading.Event(), asyncio.Event()
    found: list[int] = []

    async def serve() -> None:
        server = Server([servicer])
        await server.start("127.0.0.1", 0)
        found.append(server._server.sockets[0].getsockname()[1])  # type: ignore[union-attr]
        loops.append(asyncio.get_running_loop())
        started.set()
        await stop.wait()
        server.close()
        await server.wait_closed()

    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    await to_thread.run_sync(started.wait)
    try:
        yield RealServer(found[0], servicer.sleeps)
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(thread.join)


each_server = pytest.mark.parametrize("server", [grpcio, grpclib])
each_cardinality = pytest.mark.parametrize("cardinality", list(Cardinality))


@asynccontextmanager
async def connected_to(server, options: ChannelOptions | None = None):
    async with leaving_nothing(), server() as real, Channel(f"127.0.0.1:{real.port}", options=options) as channel:
        yield real, channel


async def call(channel: Channel, cardinality: Cardinality, texts: list[str], **options) -> list[str]:
    """A call by a stub; its replies."""
    stub = ScriptStub(channel)
    notes = [Note(text) for text in texts]
    if cardinality is Cardinality.UNARY_UNARY:
        return [(await stub.unary(notes[0], **options)).text]
    if cardinality is Cardinality.STREAM_UNARY:
        return [(await stub.client_streaming(notes, **options)).text]
    streaming = (
        stub.server_streaming(notes[0], **options) if not cardinality.client_streaming else stub.bidi(notes, **options)
    )
    async with aclosing(streaming) as replies:
        return [reply.text async for reply in replies]


@each_server
@each_cardinality
async def test_calls_of_every_cardinality(server, cardinality: Cardinality):
    texts = ["a", "", "ü"] if cardinality.client_streaming else ["a"]
    async with connected_to(server) as (_, channel):
        for _ in range(3):
            replies = await call(channel, cardinality, texts)
            assert replies == (["aü"] if cardinality is Cardinality.STREAM_UNARY else texts)


@each_server
@each_cardinality
async def test_large_messages(server, cardinality: Cardinality):
    texts = [LARGE] * 3 if cardinality.client_streaming else [LARGE]
    async with connected_to(server, LARGE_OPTIONS) as (_, channel):
        assert "".join(await call(channel, cardinality, texts)) == "".join(texts)
        assert await call(channel, cardinality, ["large"]) == [LARGE]


@each_server
@each_cardinality
async def test_errors(server, cardinality: Cardinality):
    async with connected_to(server) as (_, channel):
        for _ in range(3):
            with pytest.raises(GRPCError) as raised:
                await call(channel, cardinality, ["fail"])
            assert (raised.value.status, raised.value.message) == FAILURE


@each_server
@each_cardinality
async def test_metadata_both_ways(server, cardinality: Cardinality):
    metadata = {"x-text": "a, b", "x-raw-bin": bytes(range(256))}
    async with (
        connected_to(server) as (_, channel),
        channel.request(PATHS[cardinality], cardinality, Note, Note, metadata=metadata) as stream,
    ):
        await stream.send_message(Note("a"), end=True)
        assert await stream.recv_message() == Note("a")
        await stream.recv_trailing_metadata()
        for seen in stream.initial_metadata, stream.trailing_metadata:
            assert {key: value for key, value in seen.items() if key.startswith("x-")} == metadata


@each_server
@each_cardinality
async def test_deadlines(server, cardinality: Cardinality):
    async with connected_to(server) as (real, channel):
        for timeout in timeouts():
            with pytest.raises(GRPCError) as raised:
                await call(channel, cardinality, ["sleep"], timeout=timeout)
            assert raised.value.status is Status.DEADLINE_EXCEEDED
            if real.sleeps.begun.is_set():
                break
        await eventually(real.sleeps.cancelled.is_set)
        assert await call(channel, cardinality, ["on"]) == ["on"]


@each_server
@each_cardinality
async def test_cancelling(server, cardinality: Cardinality):
    async with connected_to(server) as (real, channel):
        async with channel.request(PATHS[cardinality], cardinality, Note, Note) as stream:
            await stream.send_message(Note("sleep"), end=True)
            await eventually(real.sleeps.begun.is_set)
            await stream.cancel()
        await eventually(real.sleeps.cancelled.is_set)
        assert await call(channel, cardinality, ["on"]) == ["on"]


@each_server
async def test_leaving_in_the_middle_of_a_stream(server):
    async def questions():
        yield Note("a")
        yield Note("sleep")
        await anyio.sleep_forever()

    async with connected_to(server) as (real, channel):
        async with aclosing(ScriptStub(channel).bidi(questions())) as replies:
            assert await anext(replies) == Note("a")
            await eventually(real.sleeps.begun.is_set)
        await eventually(real.sleeps.cancelled.is_set)


@each_server
async def test_unknown_methods(server):
    async with connected_to(server) as (_, channel):
        with pytest.raises(GRPCError) as raised:
            await ScriptStub(channel)._unary_unary("/test.Script/Nothing", Note(), Note)
        assert raised.value.status is Status.UNIMPLEMENTED


async def test_a_server_that_stops_and_one_that_comes_in_its_place():
    """grpcio's says goodbye; grpclib's just forgets its connections."""
    options = ChannelOptions(initial_backoff=0.001)
    with held_port() as port:
        async with leaving_nothing(), Channel(f"127.0.0.1:{port}", options=options) as channel:
            for _ in range(2):
                async with grpcio(port):
                    with anyio.fail_after(PATIENCE):
                        await channel.wait_until_ready()
                    assert await call(channel, Cardinality.UNARY_UNARY, ["a"]) == ["a"]
                with pytest.raises(GRPCError) as raised:
                    await call(channel, Cardinality.UNARY_UNARY, ["b"])
                assert raised.value.status is Status.UNAVAILABLE


@each_server
async def test_many_calls_at_once(server):
    async with connected_to(server) as (_, channel), anyio.create_task_group() as tasks:

        async def one(text: str) -> None:
            assert await call(channel, Cardinality.UNARY_UNARY, [text]) == [text]

        for number in range(100):
            tasks.start_soon(one, str(number))
