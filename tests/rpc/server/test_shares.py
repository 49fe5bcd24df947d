"""What one client may take of a server: memory, time, windows and connections."""

from __future__ import annotations

import zlib
from contextlib import AsyncExitStack
from unittest.mock import Mock

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.diagnostics import Repeats
from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.rpc import Channel, Server, ServerOptions
from connectrio.rpc._grpc import compress, frame_message
from connectrio.rpc._server import server as _server
from connectrio.rpc._server import stream as server_stream
from connectrio.rpc._server.connections import Connections, FullError
from connectrio.rpc._server.memory import NoRoomError, RequestMemory
from connectrio.rpc.codec import decode, encode
from connectrio.rpc.options import MIB
from rpc.kit.frames import Data, FrameFactory, Headers, request_headers
from rpc.kit.raw import raw_client
from rpc.kit.script import CLIENT_STREAMING, SERVER_STREAMING, Note, Script, ScriptStub
from rpc.kit.serving import eventually, in_memory, leaving_nothing, listening, turns
from rpc.kit.virtual_time import LONG, in_virtual_time

# memory and time for a request to arrive


def begun(make, stream_id: int, size: int, *, of: int, path: str = "/test.Script/Unary") -> bytes:
    """A request and `size` bytes of its message of `of` bytes."""
    return make.request(stream_id, path) + make.data(stream_id, frame_message(b"x" * of)[:size])


def status(trailers: Headers) -> Status:
    return Status(int(trailers["grpc-status"]))


@pytest.mark.parametrize("path", ["/test.Script/Unary", CLIENT_STREAMING])
async def test_the_largest_unfinished_request_gives_way(path):
    async with leaving_nothing():
        server = Server([Script()], options=ServerOptions(max_request_memory=10_000))
        async with raw_client(server) as client:
            make = client.make
            await client.send(begun(make, 1, 2000, of=2001, path=path), begun(make, 3, 5000, of=9000, path=path))
            await turns()
            await client.send(begun(make, 5, 4000, of=4001, path=path))
            trailers = await client.trailers(3)
            assert status(trailers) is Status.RESOURCE_EXHAUSTED
            assert "max_request_memory" in trailers["grpc-message"]
            # what it held is free again, and the others are answered
            await client.send(begun(make, 7, 2500, of=2501, path=path))
            for stream_id, size in (1, 2001), (5, 4001), (7, 2501):
                rest = frame_message(b"x" * size)[{2001: 2000, 4001: 4000, 2501: 2500}[size] :]
                await client.send(make.data(stream_id, rest, end_stream=True))
                assert status(await client.trailers(stream_id)) is Status.OK
            assert server._memory._total == 0
            assert not server._memory._held


async def test_unfinished_requests_of_all_connections_count():
    async with leaving_nothing():
        server = Server([Script()], options=ServerOptions(max_request_memory=10_000))
        async with raw_client(server) as one, raw_client(server) as other:
            await one.send(begun(one.make, 1, 6000, of=9000))
            await turns()
            await other.send(begun(other.make, 1, 5000, of=9000))
            assert status(await one.trailers(1)) is Status.RESOURCE_EXHAUSTED
            await one.transport.aclose()
            await other.transport.aclose()
        await eventually(lambda: server._memory._total == 0)


@in_virtual_time
async def test_a_request_has_a_time_to_arrive():
    async with leaving_nothing(LONG):
        server = Server([Script()])
        async with raw_client(server) as client:
            began = anyio.current_time()
            await client.send(begun(client.make, 1, 10, of=20), begun(client.make, 3, 10, of=20, path=CLIENT_STREAMING))
            for _ in range(5):  # each byte may come late, but not all of them
                await anyio.sleep(9)
                await client.send(client.make.data(1, b"x"))
            trailers = await client.trailers(1)
            assert status(trailers) is Status.DEADLINE_EXCEEDED
            assert "did not arrive within 60 s" in trailers["grpc-message"]
            assert anyio.current_time() - began == pytest.approx(60)
            await anyio.sleep(3600)
            assert client.of(3) == []  # a stream of requests may take as long as it likes
            await client.transport.aclose()


async def test_a_large_message_is_refused_while_others_hold_all_memory():
    """Messages are counted for as long as they exist, whoever holds them."""
    kept: list[Note] = []

    async def keep(stream) -> None:
        note = await stream.recv_message()
        if note.text.startswith("keep"):
            kept.append(note)
        await stream.send_message(Note(note.text[:4]))

    async with in_memory(Script(keep), options=ServerOptions(max_request_memory=500_000)) as served:

        async def call(text: str) -> None:
            assert (await served.stub.unary(Note(text))).text == text[:4]

        await call("alone" * 60_000)
        await call("keep" + "x" * 100_000)
        for _ in range(5):
            with pytest.raises(GRPCError, match="max_request_memory") as raised:
                await call("more" * 10_000)
            assert raised.value.status is Status.RESOURCE_EXHAUSTED
            await call("small" * 2000)  # neither creates of the usual size nor polls are refused
        kept.clear()
        await call("more" * 10_000)
        assert not served.server._memory._decoded


def test_a_message_of_many_parts_counts_for_more():
    memory = RequestMemory(500_000)
    data = encode(CreateTaskRequest(inputs=Inputs(literals=[NamedLiteral()] * 1000)))
    assert len(data) < 3000
    request = decode(data, CreateTaskRequest)
    memory.keep(request, len(data))
    with pytest.raises(NoRoomError):
        memory.keep(decode(data, CreateTaskRequest), len(data))
    request.inputs = None  # most of the request is free again
    memory.keep(decode(data, CreateTaskRequest), len(data))
    memory.keep({"of another": "codec"}, 100_000)  # nothing can refer to a dict weakly


async def test_a_compressed_request_is_small_while_it_waits_for_the_thread_that_decodes(monkeypatch):
    sizes = []

    def decompress(data, encoding, limit):
        sizes.append(limit)
        return zlib.decompressobj(wbits=31).decompress(data, limit) if limit > MIB else original(data, encoding, limit)

    original = server_stream.decompress
    monkeypatch.setattr(server_stream, "decompress", decompress)
    async with leaving_nothing():
        # room for all of them when they are decoded: how many are at once depends on how soon answers are sent
        server = Server([Script()], options=ServerOptions(max_request_memory=256 * MIB))
        bomb = frame_message(compress(b"x" * 4 * MIB, "gzip"), compressed=True)
        async with raw_client(server) as client:
            async with server._decode_turn:
                for stream_id in range(1, 20, 2):
                    headers = [*request_headers(), ("grpc-encoding", "gzip")]
                    await client.send(client.make.headers(stream_id, headers))
                    await client.send(client.make.data(stream_id, bomb, end_stream=True))
                await eventually(lambda: len(sizes) == 10)
                await turns()
                assert max(sizes) < MIB
            for stream_id in range(1, 20, 2):
                assert status(await client.trailers(stream_id)) is Status.OK
            assert sizes.count(4 * MIB) == 10


# windows


async def page(stream):
    await stream.recv_message()
    while True:
        await stream.send_message(Note("x" * 64 * 1024))


@in_virtual_time
@pytest.mark.parametrize("crumbs", [0, 10], ids=["shut", "opened by a byte now and then"])
async def test_a_stream_that_is_not_read_ends_and_the_others_go_on(crumbs):
    async with leaving_nothing(LONG):
        server = Server([Script(server_streaming=page)])
        async with raw_client(server, {4: 100}) as client:
            began = anyio.current_time()
            await client.send(client.make.request(1, SERVER_STREAMING), client.make.message(1, b"", end_stream=True))
            for _ in range(crumbs):
                await anyio.sleep(5)
                await client.send(client.make.window_update(1, 1))
            trailers = await client.trailers(1)
            assert status(trailers) is Status.RESOURCE_EXHAUSTED
            assert "has not read a message within 60 s" in trailers["grpc-message"]
            assert anyio.current_time() - began == pytest.approx(60, abs=0.1)
            await client.send(client.make.request(3), client.make.message(3, b"a", end_stream=True))
            assert status(await client.trailers(3)) is Status.OK


@in_virtual_time
async def test_a_stream_that_is_read_slowly_goes_on():
    async with leaving_nothing(LONG):
        server = Server([Script(server_streaming=page)])
        async with raw_client(server, {4: 100}) as client:
            await client.send(client.make.request(1, SERVER_STREAMING), client.make.message(1, b"", end_stream=True))
            for _ in range(20):
                await anyio.sleep(50)
                await client.send(client.make.window_update(1, 64 * 1024), client.make.window_update(0, 64 * 1024))
            await client.until(lambda frame: isinstance(frame, Data))
            await turns(100)
            assert not [frame for frame in client.of(1) if isinstance(frame, Headers) and frame.end_stream]
            await client.transport.aclose()


# connections


async def connect(stack: AsyncExitStack, port: int, host: str = "127.0.0.1"):
    """Open a connection from that address, and say hello."""
    stream = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port, local_host=host))
    await stream.send(FrameFactory().preface())
    return stream


def from_address(port: int, host: str):
    """What connects a channel to the server from that address."""

    async def connect():
        return await anyio.connect_tcp("127.0.0.1", port, local_host=host)

    return connect


async def has_ended(stream) -> bool:
    """Read until the end."""
    try:
        while True:
            await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return True


OPTIONS = ServerOptions(max_connections=10, drain_ping_timeout=0.05, linger=0.05)


async def test_an_idle_connection_makes_room_for_another_of_its_address():
    async with leaving_nothing(), AsyncExitStack() as stack:
        server = Server([Script()], options=OPTIONS)
        port = await stack.enter_async_context(listening(server))
        idle = []
        for count in range(5):
            idle.append(await connect(stack, port))
            await eventually(lambda count=count: len(server._connections) == count + 1)
        async with Channel(f"127.0.0.1:{port}") as channel:
            assert await ScriptStub(channel).unary(Note("a")) == Note("a")
            assert await has_ended(idle[0])
        await eventually(lambda: len(server._connections) == 4)


async def test_connections_that_are_told_to_go_and_stay_do_not_shut_others_out():
    options = ServerOptions(max_connections=20, linger=LONG)
    async with leaving_nothing(), AsyncExitStack() as stack:
        ends: list[str] = []
        server = Server([Script()], options=options, on_connection_end=ends.append)
        port = await stack.enter_async_context(listening(server))
        streams = [await connect(stack, port) for _ in range(20)]
        for refused in streams[12:]:
            assert await has_ended(refused)
        assert len(server._connections) == 12  # ten, and two that were told to go
        assert ends == ["refused"] * 8
        async with Channel(from_address(port, "127.0.0.2")) as channel:
            assert await ScriptStub(channel).unary(Note("a")) == Note("a")


async def test_a_network_of_ipv6_has_the_share_of_one_address():
    connections = Connections(10)
    for number in range(5):
        peer = (f"2001:db8::{number}", 5000, 0, 0)
        connections.check_room(peer)
        connections.add(Mock(**{"core.idle_since": None}), peer)
    with pytest.raises(FullError, match="2001:db8::/64 has more than its share"):
        connections.check_room(("2001:db8::ffff:6", 5000, 0, 0))
    connections.check_room(("2001:db8:0:1::1", 5000, 0, 0))


async def test_a_busy_connection_makes_no_room(monkeypatch):
    monkeypatch.setattr(_server.log, "_repeats", Repeats())  # other tests have logged that a moment ago
    release, answers = anyio.Event(), []

    async def call(channel) -> None:
        answers.append(await ScriptStub(channel).unary(Note("a")))

    async def wait(stream):
        note = await stream.recv_message()
        await release.wait()
        await stream.send_message(note)

    async with leaving_nothing() as log, AsyncExitStack() as stack:
        server = Server([Script(wait)], options=OPTIONS)
        port = await stack.enter_async_context(listening(server))
        calls = await stack.enter_async_context(anyio.create_task_group())
        for count in range(5):
            channel = await stack.enter_async_context(Channel(f"127.0.0.1:{port}"))
            calls.start_soon(call, channel)
            await eventually(lambda count=count: server.active_calls == count + 1)
        assert await has_ended(await connect(stack, port))
        [line] = [line for line in log if line["event"].startswith("a connection was closed")]
        assert line["reason"].startswith("127.0.0.1 has more than its share")
        async with Channel(from_address(port, "127.0.0.2")) as other:  # another address is not shut out
            calls.start_soon(call, other)
            await eventually(lambda: server.active_calls == 6)
            release.set()
            await eventually(lambda: len(answers) == 6)


async def test_when_it_is_crowded_the_address_with_the_most_connections_makes_room():
    async with leaving_nothing(), AsyncExitStack() as stack:
        server = Server([Script()], options=OPTIONS)
        port = await stack.enter_async_context(listening(server))
        idle = []
        for count in range(9):
            idle.append(await connect(stack, port, "127.0.0.1" if count % 2 == 0 else "127.0.0.2"))
            await eventually(lambda count=count: len(server._connections) == count + 1)
        async with Channel(from_address(port, "127.0.0.3")) as channel:
            assert await ScriptStub(channel).unary(Note("a")) == Note("a")
            assert await has_ended(idle[0])
        await eventually(lambda: len(server._connections) == 8)
