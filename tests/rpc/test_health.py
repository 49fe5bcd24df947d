"""The servicer of grpc.health.v1."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.idl.grpc.health.v1 import (
    HealthCheckRequest,
    HealthListRequest,
    HealthStub,
)
from connectrio.rpc import Server
from connectrio.rpc.health import Health, ServingStatus
from connectrio.rpc.testing import memory_channel
from rpc.kit.serving import eventually, leaving_nothing, turns

SERVING, NOT_SERVING, SERVICE_UNKNOWN = ServingStatus.SERVING, ServingStatus.NOT_SERVING, ServingStatus.SERVICE_UNKNOWN


@asynccontextmanager
async def stub_of(health: Health):
    """A stub for `health`, over gRPC."""
    server = Server([health])
    async with leaving_nothing(), memory_channel(server) as channel:
        yield HealthStub(channel)
        await eventually(lambda: server.active_calls == 0)


def healthy(*services: str) -> Health:
    health = Health()
    for service in ("", *services):
        health.set(service, SERVING)
    return health


async def read_all(answers) -> None:
    async for _ in answers:
        pass


async def test_check():
    health = healthy("a.Service")
    health.set("b.Service", NOT_SERVING)
    async with stub_of(health) as stub:
        assert (await stub.check(HealthCheckRequest())).status is SERVING
        assert (await stub.check(HealthCheckRequest(service="a.Service"))).status is SERVING
        assert (await stub.check(HealthCheckRequest(service="b.Service"))).status is NOT_SERVING


@pytest.mark.parametrize("service", ["c.Service", "a.service", "a", " "])
async def test_check_of_an_unknown_service(service: str):
    async with stub_of(healthy("a.Service")) as stub:
        with pytest.raises(GRPCError) as raised:
            await stub.check(HealthCheckRequest(service=service))
        assert raised.value.status is Status.NOT_FOUND


async def test_details_go_with_a_check():
    health = Health(details=lambda: [("x-broken", "duckdb: no such module")])
    health.set("", SERVING)
    async with stub_of(health) as stub:
        async with stub.channel.request(
            "/grpc.health.v1.Health/Check",
            health.__mapping__()["/grpc.health.v1.Health/Check"].cardinality,
            HealthCheckRequest,
            type(await stub.check(HealthCheckRequest())),
        ) as stream:
            await stream.send_message(HealthCheckRequest(), end=True)
            await stream.recv_message()
        assert dict(stream.trailing_metadata) == {"x-broken": "duckdb: no such module"}


async def test_list():
    health = healthy("a.Service")
    health.set("b.Service", NOT_SERVING)
    async with stub_of(health) as stub:
        statuses = (await stub.list(HealthListRequest())).statuses
    assert {service: response.status for service, response in statuses.items()} == {
        "": SERVING,
        "a.Service": SERVING,
        "b.Service": NOT_SERVING,
    }


async def test_list_of_more_than_a_hundred_services():
    health = Health()
    for number in range(100):
        health.set(f"service.{number}", SERVING)
    async with stub_of(health) as stub:
        assert len((await stub.list(HealthListRequest())).statuses) == 100
        health.set("one.more", SERVING)
        with pytest.raises(GRPCError) as raised:
            await stub.list(HealthListRequest())
        assert raised.value.status is Status.RESOURCE_EXHAUSTED


async def test_watch_sends_the_status_at_once_and_each_change():
    health = healthy("a.Service")
    async with stub_of(health) as stub, aclosing(stub.watch(HealthCheckRequest(service="a.Service"))) as answers:
        assert (await anext(answers)).status is SERVING
        for status in NOT_SERVING, SERVING, NOT_SERVING:
            health.set("a.Service", status)
            assert (await anext(answers)).status is status


async def test_watch_does_not_repeat_itself():
    health = healthy("a.Service")
    async with stub_of(health) as stub, aclosing(stub.watch(HealthCheckRequest(service="a.Service"))) as answers:
        assert (await anext(answers)).status is SERVING
        health.set("a.Service", SERVING)
        health.set("another", SERVING)
        await turns()
        health.set("a.Service", NOT_SERVING)
        assert (await anext(answers)).status is NOT_SERVING


async def test_watch_of_an_unknown_service_stays_open():
    health = healthy()
    async with stub_of(health) as stub, aclosing(stub.watch(HealthCheckRequest(service="later"))) as answers:
        assert (await anext(answers)).status is SERVICE_UNKNOWN
        health.set("later", SERVING)
        assert (await anext(answers)).status is SERVING


async def test_the_drain_is_not_serving_for_all_and_for_good():
    health = healthy("a.Service")
    async with stub_of(health) as stub, aclosing(stub.watch(HealthCheckRequest(service="a.Service"))) as answers:
        assert (await anext(answers)).status is SERVING
        health.drain()
        assert (await anext(answers)).status is NOT_SERVING
        health.set("a.Service", SERVING)
        health.set("new", SERVING)
        for service in "", "a.Service":
            assert (await stub.check(HealthCheckRequest(service=service))).status is NOT_SERVING
        with pytest.raises(GRPCError):
            await stub.check(HealthCheckRequest(service="new"))


async def test_ending_the_watches():
    health = healthy("a.Service")
    async with stub_of(health) as stub:
        watches = [stub.watch(HealthCheckRequest(service=service)) for service in ("", "a.Service", "unknown")]
        for watch in watches:
            await anext(watch)
        health.drain()
        health.end_watches()
        for watch in watches:
            with pytest.raises(GRPCError) as raised:
                await read_all(watch)
            assert raised.value.status is Status.UNAVAILABLE


async def test_a_watch_that_begins_after_the_end():
    health = healthy()
    health.end_watches()
    async with stub_of(health) as stub:
        watch = stub.watch(HealthCheckRequest())
        assert (await anext(watch)).status is SERVING
        with pytest.raises(GRPCError):
            await anext(watch)


async def test_watches_do_not_hold_up_the_end_of_the_server():
    health = healthy()
    server = Server([health])
    async with leaving_nothing(), memory_channel(server) as channel, anyio.create_task_group() as tasks:
        ended = anyio.Event()

        async def watch() -> None:
            answers = HealthStub(channel).watch(HealthCheckRequest())
            await anext(answers)
            watching.set()
            with pytest.raises(GRPCError):
                await read_all(answers)
            ended.set()

        watching = anyio.Event()
        tasks.start_soon(watch)
        await watching.wait()
        health.drain()
        health.end_watches()
        await server.shutdown()
        await ended.wait()


async def test_a_watch_that_the_client_leaves_is_over():
    health = healthy()
    server = Server([health])
    async with leaving_nothing(), memory_channel(server) as channel:
        async with aclosing(HealthStub(channel).watch(HealthCheckRequest())) as answers:
            await anext(answers)
            assert server.active_calls == 1
        await eventually(lambda: server.active_calls == 0)
