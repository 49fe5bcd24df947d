"""Connections that come to nothing: each is refused for a reason that is told, and hurts nobody else."""

from __future__ import annotations

import datetime as dt
import math
import ssl

import anyio
import pytest
from anyio.streams.tls import TLSStream
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.rpc import ServerOptions
from connectrio.rpc.tls import ChannelTLS, ServerTLS
from rpc.kit.certificates import Pki, issue
from rpc.kit.frames import PREFACE
from rpc.kit.script import Note
from rpc.kit.tls_serving import answers, calling, client_context, eventually, serving

YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
LONG_AGO = YESTERDAY - dt.timedelta(days=100)
# seconds between two attempts to connect; longer than any test may take, so that there is only one
ONCE = 1000.0


def server_tls(pki: Pki, **options) -> ServerTLS:
    return ServerTLS(pki.server.cert, pki.server.key, **options)


async def unavailable(target: str, tls: ChannelTLS | None) -> str:
    """Return why a new channel gets no answer."""
    async with calling(target, tls, initial_backoff=ONCE) as stub:
        with pytest.raises(GRPCError) as raised:
            await stub.unary(Note())
    assert raised.value.status is Status.UNAVAILABLE
    return raised.value.message or ""


async def ended(stream) -> bool:
    """Whether the other side closes the connection."""
    try:
        while True:
            await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
        return True


# what a server refuses


@pytest.mark.parametrize("alpn", [None, ["http/1.1"], ["h3", "grpc-exp"]])
async def test_a_client_that_does_not_agree_to_speak_http2(pki: Pki, alpn: list[str] | None):
    async with serving(server_tls(pki)) as served:
        async with await anyio.connect_tcp("127.0.0.1", served.port) as transport:
            stream = await TLSStream.wrap(
                transport,
                hostname="localhost",
                ssl_context=client_context(pki, alpn=alpn),
                standard_compatible=False,
            )
            assert await ended(stream)
        assert await served.refusal() == "the client did not agree to speak HTTP/2 (h2, by ALPN)"
        assert await answers(served.target, ChannelTLS(pki.ca))


@pytest.mark.parametrize(
    ("version", "minimum"),
    [
        (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_2),
        (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
    ],
)
async def test_an_old_version_of_tls(pki: Pki, version: ssl.TLSVersion, minimum: ssl.TLSVersion):
    context = client_context(pki, alpn=["h2"], minimum=version, maximum=version)
    async with serving(server_tls(pki, minimum_version=minimum)) as served:
        async with await anyio.connect_tcp("127.0.0.1", served.port) as transport:
            with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
                await TLSStream.wrap(transport, hostname="localhost", ssl_context=context)
        assert await served.refusal() == "the client speaks no version of TLS that is allowed here"
        assert await answers(served.target, ChannelTLS(pki.ca))


async def test_a_cipher_that_http2_forbids(pki: Pki):
    context = client_context(pki, alpn=["h2"], maximum=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    async with serving(server_tls(pki)) as served:
        async with await anyio.connect_tcp("127.0.0.1", served.port) as transport:
            with pytest.raises(ssl.SSLError, match=r"(?i)alert handshake failure"):
                await TLSStream.wrap(transport, hostname="localhost", ssl_context=context)
        assert await served.refusal() == "the client offers no cipher that is allowed here"


@pytest.mark.parametrize(
    "said", [PREFACE, b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"?" * 70_000]
)
async def test_a_client_that_does_not_speak_tls(pki: Pki, said: bytes):
    async with serving(server_tls(pki)) as served:
        async with await anyio.connect_tcp("127.0.0.1", served.port) as transport:
            await transport.send(said)
            assert await ended(transport)
        assert await served.refusal()
        assert served.ends == ["tls_failed"]
        assert await answers(served.target, ChannelTLS(pki.ca))


async def test_our_own_client_without_tls(pki: Pki):
    async with serving(server_tls(pki)) as served:
        assert await unavailable(served.target, None)
        assert await served.refusal() == "the client does not speak TLS"
        assert await answers(served.target, ChannelTLS(pki.ca))


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
async def test_a_client_that_says_nothing_is_cut_off_while_others_are_served(pki: Pki, said: bytes):
    tls = server_tls(pki, handshake_timeout=math.inf)
    async with serving(tls) as served:
        async with await anyio.connect_tcp("127.0.0.1", served.port) as transport:
            await transport.send(said or b"\x16")
            assert await answers(served.target, ChannelTLS(pki.ca))
            assert not served.refusals()
        assert await served.refusal() == "the client closed the connection during the TLS handshake"

        tls.handshake_timeout = 0.05
        async with await anyio.connect_tcp("127.0.0.1", served.port) as transport:
            await transport.send(said or b"\x16")
            assert await ended(transport)
        await eventually(lambda: len(served.refusals()) == 2)
        assert await served.refusal() == "the client did not finish the TLS handshake within 0.05 seconds"

        tls.handshake_timeout = math.inf
        assert await answers(served.target, ChannelTLS(pki.ca))


async def test_clients_in_the_handshake_make_room_for_others(pki: Pki):
    async with serving(server_tls(pki), options=ServerOptions(max_connections=4)) as served:
        silent = [await anyio.connect_tcp("127.0.0.1", served.port) for _ in range(2)]
        await eventually(lambda: len(served.server._connections) == 2)
        assert await answers(served.target, ChannelTLS(pki.ca))
        assert await ended(silent[0])
        for transport in silent:
            await transport.aclose()
        await eventually(lambda: not served.server._connections)


async def test_a_client_that_only_looks_whether_there_is_anybody_is_not_worth_a_line(pki: Pki):
    async with serving(server_tls(pki)) as served:
        await (await anyio.connect_tcp("127.0.0.1", served.port)).aclose()
        assert await served.refusal() == "the client closed the connection during the TLS handshake"
        [entry] = served.log
        assert entry["log_level"] == "debug"


async def test_every_refusal_names_the_client(pki: Pki):
    async with serving(server_tls(pki)) as served:
        async with await anyio.connect_tcp("127.0.0.1", served.port) as transport:
            name = "{}:{}".format(*transport.extra(anyio.abc.SocketAttribute.local_address))
            await transport.send(b"hello")
            assert await ended(transport)
        await served.refusal()
        [entry] = served.log
        assert (str(entry["peer"]), entry["log_level"]) == (name, "info")


async def test_a_client_that_stops_speaking_tls_after_the_handshake(pki: Pki):
    async with serving(server_tls(pki)) as served, calling(served.target, ChannelTLS(pki.ca)) as stub:
        assert await stub.unary(Note("a")) == Note("a")
        transport = await anyio.connect_tcp("127.0.0.1", served.port)
        context = client_context(pki, alpn=["h2"])
        await TLSStream.wrap(transport, hostname="localhost", ssl_context=context, standard_compatible=False)
        await transport.send(PREFACE)
        assert await ended(transport)
        await transport.aclose()
        assert await stub.unary(Note("b")) == Note("b")


# client certificates


async def test_a_client_without_a_certificate(pki: Pki):
    async with serving(server_tls(pki, client_ca=pki.ca)) as served:
        reason = await unavailable(served.target, ChannelTLS(pki.ca))
        assert "the server requires a certificate of ours" in reason
        assert f"cannot connect to {served.target}: 127.0.0.1:{served.port}: " in reason
        assert await served.refusal() == "the client showed no certificate, and one is required"
        assert await answers(served.target, ChannelTLS(pki.ca, pki.client.cert, pki.client.key))


async def test_a_client_whose_authority_is_unknown(pki: Pki):
    async with serving(server_tls(pki, client_ca=pki.ca)) as served:
        reason = await unavailable(served.target, ChannelTLS(pki.ca, pki.stranger.cert, pki.stranger.key))
        assert "does not accept our certificate: it does not trust the authority that signed it" in reason
        assert "the client's certificate is not accepted: the authority that signed it is not" in await served.refusal()


async def test_a_client_whose_certificate_has_expired(pki: Pki):
    old = issue(pki.directory, "old", "me@example.com", not_before=LONG_AGO, not_after=YESTERDAY)
    async with serving(server_tls(pki, client_ca=pki.ca)) as served:
        reason = await unavailable(served.target, ChannelTLS(pki.ca, old.cert, old.key))
        assert "the server does not accept our certificate: it has expired" in reason
        assert await served.refusal() == "the client's certificate is not accepted: certificate has expired"


# what a channel refuses


async def test_a_server_whose_authority_is_unknown(pki: Pki):
    async with serving(ServerTLS(pki.stranger.cert, pki.stranger.key)) as served:
        reason = await unavailable(served.target, ChannelTLS(pki.ca))
        assert "the server's certificate is not accepted: the authority that signed it is not trusted here" in reason
        assert "does not trust the authority that signed it" in await served.refusal()


async def test_without_authorities_those_of_the_system_count(pki: Pki):
    async with serving(server_tls(pki)) as served:
        assert "the authority that signed it is not trusted here" in await unavailable(served.target, ChannelTLS())


async def test_a_server_that_is_somebody_else(pki: Pki):
    other = issue(pki.directory, "other", "other.example.com")
    async with serving(ServerTLS(other.cert, other.key)) as served:
        reason = await unavailable(served.target, ChannelTLS(pki.ca))
        assert "the server's certificate is not accepted: Hostname mismatch" in reason
        assert "localhost" in reason
        assert await answers(served.target, ChannelTLS(pki.ca, server_hostname="other.example.com"))


async def test_a_server_whose_certificate_has_expired(pki: Pki):
    old = issue(pki.directory, "old", "localhost", not_before=LONG_AGO, not_after=YESTERDAY)
    async with serving(ServerTLS(old.cert, old.key)) as served:
        assert "not accepted: certificate has expired" in await unavailable(served.target, ChannelTLS(pki.ca))


async def test_a_server_without_tls(pki: Pki):
    async with serving(None) as served:
        assert "the server does not speak TLS" in await unavailable(served.target, ChannelTLS(pki.ca))
        assert await answers(served.target, None)


@pytest.mark.parametrize("alpn", [None, ["http/1.1"]])
async def test_a_server_that_does_not_speak_http2(pki: Pki, alpn: list[str] | None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.server.cert, pki.server.key)
    if alpn is not None:
        context.set_alpn_protocols(alpn)

    async def serve(transport) -> None:
        async with transport:
            stream = await TLSStream.wrap(transport, ssl_context=context, server_side=True, standard_compatible=False)
            await ended(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    [port] = {each.extra(anyio.abc.SocketAttribute.local_port) for each in listener.listeners}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        assert "the server did not agree to speak HTTP/2" in await unavailable(f"localhost:{port}", ChannelTLS(pki.ca))
        tasks.cancel_scope.cancel()
    await listener.aclose()


async def test_a_name_that_no_certificate_can_have(pki: Pki):
    async with serving(server_tls(pki)) as served:
        reason = await unavailable(served.target, ChannelTLS(pki.ca, server_hostname=".example.com"))
        assert "'.example.com' is no name that a certificate can have" in reason
