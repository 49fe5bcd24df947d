"""The numbers of a server: connections, streams, bytes, resets, refusals."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
from anyio import to_thread
from grpclib import GRPCError
from h2.errors import ErrorCodes

from connectrio.rpc import Channel, Server, ServerOptions, listen_unix
from connectrio.rpc.tls import ChannelTLS, ServerTLS
from rpc.kit.certificates import Pki
from rpc.kit.core import ServerCore
from rpc.kit.frames import Headers, Ping
from rpc.kit.raw import raw_client
from rpc.kit.script import UNARY, Note, Script, ScriptStub
from rpc.kit.serving import eventually, in_memory, leaving_nothing
from rpc.kit.tls_serving import serving


async def test_connections_are_counted_by_kind_while_they_are_open(pki: Pki):
    tls = ServerTLS(pki.server.cert, pki.server.key)
    path = pki.directory / "grpc.sock"
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = plain.extra(anyio.abc.SocketAttribute.local_port)
    async with serving(tls, plain, await listen_unix(path)) as served:
        assert served.server.stats.connections == {}
        async with (
            Channel(served.target, tls=ChannelTLS(pki.ca)) as one,
            Channel(f"127.0.0.1:{port}") as two,
            Channel(f"unix:{path}") as three,
        ):
            for channel in (one, two, three):
                await ScriptStub(channel).unary(Note("hi"))
            assert served.server.stats.connections == {"tls": 1, "tcp": 1, "unix": 1}
            stats = await to_thread.run_sync(lambda: served.server.stats)
            assert (stats.streams, stats.streams_opened) == (0, 3)
        await eventually(lambda: served.server.stats.connections == {})
        assert served.server.stats.streams_opened == 3


async def test_bytes_are_those_of_http2():
    async with leaving_nothing():
        server = Server([Script()])
        async with raw_client(server) as client:
            await client.send(client.make.ping())
            await client.until(lambda frame: isinstance(frame, Ping))  # and all before it
            before = server.stats
            request = client.make.request(1, UNARY) + client.make.message(1, b"x" * 1000, end_stream=True)
            await client.send(request)
            await client.trailers(1)
            after = server.stats
            assert after.bytes_received - before.bytes_received == len(request)
            assert after.bytes_sent - before.bytes_sent > 1000
            await client.transport.aclose()
        # what connections have counted stays when they are gone
        await eventually(lambda: not server.stats.connections)
        assert server.stats.bytes_received == after.bytes_received


async def test_streams_are_counted_while_they_are_answered():
    answer = anyio.Event()

    async def wait(stream) -> None:
        await stream.recv_message()
        await answer.wait()
        await stream.send_message(Note("done"))

    async with in_memory(Script(wait)) as served, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(served.stub.unary, Note("hi"))
        await eventually(lambda: served.server.stats.streams == 3)
        assert served.server.stats.streams_opened == 3
        answer.set()
        await eventually(lambda: served.server.stats.streams == 0)


def reset_by_the_peer(core: ServerCore) -> None:
    core.request(1)
    core.exchange(core.peer.reset(1, ErrorCodes.CANCEL))


def reset_with_a_number_that_means_nothing(core: ServerCore) -> None:
    core.request(1)
    core.exchange(core.peer.reset(1, 4711))


def reset_by_the_application(core: ServerCore) -> None:
    core.request(1).reset(ErrorCodes.INTERNAL_ERROR)


def refused(core: ServerCore) -> None:
    for stream_id in (1, 3, 5):
        core.exchange(core.peer.request(stream_id))


def malformed(core: ServerCore) -> None:
    core.request(1)
    core.exchange(core.peer.window_update(1, 0))


def malformed_from_the_start(core: ServerCore) -> None:
    core.exchange(core.peer.headers(1, [(":method", "POST"), ("UPPER", "x")]))


def reset_after_the_answer(core: ServerCore) -> None:
    """The reset has crossed it: nothing was cut short."""
    stream = core.request(1)
    core.exchange(core.peer.data(1, b"", end_stream=True))
    stream.send_headers([(":status", "200")], end_stream=True)
    core.exchange(core.peer.reset(1))


def malformed_after_the_answer(core: ServerCore) -> None:
    stream = core.request(1)
    core.exchange(core.peer.data(1, b"", end_stream=True))
    stream.send_headers([(":status", "200")], end_stream=True)
    core.exchange(core.peer.window_update(1, 0))


@pytest.mark.parametrize(
    ("act", "counted"),
    [
        (reset_by_the_peer, {("peer", "CANCEL"): 1}),
        (reset_with_a_number_that_means_nothing, {("peer", "other"): 1}),
        (reset_by_the_application, {("us", "INTERNAL_ERROR"): 1}),
        (refused, {("us", "REFUSED_STREAM"): 1}),
        (malformed, {("us", "PROTOCOL_ERROR"): 1}),
        (malformed_from_the_start, {("us", "PROTOCOL_ERROR"): 1}),
        (reset_after_the_answer, {}),
        (malformed_after_the_answer, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_resets_are_counted_by_who_and_why(act, counted):
    core = ServerCore(max_concurrent_streams=2)
    act(core)
    assert core.connection.traffic.streams_reset == counted


async def test_requests_that_find_no_memory_are_counted():
    kept: list[Note] = []

    async def keep(stream) -> None:
        kept.append(await stream.recv_message())
        await stream.send_message(Note("kept"))

    async with in_memory(Script(keep), options=ServerOptions(max_request_memory=500_000)) as served:
        await served.stub.unary(Note("x" * 100_000))
        assert served.server.stats.refused_for_memory == 0
        with pytest.raises(GRPCError, match="max_request_memory"):
            await served.stub.unary(Note("x" * 100_000))
        assert served.server.stats.refused_for_memory == 1
        kept.clear()


async def test_unfinished_requests_that_give_way_are_counted():
    async with leaving_nothing():
        server = Server([Script()], options=ServerOptions(max_request_memory=10_000))
        async with raw_client(server) as client:
            for stream_id in (1, 3):
                begun = partial(client.make.data, stream_id, b"\0\0\0\xff\xff" + b"x" * 6000)
                await client.send(client.make.request(stream_id, UNARY), begun())
            refused = await client.until(lambda frame: isinstance(frame, Headers) and frame.end_stream)
            assert "max_request_memory" in refused["grpc-message"]
            assert server.stats.refused_for_memory == 1
            await client.transport.aclose()
