"""Our client's part of grpc's interoperability cases: against grpc-go's server, grpcio's, and our own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest
from grpclib.const import Status

from connectrio.rpc import Channel, ChannelOptions, ChannelTLS
from e2e.programs import hold_port
from interop.cases import CASES, COMPRESSION_CASES, SOAK_ITERATIONS, Case, failing, large_unary
from interop.serving import serving
from interop.tap import tapping
from interop.tools import find_tool
from rpc.kit.certificates import Pki

PATIENCE = 60.0

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_compression_case = pytest.mark.parametrize("case", COMPRESSION_CASES.values(), ids=COMPRESSION_CASES)

GZIP = ChannelOptions(compression="gzip")


@contextmanager
def grpc_go(*arguments: str) -> Iterator[int]:
    """grpc-go's interoperability server; its port."""
    with hold_port() as held:
        port = held.getsockname()[1]
        with subprocess.Popen(
            [find_tool("server"), f"--port={port}", *arguments], stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield port
            finally:
                process.kill()


@pytest.fixture(scope="module")
def go_server():
    with grpc_go() as port:
        yield port


@pytest.fixture(scope="module")
def grpcio_server():
    pytest.importorskip("grpc", reason="needs the package grpcio")
    from interop.grpcio_server import serving_with_grpcio

    with serving_with_grpcio() as port:
        yield port


@asynccontextmanager
async def channel_to(port: int, options: ChannelOptions | None = None, **arguments: object):
    """A channel to what may still have to begin."""
    target = f"127.0.0.1:{port}"
    with anyio.fail_after(PATIENCE):
        async with Channel(target, options=options or ChannelOptions(initial_backoff=0.1), **arguments) as channel:
            await channel.wait_until_ready()
            yield channel


async def play(case: Case, port: int, options: ChannelOptions | None = None) -> None:
    async with channel_to(port, options) as channel:
        await case(channel)


async def channel_soak(port: int) -> None:
    for _ in range(SOAK_ITERATIONS):
        await play(large_unary, port)


@each_case
async def test_against_grpc_go(go_server: int, case: Case):
    await play(case, go_server)


@each_case
async def test_against_grpcio(grpcio_server: int, case: Case):
    await play(case, grpcio_server)


@each_case
async def test_against_our_own(case: Case):
    async with serving() as port:
        await play(case, port)


async def test_channel_soak(go_server: int):
    await channel_soak(go_server)


async def test_over_tls_against_grpc_go(tmp_path: Path):
    pki = Pki(tmp_path)
    arguments = ["--use_tls", f"--tls_cert_file={pki.server.cert}", f"--tls_key_file={pki.server.key}"]
    with grpc_go(*arguments) as port:
        async with channel_to(port, tls=ChannelTLS(ca=pki.ca)) as channel:
            for case in CASES.values():
                await case(channel)


# compression: grpc-go's server plays none of these cases, grpcio's those that it can express


@each_compression_case
async def test_compression_against_our_own(case: Case):
    async with serving() as port:
        await play(case, port, GZIP)


@pytest.mark.parametrize("name", ["server_compressed_unary", "server_compressed_streaming"])
async def test_compression_against_grpcio(grpcio_server: int, name: str):
    await play(COMPRESSION_CASES[name], grpcio_server, GZIP)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_request_is_read_by_grpcio(grpcio_server: int, encoding: str):
    """It does not tell whether a message came compressed, but how few bytes it took to send it does."""
    async with (
        tapping(grpcio_server) as tap,
        channel_to(tap.port, ChannelOptions(compression=encoding)) as channel,
    ):
        await large_unary(channel)
        assert 0 < tap.from_clients < 10_000


async def test_a_compressed_request_is_refused_by_grpc_go(go_server: int):
    """Its interoperability server was built without any compression, and says so."""
    async with channel_to(go_server, GZIP) as channel:
        with failing(Status.UNIMPLEMENTED):
            await large_unary(channel)
