"""grpc-health-probe, which Kubernetes' probes came from, against our server: plaintext, TLS, mTLS, compressed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from connectrio.rpc import Server
from connectrio.rpc.health import Health, ServingStatus
from connectrio.rpc.tls import ServerTLS
from interop.tools import run_tool
from rpc.kit.certificates import Pki

# grpc-health-probe's own, for "the service is not serving"
UNHEALTHY = 4
PATIENCE = ["-connect-timeout=30s", "-rpc-timeout=30s"]


@asynccontextmanager
async def serving_health(tls: ServerTLS | None = None) -> AsyncIterator[str]:
    """A server that is well as a whole, but for "ill"; its address."""
    health = Health()
    health.set("", ServingStatus.SERVING)
    health.set("ill", ServingStatus.NOT_SERVING)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as tasks:
        server = Server([health])
        [(_, port)] = await tasks.start(server.serve, listener if tls is None else tls.listen(listener))
        yield f"localhost:{port}"
        await server.shutdown(grace=5)


async def probe(address: str, *arguments: str, code: int = 0) -> str:
    """What the probe prints; it must end with that exit code."""
    ran = await run_tool("grpc-health-probe", f"-addr={address}", *PATIENCE, *arguments)
    output = ran.stdout.decode()
    assert ran.returncode == code, output
    return output


async def test_plaintext():
    async with serving_health() as address:
        assert "status: SERVING" in await probe(address)
        assert "NOT_SERVING" in await probe(address, "-service=ill", code=UNHEALTHY)
        assert "NotFound" in await probe(address, "-service=nobody", code=3)
        assert "status: SERVING" in await probe(address, "-gzip")


async def test_tls(tmp_path: Path):
    pki = Pki(tmp_path)
    ca, own = f"-tls-ca-cert={pki.ca}", [f"-tls-client-cert={pki.client.cert}", f"-tls-client-key={pki.client.key}"]
    async with serving_health(ServerTLS(pki.server.cert, pki.server.key)) as address:
        assert "status: SERVING" in await probe(address, "-tls", ca)
    async with serving_health(ServerTLS(pki.server.cert, pki.server.key, client_ca=pki.ca)) as address:
        assert "status: SERVING" in await probe(address, "-tls", ca, *own)
        ran = await run_tool("grpc-health-probe", f"-addr={address}", "-connect-timeout=1s", "-tls", ca)
        assert ran.returncode != 0, "nobody without a certificate"
