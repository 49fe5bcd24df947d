"""Our channel follows the health of a server of grpcio's, with grpcio-health-checking."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from anyio import to_thread

from connectrio.rpc import Channel, ChannelOptions, ChannelState
from rpc.kit.serving import PATIENCE

grpc = pytest.importorskip("grpc", reason="needs the package grpcio")
servicers = pytest.importorskip("grpc_health.v1.health", reason="needs the package grpcio-health-checking")
messages = pytest.importorskip("grpc_health.v1.health_pb2", reason="needs the package grpcio-health-checking")
stubs = pytest.importorskip("grpc_health.v1.health_pb2_grpc", reason="needs the package grpcio-health-checking")

READY, FAILING = ChannelState.READY, ChannelState.TRANSIENT_FAILURE


@pytest.mark.parametrize("has_health", [True, False])
async def test_a_server_of_grpcios(has_health: bool):
    with ThreadPoolExecutor(4) as workers:
        server, health = grpc.server(workers), servicers.HealthServicer()
        if has_health:
            stubs.add_HealthServicer_to_server(health, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        serving, not_serving = messages.HealthCheckResponse.SERVING, messages.HealthCheckResponse.NOT_SERVING
        options = ChannelOptions(load_balancing="round_robin", health_service="my.Service")
        with anyio.fail_after(PATIENCE):
            async with Channel(f"127.0.0.1:{port}", options=options) as channel:
                channel.connect()
                # grpcio does not know the service yet
                assert await channel.wait_for_state(READY, FAILING) is (FAILING if has_health else READY)
                for status, state in [(serving, READY), (not_serving, FAILING), (serving, READY)] * has_health:
                    health.set("my.Service", status)
                    assert await channel.wait_for_state(state) is state
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(server.stop(None).wait)
