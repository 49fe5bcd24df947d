"""The end of a server whose connections have TLS, which has no half-closed connections of its own."""

from __future__ import annotations

import ssl
from functools import partial

import anyio
import anyio.to_thread
import grpc
import pytest
from anyio.streams.tls import TLSStream
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.rpc import ServerOptions
from connectrio.rpc.tls import ChannelTLS, ServerTLS
from rpc.kit.certificates import Pki
from rpc.kit.frames import GoAway, Settings
from rpc.kit.raw import RawPeer
from rpc.kit.script import UNARY, Note, Script
from rpc.kit.tls_serving import PATIENCE, Served, calling, client_context, eventually, serving

# seconds; longer than any test may take, so that whoever waits for it fails
NEVER = 1000.0


def server_tls(pki: Pki, **options) -> ServerTLS:
    return ServerTLS(pki.server.cert, pki.server.key, **options)


async def raw_client(served: Served, pki: Pki, **versions: ssl.TLSVersion) -> RawPeer:
    """A client that does nothing by itself, and whose TLS is not ours."""
    transport = await anyio.connect_tcp("127.0.0.1", served.port)
    context = client_context(pki, alpn=["h2"], **versions)
    stream = await TLSStream.wrap(transport, hostname="localhost", ssl_context=context, standard_compatible=False)
    client = RawPeer(stream)
    await client.send(client.make.preface({}), client.make.settings_ack())
    return client


def connections(served: Served) -> int:
    return len(served.server._connections)


async def read_to_the_end(client: RawPeer) -> None:
    while True:
        await client.transport.receive()


class Slow(Script):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.called, self.may_answer = anyio.Event(), anyio.Event()

    async def _answer(self, stream) -> None:
        note = await stream.recv_message()
        self.called.set()
        await self.may_answer.wait()
        await stream.send_message(note)


async def test_a_call_in_flight_is_answered(pki: Pki):
    script = Slow()
    answers = []

    async def call() -> None:
        answers.append(await stub.unary(Note("a" * 1_000_000)))

    async with (
        serving(server_tls(pki), script=script, options=ServerOptions(linger=NEVER)) as served,
        calling(served.target, ChannelTLS(pki.ca)) as stub,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await script.called.wait()
            tasks.start_soon(served.server.shutdown)
            await eventually(lambda: served.server._draining)
            script.may_answer.set()
        assert answers == [Note("a" * 1_000_000)]
        assert connections(served) == 0


async def test_a_call_that_takes_too_long_is_told_so(pki: Pki):
    script = Slow()

    async def call() -> None:
        with pytest.raises(GRPCError) as raised:
            await stub.unary(Note())
        assert raised.value.status is Status.UNAVAILABLE
        assert raised.value.message == "the server is shutting down"

    async with (
        serving(server_tls(pki), script=script, options=ServerOptions(linger=NEVER)) as served,
        calling(served.target, ChannelTLS(pki.ca)) as stub,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(call)
        await script.called.wait()
        await served.server.shutdown(grace=0.01)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_client_hears_the_end_in_tls_as_well(pki: Pki, version: ssl.TLSVersion):
    """A TLS stream that insists on close_notify would raise for a connection that was just closed."""
    async with serving(server_tls(pki), options=ServerOptions(drain_ping_timeout=0.05)) as served:
        client = await raw_client(served, pki, maximum=version)
        client.transport.standard_compatible = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.server.shutdown)
            await client.until(lambda frame: isinstance(frame, GoAway))
            with pytest.raises(anyio.EndOfStream):
                await read_to_the_end(client)
            await anyio.aclose_forcefully(client.transport.transport_stream)


async def test_a_client_that_does_not_close_is_left_after_a_while(pki: Pki):
    options = ServerOptions(linger=0.05, drain_ping_timeout=0.05)
    async with serving(server_tls(pki), options=options) as served:
        client = await raw_client(served, pki)
        await client.until(lambda frame: isinstance(frame, Settings))
        await served.server.shutdown()
        assert connections(served) == 0
        await anyio.aclose_forcefully(client.transport.transport_stream)


async def test_an_idle_grpcio_client_holds_nothing_up(pki: Pki):
    options = ServerOptions(linger=NEVER, drain_ping_timeout=NEVER)
    async with serving(server_tls(pki), options=options) as served:
        with grpc.secure_channel(served.target, grpc.ssl_channel_credentials(pki.ca.read_bytes())) as channel:
            await anyio.to_thread.run_sync(partial(channel.unary_unary(UNARY), b"", timeout=PATIENCE))
            assert connections(served) == 1
            await served.server.shutdown()
            assert connections(served) == 0


# handshakes while the server shuts down


async def silent_client(served: Served) -> anyio.abc.SocketStream:
    transport = await anyio.connect_tcp("127.0.0.1", served.port)
    # one whose time is short may have been given up by now
    await eventually(lambda: connections(served) == 1 or bool(served.refusals()))
    return transport


async def test_a_handshake_that_does_not_end_is_given_up_with_the_grace(pki: Pki):
    async with serving(server_tls(pki, handshake_timeout=NEVER)) as served, await silent_client(served) as transport:
        await served.server.shutdown(grace=0.01)
        assert connections(served) == 0
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await transport.receive()


async def test_a_handshake_that_does_not_end_is_given_up_with_its_own_time(pki: Pki):
    async with serving(server_tls(pki, handshake_timeout=0.05)) as served, await silent_client(served):
        await served.server.shutdown()
        assert connections(served) == 0


async def test_a_client_that_was_accepted_in_time_is_served(pki: Pki):
    """The server sends settings first, as HTTP/2 requires, then GOAWAY, and answers the call."""
    options = ServerOptions(drain_ping_timeout=NEVER)
    async with serving(server_tls(pki, handshake_timeout=NEVER), options=options) as served:
        transport = await silent_client(served)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.server.shutdown)
            await eventually(lambda: served.server._draining)
            context = client_context(pki, alpn=["h2"])
            stream = await TLSStream.wrap(
                transport, hostname="localhost", ssl_context=context, standard_compatible=False
            )
            client = RawPeer(stream)
            await client.send(
                client.make.preface({}),
                client.make.settings_ack(),
                client.make.request(1),
                client.make.message(1, b"late", end_stream=True),
            )
            assert (await client.trailers(1))["grpc-status"] == "0"
            first, goaway = client.seen[0], next(frame for frame in client.seen if isinstance(frame, GoAway))
            assert isinstance(first, Settings)
            assert goaway.last_stream_id == 2**31 - 1
            await stream.aclose()
