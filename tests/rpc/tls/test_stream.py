"""The TLS stream itself, over transports in memory that do what sockets do at their worst."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from anyio.abc import AnyByteStream
from anyio.streams.stapled import StapledObjectStream
from anyio.streams.tls import TLSAttribute

from connectrio.rpc._tls_stream import TLSByteStream
from connectrio.rpc.testing import memory_transport_pair
from connectrio.rpc.tls import ChannelTLS, ServerTLS, TLSHandshakeError
from rpc.kit.certificates import Pki

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

in_both_versions = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])


@asynccontextmanager
async def tls_pair(
    pki: Pki,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    transports: tuple[AnyByteStream, AnyByteStream] | None = None,
) -> AsyncIterator[tuple[TLSByteStream, TLSByteStream]]:
    """Return a client's and a server's stream, after the handshake."""
    ours, theirs = transports or memory_transport_pair()
    tls = ChannelTLS(pki.ca)
    tls._context.current().maximum_version = version
    server = ServerTLS(pki.server.cert, pki.server.key).wrap(theirs)
    async with ours, theirs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.handshake)
            client = await tls.secure(ours, "localhost:443")
        yield client, server


async def read(stream: TLSByteStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive()
    return data


async def rest(stream: TLSByteStream) -> list[bytes]:
    """Return what still arrives, until the end."""
    found = []
    with suppress(anyio.EndOfStream):
        while True:
            found.append(await stream.receive())
    return found


def in_single_bytes() -> tuple[AnyByteStream, AnyByteStream]:
    """Return transports that give one byte with each receive."""

    class Dribble(StapledObjectStream):
        async def send(self, item: bytes) -> None:
            for byte in item:
                await super().send(bytes([byte]))

    ours, theirs = memory_transport_pair()
    return (
        Dribble(ours.send_stream, ours.receive_stream),
        Dribble(theirs.send_stream, theirs.receive_stream),
    )


@in_both_versions
async def test_bytes_both_ways(pki: Pki, version: ssl.TLSVersion):
    async with tls_pair(pki, version) as (client, server):
        await client.send(b"ping")
        assert await server.receive() == b"ping"
        await server.send(b"pong" * 100_000)
        assert await read(client, 400_000) == b"pong" * 100_000


@in_both_versions
async def test_a_transport_that_gives_single_bytes(pki: Pki, version: ssl.TLSVersion):
    async with tls_pair(pki, version, in_single_bytes()) as (client, server):
        await client.send(b"ping")
        assert await server.receive() == b"ping"


async def test_no_more_is_received_than_asked_for(pki: Pki):
    async with tls_pair(pki) as (client, server):
        await client.send(b"abcdef")
        assert [await server.receive(4), await server.receive(4)] == [b"abcd", b"ef"]


@in_both_versions
async def test_the_end_is_said_and_heard(pki: Pki, version: ssl.TLSVersion):
    async with tls_pair(pki, version) as (client, server):
        await client.send(b"last")
        await client.send_eof()
        await client.send_eof()
        assert await server.receive() == b"last"
        with pytest.raises(anyio.EndOfStream):
            await server.receive()
        with pytest.raises(anyio.EndOfStream):
            await server.receive()


@in_both_versions
async def test_who_has_said_the_end_drops_what_still_comes(pki: Pki, version: ssl.TLSVersion):
    async with tls_pair(pki, version) as (client, server):
        await server.send(b"on its way")
        await client.send_eof()
        await server.send(b"late")
        await server.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await client.send(b"more")


@in_both_versions
async def test_the_end_is_said_while_another_task_receives(pki: Pki, version: ssl.TLSVersion):
    ended = anyio.Event()

    async def receive() -> None:
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        ended.set()

    async with tls_pair(pki, version) as (client, server), anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        await client.send_eof()
        await server.send(b"late")
        await anyio.wait_all_tasks_blocked()
        assert not ended.is_set()
        await server.send_eof()
        await ended.wait()


@in_both_versions
async def test_a_transport_that_ends_has_ended(pki: Pki, version: ssl.TLSVersion):
    """Without close_notify, as many clients do it."""
    async with tls_pair(pki, version) as (client, server):
        await client.send(b"last")
        await client.aclose()
        assert await server.receive() == b"last"
        with pytest.raises(anyio.EndOfStream):
            await server.receive()


@in_both_versions
async def test_bytes_that_are_no_tls(pki: Pki, version: ssl.TLSVersion):
    async with tls_pair(pki, version) as (client, server):
        await client._transport.send(b"\x17\x03\x03\x00\x20" + b"?" * 32)
        with pytest.raises(anyio.BrokenResourceError) as raised:
            await server.receive()
        assert "TLS failed" in str(raised.value.__cause__)


async def test_a_record_that_was_changed_on_its_way(pki: Pki):
    ours, theirs = memory_transport_pair()
    async with tls_pair(pki, transports=(ours, theirs)) as (client, server):
        client._engine.write(b"secret")
        record = bytearray(client._outgoing.read())
        record[-1] ^= 1
        await ours.send(bytes(record))
        with pytest.raises(anyio.BrokenResourceError):
            await server.receive()


async def test_sending_does_not_wait_for_receiving(pki: Pki):
    """Both sides send more than the transport holds before either has read; each must read while it sends."""
    data = b"0123456789" * 50_000

    async def send(stream: TLSByteStream) -> None:
        for start in range(0, len(data), 10_000):
            await stream.send(data[start : start + 10_000])

    async def receive(stream: TLSByteStream) -> None:
        assert await read(stream, len(data)) == data

    async with (
        tls_pair(pki, transports=memory_transport_pair(1)) as (client, server),
        anyio.create_task_group() as tasks,
    ):
        for stream in (client, server):
            tasks.start_soon(send, stream)
            tasks.start_soon(receive, stream)


async def test_receiving_goes_on_while_sending_is_stuck(pki: Pki):
    async with (
        tls_pair(pki, transports=memory_transport_pair(3)) as (client, server),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(10):
            tasks.start_soon(client._transport.send, b"")  # a transport that is full
        await anyio.wait_all_tasks_blocked()
        await server.send(b"to be read")
        assert await client.receive() == b"to be read"
        tasks.cancel_scope.cancel()


async def test_answers_to_key_updates_wait_for_a_send_but_not_without_bound(pki: Pki):
    """Python's TLS cannot ask for new keys: the answers are put where OpenSSL would put them."""
    async with tls_pair(pki) as (client, server):
        server._outgoing.write(b"?" * 4096)
        await client.send(b"a")
        assert await server.receive() == b"a"
        server._outgoing.write(b"?")
        await client.send(b"b")
        with pytest.raises(anyio.BrokenResourceError) as raised:
            await server.receive()
        assert str(raised.value.__cause__) == "the client updates its keys without end"


async def test_a_receive_that_is_cancelled_loses_nothing(pki: Pki):
    async with tls_pair(pki, transports=in_single_bytes()) as (client, server):
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.receive)
                await anyio.wait_all_tasks_blocked()
                # a part of the record is there, and the receive that has it is cancelled
                client._engine.write(b"whole")
                record = client._outgoing.read()
                await client._transport.send(record[:7])
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            await client._transport.send(record[7:])
            assert await server.receive() == b"whole"


async def test_a_send_that_is_cancelled_ends_sending_and_nothing_else(pki: Pki):
    transports = memory_transport_pair(3)
    async with tls_pair(pki, transports=transports) as (client, server), anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel_when_blocked, scope)
            while True:
                await client.send(b"x" * 100)
        with pytest.raises(anyio.BrokenResourceError):
            await client.send(b"after a gap")
        await server.send(b"still read")
        assert await client.receive() == b"still read"
        await client.send_eof()
        assert set(await rest(server)) == {b"x" * 100}


async def cancel_when_blocked(scope: anyio.CancelScope) -> None:
    await anyio.wait_all_tasks_blocked()
    scope.cancel()


async def test_a_handshake_that_is_cancelled_closes_the_transport(pki: Pki):
    ours, theirs = memory_transport_pair()
    async with ours, theirs, anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel_when_blocked, scope)
            await ServerTLS(pki.server.cert, pki.server.key).wrap(theirs).handshake()
        with pytest.raises(anyio.ClosedResourceError):
            await theirs.send(b"")


@pytest.mark.parametrize("size", [1, 5, 6, 100, 300])
async def test_a_handshake_that_is_cut_anywhere(pki: Pki, size: int):
    ours, theirs = memory_transport_pair()
    client = TLSByteStream(ours, ChannelTLS(pki.ca)._context.current(), hostname="localhost")
    async with ours, theirs:
        assert not client._try_handshake()
        await ours.send(client._outgoing.read()[:size])
        await ours.send_eof()
        with pytest.raises(TLSHandshakeError, match="the client closed the connection during the TLS handshake"):
            await ServerTLS(pki.server.cert, pki.server.key).wrap(theirs).handshake()


async def test_a_peer_that_breaks_the_connection_in_the_handshake(pki: Pki):
    ours, theirs = memory_transport_pair()
    async with ours:
        await theirs.aclose()
        with pytest.raises(TLSHandshakeError, match="the connection was lost during the TLS handshake"):
            await ChannelTLS(pki.ca).secure(ours, "localhost")


async def test_what_tls_knows_of_a_connection(pki: Pki):
    async with tls_pair(pki) as (client, server):
        assert client.extra(TLSAttribute.alpn_protocol) == "h2"
        assert client.extra(TLSAttribute.tls_version) == "TLSv1.3"
        assert (client.extra(TLSAttribute.server_side), server.extra(TLSAttribute.server_side)) == (False, True)
        assert client.extra(TLSAttribute.cipher) == server.extra(TLSAttribute.cipher)
        names = [name for _, name in client.extra(TLSAttribute.peer_certificate)["subjectAltName"]]
        assert "localhost" in names
        certificate = ssl.DER_cert_to_PEM_cert(client.extra(TLSAttribute.peer_certificate_binary))
        assert certificate in pki.server.cert.read_text()
        assert server.extra(TLSAttribute.peer_certificate) is None
        assert isinstance(client.extra(TLSAttribute.ssl_object), ssl.SSLObject)


@in_both_versions
async def test_tls_as_http2_wants_it(pki: Pki, version: ssl.TLSVersion):
    """RFC 9113 §9.2: no compression, no renegotiation, only ciphers with ephemeral keys and authentication."""
    async with tls_pair(pki, version) as (client, server):
        for stream in (client, server):
            engine = stream.extra(TLSAttribute.ssl_object)
            assert engine.compression() is None
            assert engine.context.options & ssl.OP_NO_RENEGOTIATION
            ciphers = [cipher for cipher in engine.context.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
            assert all(cipher["name"].startswith("ECDHE-") and cipher["aead"] for cipher in ciphers)
