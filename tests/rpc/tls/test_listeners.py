"""Listeners of every kind on one server at once."""

from __future__ import annotations

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from connectrio.rpc import Server
from connectrio.rpc.sockets import listen_unix
from connectrio.rpc.testing import memory_transport_pair
from connectrio.rpc.tls import ChannelTLS, ServerTLS
from rpc.kit.certificates import Pki, issue
from rpc.kit.script import Note, Script
from rpc.kit.tls_serving import PATIENCE, answers, calling, serving


async def test_tls_plaintext_and_unix_sockets_together(pki: Pki):
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    plain_port = plain.extra(SocketAttribute.local_port)
    other = issue(pki.directory, "other", "other.example.com")
    other_tls = ServerTLS(other.cert, other.key).listen(await anyio.create_tcp_listener(local_host="127.0.0.1"))
    other_port = other_tls.extra(SocketAttribute.local_port)
    unix = await listen_unix(pki.directory / "socket")
    async with (
        serving(ServerTLS(pki.server.cert, pki.server.key), plain, other_tls, unix) as served,
        calling(served.target, ChannelTLS(pki.ca)) as one,
        calling(f"localhost:{other_port}", ChannelTLS(pki.ca, server_hostname="other.example.com")) as two,
        calling(f"localhost:{plain_port}", None) as three,
        calling(f"unix:{pki.directory / 'socket'}", None) as four,
    ):
        for stub in (one, two, three, four):
            assert await stub.unary(Note("a")) == Note("a")
        await served.server.shutdown()
        assert served.server.active_calls == 0
    assert not (pki.directory / "socket").exists()


async def test_tls_on_a_unix_socket(pki: Pki):
    """A servicer can identify the client by its certificate."""
    tls = ServerTLS(pki.server.cert, pki.server.key, client_ca=pki.ca)
    path = pki.directory / "socket"
    async with serving(None, tls.listen(await listen_unix(path))):
        assert await answers(f"unix:{path}", ChannelTLS(pki.ca, pki.client.cert, pki.client.key))


async def test_the_addresses_of_all_are_reported_in_order(pki: Pki):
    server = Server([Script()])
    tls = ServerTLS(pki.server.cert, pki.server.key)
    tcp = await anyio.create_tcp_listener(local_host="127.0.0.1")
    listeners = [await listen_unix(pki.directory / "socket"), tls.listen(tcp)]
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(server.serve, listeners)
        assert addresses == [str(pki.directory / "socket"), ("127.0.0.1", tcp.extra(SocketAttribute.local_port))]
        tasks.cancel_scope.cancel()


async def test_a_listener_of_several_sockets(pki: Pki):
    tcp = await anyio.create_tcp_listener(local_host="localhost")
    listener = ServerTLS(pki.server.cert, pki.server.key).listen(tcp)
    ports = {each.extra(SocketAttribute.local_port) for each in listener.listeners}
    async with serving(None, listener):
        for port in ports:
            assert await answers(f"localhost:{port}", ChannelTLS(pki.ca))


async def test_a_tls_listener_serves_other_protocols_than_ours_as_well(pki: Pki):
    """Like every listener of anyio's: the handler gets the connections whose handshake succeeded."""
    tls = ServerTLS(pki.server.cert, pki.server.key, handshake_timeout=0.05)
    [listener] = tls.listen(await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners
    port = listener.extra(SocketAttribute.local_port)
    seen = []

    async def handle(stream) -> None:
        seen.append(stream.extra(TLSAttribute.alpn_protocol))
        await stream.send(b"hello")
        await stream.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        async with await anyio.connect_tcp("127.0.0.1", port) as silent:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await silent.receive()
        tls.handshake_timeout = PATIENCE
        async with await ChannelTLS(pki.ca).secure(await anyio.connect_tcp("127.0.0.1", port), "localhost") as stream:
            assert await stream.receive() == b"hello"
        tasks.cancel_scope.cancel()
    await listener.aclose()
    assert seen == ["h2"]


async def test_a_connection_from_elsewhere(pki: Pki):
    """A transport that no listener has accepted."""
    server, tls = Server([Script()]), ServerTLS(pki.server.cert, pki.server.key)

    async def connect():
        ours, theirs = memory_transport_pair()
        tasks.start_soon(server.serve_connection, tls.wrap(theirs))
        return ours

    async with anyio.create_task_group() as tasks:
        assert await answers(connect, ChannelTLS(pki.ca))
