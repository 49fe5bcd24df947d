"""Clients that nobody here wrote, over TLS and Unix sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.to_thread
import grpc
import pytest

from connectrio.rpc import Server
from connectrio.rpc.health import Health, ServingStatus
from connectrio.rpc.reflection import Reflection
from connectrio.rpc.sockets import listen_unix
from connectrio.rpc.tls import ServerTLS
from rpc.kit.certificates import Certificate, Pki
from rpc.kit.script import BIDI, UNARY, Script
from rpc.kit.tls_serving import PATIENCE, serving
from rpc.reflection.grpcurl import grpcurl, needs_grpcurl

HEALTH = "grpc.health.v1.Health"


def server_tls(pki: Pki, **options) -> ServerTLS:
    return ServerTLS(pki.server.cert, pki.server.key, **options)


def credentials(pki: Pki, client: Certificate | None = None) -> grpc.ChannelCredentials:
    if client is None:
        return grpc.ssl_channel_credentials(pki.ca.read_bytes())
    return grpc.ssl_channel_credentials(pki.ca.read_bytes(), client.key.read_bytes(), client.cert.read_bytes())


def call(connect: Callable[[], grpc.Channel]) -> None:
    """Small and large calls, one by one and a hundred at once."""
    with connect() as channel:
        unary, bidi = channel.unary_unary(UNARY), channel.stream_stream(BIDI)
        assert unary(b"hello", timeout=PATIENCE) == b"hello"
        assert unary(b"x" * 3_000_000, timeout=PATIENCE) == b"x" * 3_000_000
        assert list(bidi(iter([b"a", b"b"]), timeout=PATIENCE)) == [b"a", b"b"]
        futures = [unary.future(b"%d" % number, timeout=PATIENCE) for number in range(100)]
        assert [future.result() for future in futures] == [b"%d" % number for number in range(100)]


async def with_grpcio(connect: Callable[[], grpc.Channel]) -> None:
    await anyio.to_thread.run_sync(call, connect)


async def test_grpcio_over_tls(pki: Pki):
    async with serving(server_tls(pki)) as served:
        await with_grpcio(partial(grpc.secure_channel, served.target, credentials(pki)))


async def test_grpcio_with_a_certificate_of_its_own(pki: Pki):
    names = []

    async def note_name(stream) -> None:
        names.append(stream.peer.cert()["subjectAltName"])
        await stream.send_message(await stream.recv_message())

    async with serving(server_tls(pki, client_ca=pki.ca), script=Script(note_name)) as served:
        await with_grpcio(partial(grpc.secure_channel, served.target, credentials(pki, pki.client)))
    assert set(names) == {(("email", "me@example.com"),)}


@pytest.mark.parametrize("who", [None, "stranger"])
async def test_grpcio_without_the_right_certificate(pki: Pki, who: str | None):
    def fail(target: str) -> None:
        client = None if who is None else pki.stranger
        with grpc.secure_channel(target, credentials(pki, client)) as channel:
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(UNARY)(b"", timeout=PATIENCE)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE

    async with serving(server_tls(pki, client_ca=pki.ca)) as served:
        await anyio.to_thread.run_sync(fail, served.target)
        await with_grpcio(partial(grpc.secure_channel, served.target, credentials(pki, pki.client)))


async def test_grpcio_without_tls_on_a_port_that_has_it(pki: Pki):
    def fail(target: str) -> None:
        with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(UNARY)(b"", timeout=PATIENCE)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE

    async with serving(server_tls(pki)) as served:
        await anyio.to_thread.run_sync(fail, served.target)
        await served.refusal()
        assert served.refusals()[0] == "the client does not speak TLS"  # it may have tried again, and left half-way


async def test_grpcio_on_a_unix_socket(pki: Pki):
    path = pki.directory / "socket"
    async with serving(None, await listen_unix(path)):
        await with_grpcio(partial(grpc.insecure_channel, f"unix:{path}"))
        await with_grpcio(partial(grpc.insecure_channel, f"unix://{path}"))


@asynccontextmanager
async def health_with_reflection(tls: ServerTLS, pki: Pki) -> AsyncIterator[tuple[str, str]]:
    """Targets with TLS and without."""
    health = Health()
    health.set("", ServingStatus.SERVING)
    server = Server([health, Reflection([HEALTH])])
    path = pki.directory / "socket"
    listeners = [tls.listen(await anyio.create_tcp_listener(local_host="127.0.0.1")), await listen_unix(path)]
    async with anyio.create_task_group() as tasks:
        (_, port), _ = await tasks.start(server.serve, listeners)
        yield f"localhost:{port}", f"unix://{path}"
        await server.shutdown()


@needs_grpcurl
async def test_grpcurl_over_tls(pki: Pki):
    async with health_with_reflection(server_tls(pki), pki) as (target, _):
        listed = (await grpcurl("-cacert", str(pki.ca), target, "list")).split()
        assert HEALTH in listed
        answer = await grpcurl("-cacert", str(pki.ca), target, f"{HEALTH}/Check")
        assert json.loads(answer) == {"status": "SERVING"}
        assert "certificate signed by unknown authority" in await grpcurl(target, "list", code=1)
        await grpcurl("-plaintext", target, "list", code=1)


@needs_grpcurl
async def test_grpcurl_with_a_certificate_of_its_own(pki: Pki):
    own = ["-cert", str(pki.client.cert), "-key", str(pki.client.key)]
    async with health_with_reflection(server_tls(pki, client_ca=pki.ca), pki) as (target, _):
        assert HEALTH in await grpcurl("-cacert", str(pki.ca), *own, target, "list")
        assert "certificate required" in await grpcurl("-cacert", str(pki.ca), target, "list", code=1)


@needs_grpcurl
async def test_grpcurl_on_a_unix_socket(pki: Pki):
    async with health_with_reflection(server_tls(pki), pki) as (_, target):
        assert HEALTH in (await grpcurl("-plaintext", target, "list")).split()
