"""The test kit for connectors, used as its users use it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest
from flyteidl2.core import tasks_pb2, types_pb2

from connectrio import AsyncConnector, HostSettings, Phase, Registry, Resource, ResourceMeta
from connectrio.client.jobs import Jobs, LogReader
from connectrio.host.host import Host, HostError, HostState
from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceStub,
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskMetricsResponse,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import Connection, ExecutionMetricResult, LiteralType, SimpleType, TaskTemplate
from connectrio.literals import DataFrame, File, LiteralError
from connectrio.rpc import Channel
from connectrio.testing import GRPCError, MissingSecretError, State, Status, Task, connection_metadata, hosting
from rpc.kit.virtual_time import in_virtual_time
from testing.vendor import Vendor


async def test_a_job_from_its_creation_to_its_end():
    vendor = Vendor()
    async with hosting(vendor) as host:
        job = await host.create(Task(inputs={"text": "hello", "n": 3}, output_prefix="/out"))
        first = await job.get()
        state = await job.wait()
        assert await job.logs() == ["line 0", "line 1", "line 2"]
        assert await job.metrics() == {"rows": {"value": 3}}
        await job.delete()
    assert (first.phase, first.message, first.custom_info) == (Phase.RUNNING, "at it", {"progress": 40})
    assert (first.final, first.succeeded) == (False, False)
    assert state.succeeded, state
    assert state.outputs == {"echo": "hello", "all": ["text", "n"]}
    assert [link.name for link in state.log_links] == ["console"]
    assert vendor.created[0]["prefix"] == "/out"
    assert job.meta == b'{"number":1}'
    assert vendor.deleted == [1]


async def test_a_task_without_anything():
    vendor = Vendor(polls=0)
    async with hosting(vendor) as host:
        assert (await host.run()).outputs["echo"] == ""
    assert vendor.created[0]["inputs"] == {}
    assert vendor.created[0]["prefix"]


@pytest.mark.parametrize("end", [Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED])
async def test_every_end_is_an_end(end):
    async with hosting(Vendor(end=end)) as host:
        state = await host.run()
    assert (state.phase, state.final, state.succeeded) == (end, True, False)


async def test_the_connectors_lifespan_is_open_in_the_block():
    vendor = Vendor()
    async with hosting(vendor) as host:
        assert vendor.is_open
        assert host.host.state is HostState.SERVING
    assert not vendor.is_open
    assert host.host.state is HostState.STOPPED


async def test_a_failed_assertion_comes_out_as_it_is_and_closes_everything():
    vendor = Vendor()
    with pytest.raises(AssertionError, match="not so"):
        async with hosting(vendor):
            raise AssertionError("not so")
    assert not vendor.is_open


async def test_a_cancelled_block_closes_everything():
    vendor = Vendor()
    with anyio.CancelScope() as scope:
        async with hosting(vendor):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not vendor.is_open


async def test_a_lifespan_that_cannot_be_opened():
    class Broken(Vendor):
        @asynccontextmanager
        async def lifespan(self):
            raise OSError("no disk")
            yield

    with pytest.raises(HostError, match=r"Vendor: its lifespan could not be opened.*no disk"):
        async with hosting(Broken()):
            pytest.fail("it was opened")


async def test_errors_have_the_status_that_the_executor_sees():
    class Failing(Vendor):
        async def get(self, resource_meta, **kwargs):
            raise RuntimeError("the vendor says no")

    async with hosting(Failing()) as host:
        job = await host.create()
        with pytest.raises(GRPCError) as caught:
            await job.wait()
        assert caught.value.status is Status.INTERNAL
        assert "the vendor says no" in caught.value.message
        with pytest.raises(GRPCError) as caught:
            await host.attach(b"garbage").get()
        assert caught.value.status is Status.INVALID_ARGUMENT
        with pytest.raises(GRPCError) as caught:
            await host.create(Task(task_type="nope"))
        assert caught.value.status is Status.NOT_FOUND


async def test_several_connectors_are_told_apart_by_their_task_types():
    class Other(Vendor):
        task_type_name = "other"
        task_type_version = 3

    vendor, other = Vendor(polls=0), Other(polls=0)
    async with hosting(vendor, other) as host:
        await host.run(Task(task_type="vendor"))
        await host.run(Task(task_type="other", version=3))
        with pytest.raises(GRPCError, match="Cannot find connector"):
            await host.create()
    assert (len(vendor.created), len(other.created)) == (1, 1)


async def test_types_are_declared_or_found():
    vendor = Vendor()
    template = TaskTemplate(type="vendor", config={"a": "b"})
    task = Task(
        inputs={"a": 1, "b": None, "c": "90s", "d": [1], "e": "s3://x"},
        types={"b": int | None, "c": timedelta, "d": list[float], "e": LiteralType(simple=SimpleType.STRING)},
        outputs={"table": DataFrame, "file": File, "map": dict[str, bool]},
        custom={"warehouse": "xs"},
        sql="select 1",
        template=template,
    )
    async with hosting(vendor) as host:
        await host.create(task)
        with pytest.raises(LiteralError, match="'s'"):
            await host.create(Task(inputs={"s": {1, 2}}))
        with pytest.raises(TypeError, match="no type for <class 'set'>"):
            await host.create(Task(outputs={"s": set}))
    [given] = vendor.created
    assert given["inputs"] == {"a": 1, "b": None, "c": timedelta(seconds=90), "d": [1.0], "e": "s3://x"}
    assert type(given["inputs"]["d"][0]) is float
    assert given["template"].sql.statement == "select 1"
    assert given["template"].custom.to_dict() == {"warehouse": "xs"}
    assert given["template"].config == {"a": "b"}
    assert [entry.key for entry in given["template"].interface.outputs.variables] == ["table", "file", "map"]
    assert template.interface is None


async def test_protobuf_s_messages_describe_a_task():
    vendor = Vendor()
    template = tasks_pb2.TaskTemplate(type="vendor", config={"a": "b"})
    declared = types_pb2.LiteralType(simple=types_pb2.SimpleType.FLOAT)
    async with hosting(vendor) as host:
        await host.create(Task(inputs={"n": 1}, types={"n": declared}, template=template, custom={"c": 1}))
        with pytest.raises(TypeError, match="template is an object of class dict, not a TaskTemplate"):
            await host.create(Task(template={}))
    [given] = vendor.created
    assert (given["inputs"], type(given["inputs"]["n"])) == ({"n": 1.0}, float)
    assert (given["template"].config, given["template"].custom.to_dict()) == ({"a": "b"}, {"c": 1.0})
    assert not template.HasField("custom")


async def test_secrets_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("VENDOR_TOKEN", "s3cret")
    monkeypatch.setenv("OTHER", "0ther")
    vendor = Vendor()
    async with hosting(vendor) as host:
        await host.create(Task(secrets={"token": "VENDOR_TOKEN"}, configs={"region": "eu"}))
        await host.create(Task(custom={"secrets": {"token": "VENDOR_TOKEN"}}))
        await host.create(Task(custom={"secrets": {"token": "VENDOR_TOKEN"}}, secrets={"token": "OTHER"}))
        for task in (Task(secrets={"token": "NOT_SET_HERE"}), Task(custom={"secrets": {"token": "NOT_SET_HERE"}})):
            with pytest.raises(MissingSecretError, match="the secret 'token'"):
                await host.create(task)
    assert [given["connection"] for given in vendor.created] == [
        {"token": "s3cret", "region": "eu"},
        {"token": "s3cret"},
        {"token": "0ther"},
    ]


async def test_an_execution_and_its_attempt():
    vendor = Vendor()
    async with hosting(vendor) as host:
        await host.create(Task(execution="nightly", attempt=2))
        await host.create()
        await host.create()
    identifiers = [given["execution"].task_execution_id for given in vendor.created]
    names = [identifier.node_execution_id.execution_id.name for identifier in identifiers]
    assert names[0] == "nightly"
    assert len(set(names)) == 3
    assert [identifier.retry_attempt for identifier in identifiers] == [2, 0, 0]


@in_virtual_time
async def test_waiting_for_a_state_that_does_not_come():
    async with hosting(Vendor(polls=10**9)) as host:
        job = await host.create()
        assert (await job.wait(lambda state: state.message == "at it")).phase is Phase.RUNNING
        with pytest.raises(TimeoutError, match=r"after 0.2 s; its last state was State\(phase=.*RUNNING"):
            await job.wait(seconds=0.2)


async def test_a_client_that_vanishes_cancels_the_connector():
    vendor = Vendor(hang=True)
    async with hosting(vendor) as host:
        job = await host.create()
        await host.vanish(job.get, when=vendor.asked.wait)
        assert vendor.cancelled.is_set()


async def test_a_call_that_is_over_before_its_client_vanishes():
    async with hosting(Vendor()) as host:
        job = await host.create()
        with pytest.raises(RuntimeError, match="at its end before"):
            await host.vanish(job.get, when=anyio.sleep_forever)
        with pytest.raises(GRPCError):
            await host.vanish(host.attach(b"garbage").get, when=anyio.sleep_forever)


@in_virtual_time
@pytest.mark.parametrize("absorb", [600, 0])
async def test_a_deadline(absorb):
    vendor = Vendor(hang=True)
    async with hosting(vendor, settings=HostSettings(poll_absorb=absorb)) as host:
        job = host.attach(b'{"number": 1}', timeout=0.3)
        if absorb:
            assert (await job.get()).phase is Phase.RUNNING
        else:
            with pytest.raises(GRPCError) as caught:
                await job.get()
            assert caught.value.status is Status.DEADLINE_EXCEEDED
        await vendor.cancelled.wait()


async def test_lost_answers():
    vendor = Vendor(polls=0)
    async with hosting(vendor) as host:
        job = await host.create()
        with host.losing_answers("create", "delete"):
            for call in (host.create, job.delete):
                with pytest.raises(GRPCError, match="was lost") as caught:
                    await call()
                assert caught.value.status is Status.UNAVAILABLE
            assert (await job.get()).succeeded
        with host.losing_answers(), pytest.raises(GRPCError, match="the answer to get was lost"):
            await job.get()
        await job.delete()
    assert len(vendor.created) == 2
    assert vendor.deleted == [1, 1]


async def test_the_hosts_settings_count():
    class Slow(Vendor):
        async def delete(self, resource_meta, **kwargs):
            await anyio.sleep_forever()

    async with hosting(Slow(), settings=HostSettings(delete_limit=0.25)) as host:
        job = await host.create()
        with pytest.raises(GRPCError, match=r"stopped after 0.25 s, this host's own limit"):
            await job.delete()


async def test_log_pages():
    async with hosting(Vendor()) as host:
        job = await host.create()
        page = await job.log_page(token="1", lines=1)
    assert ([line.message for line in page.lines], page.token) == (["line 1"], "2")


def test_states_are_values():
    assert State(Phase.RUNNING, "at it") == State(Phase.RUNNING, "at it")
    assert "RUNNING" in repr(State(Phase.RUNNING))


class Told(AsyncConnector[ResourceMeta]):
    """Reports what `get_logs` and `get_metrics` get."""

    name = "Told"
    task_type_name = "told"
    metadata_type = ResourceMeta

    async def create(self, **kwargs):
        return ResourceMeta()

    async def get(self, resource_meta, **kwargs):
        return Resource(Phase.SUCCEEDED)

    async def delete(self, resource_meta, **kwargs): ...

    async def get_logs(self, resource_meta, token="", **kwargs):
        lines = [
            f"token {token!r}",
            *sorted(f"{name} {len(value)}" for name, value in kwargs.items()),
            *kwargs.values(),
        ]
        return GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=lines))

    def get_metrics(self, resource_meta, *, password=""):
        return GetTaskMetricsResponse(results=[ExecutionMetricResult(metric=f"password {len(password)}")])


@pytest.fixture
def secretive(monkeypatch):
    """A task with secrets and a config: one has the name of a parameter, and one is large."""
    monkeypatch.setenv("TOKEN", "hush" * 3)
    monkeypatch.setenv("PASSWORD", "secret" * 4_000)
    return Task(secrets={"token": "TOKEN", "password": "PASSWORD"}, configs={"region": "eu"})


async def test_logs_and_metrics_get_the_secrets_that_they_take(secretive):
    """A parameter of the method's own comes first, and what it does not take is left out."""
    async with hosting(Told()) as host:
        job = await host.create(secretive)
        assert await job.logs() == ["token ''", "password 24000", "region 2", "[secret password]", "eu"]
        assert await job.metrics() == {"password 24000": {}}
        again = host.attach(job.meta, secretive)
        assert await again.metrics() == {"password 24000": {}}
        assert await host.attach(job.meta).logs() == ["token ''"]


async def test_logs_and_metrics_as_the_executor_asks_for_them(secretive):
    async with hosting(Told()) as host:
        host.secrets_for_logs = False
        job = await host.create(secretive)
        assert await job.logs() == ["token ''"]
        assert await job.metrics() == {"password 0": {}}


async def test_no_network_brings_secrets_for_logs():
    """What only a client in the same process may send has no effect elsewhere."""
    registry = Registry()
    registry.register(Told())
    host = Host(HostSettings(host="127.0.0.1", port=0, prometheus_port=0), registry=registry)
    metadata = connection_metadata(Connection(secrets={"password": "hush" * 3}))
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        async with Channel(addresses.target) as channel:
            stub = AsyncConnectorServiceStub(channel)
            jobs = Jobs(stub, TaskCategory(name="told"), log_metadata=metadata)
            assert [result.metric for result in await jobs.metrics(b"{}")] == ["password 0"]
            assert [line.message async for line in LogReader(jobs, b"{}").read()] == ["token ''"]
        await host.shutdown()
