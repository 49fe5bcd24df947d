"""Other people's clients find the services of a server through reflection, and call them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError

from connectrio import HostSettings
from connectrio.connector.registry import Registry
from connectrio.host.host import Host
from connectrio.rpc import Channel, Server
from connectrio.rpc.health import Health, ServingStatus
from connectrio.rpc.reflection import Reflection
from rpc.reflection.grpcurl import grpcurl, needs_grpcurl
from rpc.reflection.zoo import V1, Request, Response, descriptors

try:
    from grpc_reflection.v1alpha import proto_reflection_descriptor_database as descriptor_database
except ImportError:
    descriptor_database = None

needs_grpcio_reflection = pytest.mark.skipif(descriptor_database is None, reason="grpcio-reflection is not installed")

CONNECTOR = "flyteidl2.connector.AsyncConnectorService"
METADATA = "flyteidl2.connector.ConnectorMetadataService"
FLYTE_1 = [f"flyteidl.service.{name}" for name in ("AgentMetadataService", "AsyncAgentService", "SyncAgentService")]
HEALTH = "grpc.health.v1.Health"
REFLECTION = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


@asynccontextmanager
async def hosting(**settings: object) -> AsyncIterator[str]:
    """Run a host without connectors; yield its target."""
    host = Host(HostSettings(host="127.0.0.1", port=0, prometheus_port=0, **settings), registry=Registry())
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        yield addresses.target
        await host.shutdown()


@asynccontextmanager
async def serving_the_zoo() -> AsyncIterator[str]:
    """Run a server with its own descriptors, which is not a host; yield its target."""
    health = Health()
    health.set("", ServingStatus.SERVING)
    server = Server([health, Reflection(["zoo.Keeper", HEALTH], descriptors())])
    async with anyio.create_task_group() as tasks:
        [(_, port)] = await tasks.start(server.serve, await anyio.create_tcp_listener(local_host="127.0.0.1"))
        yield f"127.0.0.1:{port}"
        await server.shutdown()


@needs_grpcurl
async def test_grpcurl_lists_and_describes_all_of_a_host():
    async with hosting() as target:
        listed = (await grpcurl("-plaintext", target, "list")).split()
        assert listed == [*FLYTE_1, CONNECTOR, METADATA, HEALTH, *REFLECTION]
        described = await grpcurl("-plaintext", target, "describe")
        for name in listed:
            assert f"{name} is a service" in described
        methods = (await grpcurl("-plaintext", target, "list", CONNECTOR)).split()
        assert f"{CONNECTOR}.CreateTask" in methods
        for symbol in ("flyteidl2.core.TaskTemplate", "flyteidl2.core.TaskExecution.Phase", *methods):
            assert symbol.rpartition(".")[2] in await grpcurl("-plaintext", target, "describe", symbol)


@needs_grpcurl
async def test_grpcurl_calls_a_host():
    async with hosting() as target:
        answer = await grpcurl("-plaintext", "-d", '{"service": ""}', target, f"{HEALTH}/Check")
        assert json.loads(answer) == {"status": "SERVING"}
        assert json.loads(await grpcurl("-plaintext", target, f"{METADATA}/ListConnectors")) == {}
        unknown = await grpcurl("-plaintext", "-d", '{"name": "nobody"}', target, f"{METADATA}/GetConnector", code=69)
        assert "NotFound" in unknown


@needs_grpcurl
async def test_grpcurl_and_the_setting_that_turns_reflection_off():
    async with hosting(reflection=False) as target:
        assert "server does not support the reflection API" in await grpcurl("-plaintext", target, "list", code=1)


@needs_grpcurl
async def test_grpcurl_and_a_servers_own_descriptors():
    async with serving_the_zoo() as target:
        assert "zoo.Keeper" in (await grpcurl("-plaintext", target, "list")).split()
        animal = await grpcurl("-plaintext", target, "describe", "zoo.Animal")
        assert "map<string, .side.Left> friends = 4;" in animal
        for symbol in ("zoo.Keeper.Feed", "zoo.Animal.Leg.Toe", "zoo.Animal.Diet", "zoo.legs", "zoo.Season", "Bottom"):
            assert symbol.rpartition(".")[2] in await grpcurl("-plaintext", target, "describe", symbol)
        assert "SERVING" in await grpcurl("-plaintext", target, f"{HEALTH}/Check")
        assert "Symbol not found" in await grpcurl("-plaintext", target, "describe", "zoo.Nobody", code=1)


@needs_grpcio_reflection
async def test_grpcios_own_client():
    def explore(target: str) -> None:
        with grpc.insecure_channel(target) as channel:
            database = descriptor_database.ProtoReflectionDescriptorDatabase(channel)
            assert database.get_services() == [*FLYTE_1, CONNECTOR, METADATA, HEALTH, *REFLECTION]
            pool = DescriptorPool(database)
            service = pool.FindServiceByName(CONNECTOR)
            template = service.methods_by_name["CreateTask"].input_type.fields_by_name["template"].message_type
            assert template.full_name == "flyteidl2.core.TaskTemplate"
            assert pool.FindEnumTypeByName("flyteidl2.core.TaskExecution.Phase").values_by_name["RUNNING"].number == 2
            with pytest.raises(KeyError):
                pool.FindMessageTypeByName("nobody.Here")

    async with hosting() as target:
        await anyio.to_thread.run_sync(explore, target)


async def test_a_drain_does_not_wait_for_a_reflection_stream():
    """Tools keep a stream open for as long as they run."""
    host = Host(HostSettings(host="127.0.0.1", port=0, prometheus_port=0, grace=600), registry=Registry())
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        async with (
            Channel(addresses.target) as channel,
            channel.request(V1, Cardinality.STREAM_STREAM, Request, Response) as stream,
        ):
            await stream.send_message(Request(list_services=""))
            assert await stream.recv_message() is not None
            with anyio.fail_after(30):
                await host.shutdown()
            with pytest.raises(GRPCError, match="shutting down"):
                await stream.recv_trailing_metadata()
