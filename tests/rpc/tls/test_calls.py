"""Calls inside TLS, between a channel and a server of ours."""

from __future__ import annotations

import ssl

import anyio
import pytest
from anyio.streams.tls import TLSAttribute

from connectrio.rpc import Channel, ServerOptions
from connectrio.rpc.testing import memory_transport_pair
from connectrio.rpc.tls import ChannelTLS, ServerTLS, _hostname, secure
from rpc.kit.certificates import Pki
from rpc.kit.frames import Headers
from rpc.kit.raw import RawPeer
from rpc.kit.script import Note, Script, ScriptStub
from rpc.kit.tls_serving import calling, serving

LARGE = Note("0123456789" * 150_000)

in_both_versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def server_tls(pki: Pki, **options) -> ServerTLS:
    return ServerTLS(pki.server.cert, pki.server.key, **options)


def mutual_server_tls(pki: Pki) -> ServerTLS:
    return server_tls(pki, client_ca=pki.ca)


def client_tls(pki: Pki, **options) -> ChannelTLS:
    return ChannelTLS(pki.ca, pki.client.cert, pki.client.key, **options)


async def test_calls_of_every_kind(pki: Pki):
    async with serving(server_tls(pki)) as served, calling(served.target, ChannelTLS(pki.ca)) as stub:
        assert await stub.unary(Note("a")) == Note("a")
        assert [note async for note in stub.server_streaming(Note("a"))] == [Note("a")]
        assert await stub.client_streaming([Note("a"), Note("b")]) == Note("ab")
        assert [note async for note in stub.bidi([Note("a"), Note("b")])] == [Note("a"), Note("b")]


async def test_large_messages_both_ways_at_once(pki: Pki):
    async with serving(server_tls(pki)) as served, calling(served.target, ChannelTLS(pki.ca)) as stub:
        assert [note async for note in stub.bidi([LARGE] * 4)] == [LARGE] * 4


async def test_many_calls_at_once(pki: Pki):
    answered = 0

    async def call() -> None:
        nonlocal answered
        assert await stub.unary(Note("x" * 10_000)) == Note("x" * 10_000)
        answered += 1

    async with serving(server_tls(pki)) as served, calling(served.target, ChannelTLS(pki.ca)) as stub:
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(call)
        assert answered == 100


@in_both_versions
async def test_each_version_of_tls(pki: Pki, version: ssl.TLSVersion):
    """The client decides, because the server accepts both."""
    seen = []

    async def note_version(stream) -> None:
        seen.append(stream.peer._transport.extra(TLSAttribute.tls_version))
        await stream.send_message(await stream.recv_message())

    tls = ChannelTLS(pki.ca)
    tls._context.current().maximum_version = version
    async with (
        serving(server_tls(pki), script=Script(note_version)) as served,
        calling(served.target, tls) as stub,
    ):
        await stub.unary(Note())
    assert seen == [{"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]]


async def test_the_servicer_knows_whom_the_client_has_proved_to_be(pki: Pki):
    async with (
        serving(mutual_server_tls(pki), script=Script(tell_certificate)) as served,
        calling(served.target, client_tls(pki)) as stub,
    ):
        assert await stub.unary(Note()) == Note("me: email me@example.com")


async def test_a_client_without_a_certificate_is_nobody(pki: Pki):
    async with (
        serving(server_tls(pki), script=Script(tell_certificate)) as served,
        calling(served.target, client_tls(pki)) as stub,
    ):
        assert await stub.unary(Note()) == Note("nobody")
    async with serving(None, script=Script(tell_certificate)) as served, calling(served.target, None) as stub:
        assert await stub.unary(Note()) == Note("nobody")


async def tell_certificate(stream) -> None:
    await stream.recv_message()
    certificate = stream.peer.cert()
    text = "nobody"
    if certificate:
        subject = {name: value for part in certificate["subject"] for name, value in part}
        [(kind, address)] = certificate["subjectAltName"]
        text = f"{subject['commonName']}: {kind} {address}"
    await stream.send_message(Note(text))


async def test_the_peers_address_is_that_below_tls(pki: Pki):
    async def tell_address(stream) -> None:
        await stream.recv_message()
        await stream.send_message(Note(stream.peer.addr()[0]))

    async with (
        serving(server_tls(pki), script=Script(tell_address)) as served,
        calling(served.target, ChannelTLS(pki.ca)) as stub,
    ):
        assert await stub.unary(Note()) == Note("127.0.0.1")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_the_certificate_may_name_a_host_or_an_address(pki: Pki, host: str):
    async with serving(server_tls(pki)) as served, calling(f"{host}:{served.port}", ChannelTLS(pki.ca)) as stub:
        assert await stub.unary(Note("a")) == Note("a")


@pytest.mark.parametrize(
    ("authority", "hostname"),
    [
        ("example.com:443", "example.com"),
        ("example.com.:443", "example.com"),
        ("localhost", "localhost"),
        ("127.0.0.1:443", "127.0.0.1"),
        ("[::1]:443", "::1"),
        ("[fe80::1%eth0]:443", "fe80::1"),
    ],
)
def test_whom_the_certificate_must_name(authority: str, hostname: str):
    assert _hostname(authority) == hostname


@pytest.mark.parametrize(
    ("options", "tls", "expected"),
    [
        ({}, True, ("https", "localhost")),
        ({"server_hostname": "127.0.0.1"}, True, ("https", "127.0.0.1")),
        ({}, False, ("http", "localhost")),
    ],
)
async def test_what_a_request_says_of_scheme_and_authority(pki: Pki, options, tls: bool, expected: tuple[str, str]):
    ours, theirs = memory_transport_pair()

    async def connect():
        return ours

    async def call() -> None:
        async with Channel(connect, tls=ChannelTLS(pki.ca, **options) if tls else None) as channel:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await ScriptStub(channel).unary(Note())

    scopes: list[anyio.CancelScope] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        if tls:
            theirs = server_tls(pki).wrap(theirs)
            assert await secure(theirs)
        peer = RawPeer(theirs)
        await peer.send(peer.make.settings({}))
        request = await peer.until(lambda frame: isinstance(frame, Headers))
        assert (request[":scheme"], request[":authority"]) == expected
        scopes[0].cancel()
        await theirs.aclose()


async def test_windows_and_buffers_that_are_smaller_than_a_message(pki: Pki):
    small = {"stream_window": 65_535, "connection_window": 65_535, "write_buffer": 10_000}
    async with (
        serving(server_tls(pki), options=ServerOptions(**small)) as served,
        calling(served.target, ChannelTLS(pki.ca), **small) as stub,
    ):
        assert await stub.unary(LARGE) == LARGE
