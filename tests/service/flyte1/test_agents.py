"""The host as Flyte 1's executor sees it: through grpcio, and the stubs of the package `flyteidl`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import anyio
import grpc
import pytest
from anyio import to_thread
from flyteidl.admin import agent_pb2 as admin
from flyteidl.core import interface_pb2, literals_pb2, tasks_pb2, types_pb2, workflow_pb2
from flyteidl.service.agent_pb2_grpc import AgentMetadataServiceStub, AsyncAgentServiceStub, SyncAgentServiceStub
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from connectrio import Registry
from connectrio.host.host import Host
from connectrio.host.settings import HostSettings
from connectrio.idl.grpc.reflection.v1 import ServerReflectionRequest, ServerReflectionStub
from connectrio.rpc import Channel
from service.flyte1.jobs import Jobs, Other

# seconds; only ends a test that fails
PATIENCE = 60
SERVICES = ["AgentMetadataService", "AsyncAgentService", "SyncAgentService"]
CATEGORY = admin.TaskCategory(name="jobs")


class Client:
    """Calls a host from worker threads, as grpcio's calls block."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.tasks = AsyncAgentServiceStub(channel)
        self.sync = SyncAgentServiceStub(channel)
        self.metadata = AgentMetadataServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    async def __call__(self, method, request):
        return await to_thread.run_sync(partial(method, request, timeout=PATIENCE))

    async def refused(self, method, request):
        """The status and the text that a call ends with."""
        with pytest.raises(grpc.RpcError) as caught:
            await self(method, request)
        return caught.value.code().name, caught.value.details()

    async def lines(self, request):
        return await to_thread.run_sync(lambda: list(self.tasks.GetTaskLogs(request, timeout=PATIENCE)))


@asynccontextmanager
async def hosting(*connectors, **settings):
    """A host of these connectors and a client of it."""
    registry = Registry()
    for connector in connectors:
        registry.register(connector)
    host = Host(HostSettings(host="127.0.0.1", port=0, prometheus_port=0, **settings), registry=registry)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(host.serve)
            with grpc.insecure_channel(addresses.target) as channel:
                yield host, addresses, Client(channel)
            await host.shutdown(grace=1)


def integer(value):
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=value)))


def text(value):
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(string_value=value)))


NUMBER = types_pb2.LiteralType(simple=types_pb2.INTEGER)
TEXT = types_pb2.LiteralType(simple=types_pb2.STRING)


def template(**types):
    variables = {name: interface_pb2.Variable(type=declared) for name, declared in types.items()}
    interface = interface_pb2.TypedInterface(inputs=interface_pb2.VariableMap(variables=variables))
    return tasks_pb2.TaskTemplate(type="jobs", interface=interface, config={"a": "b"})


def literal_map(**literals):
    return literals_pb2.LiteralMap(literals=literals)


def creation(**literals):
    types = {name: TEXT if name == "end" else NUMBER for name in literals}
    return admin.CreateTaskRequest(
        inputs=literal_map(**literals), template=template(**types), output_prefix="s3://bucket/out"
    )


async def test_a_job_from_its_creation_to_its_end():
    jobs = Jobs()
    async with hosting(jobs) as (_, _, client):
        made = await client(client.tasks.CreateTask, creation(n=integer(21), polls=integer(1)))
        request = admin.GetTaskRequest(resource_meta=made.resource_meta, task_category=CATEGORY, output_prefix="/out")
        running = await client(client.tasks.GetTask, request)
        ended = (await client(client.tasks.GetTask, request)).resource
        deletion = admin.DeleteTaskRequest(resource_meta=made.resource_meta, task_category=CATEGORY)
        assert await client(client.tasks.DeleteTask, deletion) == admin.DeleteTaskResponse()
    [given] = jobs.given
    assert (given["prefix"], given["inputs"]) == ("s3://bucket/out", {"n": 21, "polls": 1})
    assert given["template"].config == {"a": "b"}
    assert running.resource.phase == 2  # RUNNING
    assert (ended.phase, ended.message) == (3, "so it ended")
    assert ended.outputs.literals["doubled"] == integer(42)
    assert [each.scalar.primitive.string_value for each in ended.outputs.literals["names"].collection.literals] == [
        "a",
        "b",
    ]
    assert [(link.uri, link.name) for link in ended.log_links] == [("https://example.com/1", "console")]
    assert dict(ended.custom_info) == {"rows": 7}
    assert jobs.asked[0] == ("get", {"output_prefix": "/out"})
    assert jobs.deleted == [1]


async def test_the_execution_reaches_the_connector():
    request = creation()
    execution = request.task_execution_metadata
    execution.task_execution_id.node_execution_id.node_id = "n0"
    execution.task_execution_id.retry_attempt = 3
    execution.labels["team"] = "a"
    # Flyte 2 has no such field
    execution.overrides.CopyFrom(workflow_pb2.TaskNodeOverrides(container_image="image"))
    jobs = Jobs()
    async with hosting(jobs) as (_, _, client):
        await client(client.tasks.CreateTask, request)
    received = jobs.given[0]["execution"]
    assert received.task_execution_id.node_execution_id.node_id == "n0"
    assert (received.task_execution_id.retry_attempt, received.labels) == (3, {"team": "a"})


async def test_older_executors_name_the_task_type_alone():
    jobs = Jobs()
    async with hosting(jobs, Other()) as (_, _, client):
        meta = (await client(client.tasks.CreateTask, creation())).resource_meta
        answer = await client(client.tasks.GetTask, admin.GetTaskRequest(task_type="jobs", resource_meta=meta))
        await client(client.tasks.DeleteTask, admin.DeleteTaskRequest(task_type="jobs", resource_meta=meta))
        lines = await client.lines(admin.GetTaskLogsRequest(task_type="jobs", resource_meta=meta))
        request = admin.GetTaskMetricsRequest(task_type="jobs", resource_meta=meta)
        assert len((await client(client.tasks.GetTaskMetrics, request)).results) == 1
    assert answer.resource.phase == 3
    assert len(lines) == 2
    assert jobs.deleted == [1]


async def test_the_category_counts_more_than_the_task_type_and_has_a_version():
    other = Other()
    async with hosting(Jobs(), other) as (_, _, client):
        meta = (await client(client.tasks.CreateTask, creation())).resource_meta
        category = admin.TaskCategory(name="jobs", version=2)
        request = admin.DeleteTaskRequest(task_type="nonsense", task_category=category, resource_meta=meta)
        await client(client.tasks.DeleteTask, request)
    assert other.deleted == [1]


async def test_logs_and_metrics():
    jobs = Jobs()
    async with hosting(jobs) as (_, _, client):
        meta = (await client(client.tasks.CreateTask, creation())).resource_meta
        wanted = {"resource_meta": meta, "task_category": CATEGORY}
        header, body = await client.lines(admin.GetTaskLogsRequest(**wanted, token="1", lines=5))
        metrics = await client(
            client.tasks.GetTaskMetrics,
            admin.GetTaskMetricsRequest(
                **wanted, queries=["rows"], start_time=Timestamp(seconds=60), step=Duration(seconds=5)
            ),
        )
    assert header.header.token == "2"
    assert (body.body.results, [line.message for line in body.body.structured_lines]) == (["bare"], ["whole"])
    assert [(result.metric, dict(result.data)) for result in metrics.results] == [("rows", {"value": 3})]
    assert jobs.asked == [
        ("get_logs", {"token": "1", "lines": 5}),
        (
            "get_metrics",
            {"queries": ["rows"], "start_time": datetime(1970, 1, 1, 0, 1, tzinfo=UTC), "step": timedelta(seconds=5)},
        ),
    ]


async def test_what_goes_wrong_has_the_status_that_it_has_for_flyte_2():
    jobs = Jobs()
    nope = admin.TaskCategory(name="nope")
    not_found = ("NOT_FOUND", "Cannot find connector for task type: nope.")
    async with hosting(jobs) as (host, _, client):
        tasks = client.tasks
        create = admin.CreateTaskRequest(template=tasks_pb2.TaskTemplate(type="nope"))
        assert await client.refused(tasks.CreateTask, create) == not_found
        assert await client.refused(tasks.GetTask, admin.GetTaskRequest(task_category=nope)) == not_found
        assert await client.refused(tasks.GetTask, admin.GetTaskRequest(task_type="nope")) == not_found
        assert await client.refused(tasks.DeleteTask, admin.DeleteTaskRequest(task_category=nope)) == not_found
        assert await client.refused(tasks.GetTaskMetrics, admin.GetTaskMetricsRequest(task_category=nope)) == not_found
        with pytest.raises(grpc.RpcError, match="Cannot find connector for task type: nope"):
            await client.lines(admin.GetTaskLogsRequest(task_category=nope))
        code, details = await client.refused(tasks.GetTask, admin.GetTaskRequest(task_category=CATEGORY))
        assert (code, "was not made by this connector" in details) == ("INVALID_ARGUMENT", True)
        wrong = admin.CreateTaskRequest(inputs=literal_map(n=text("two")), template=template(n=NUMBER))
        code, details = await client.refused(tasks.CreateTask, wrong)
        assert (code, "'n'" in details) == ("INVALID_ARGUMENT", True)
        sample = partial(host.collectors.get_sample_value, "flyte_connector_requests_failure_total")
        assert sample({"task_type": "jobs", "operation": "create", "error_code": "400"}) == 1


async def test_connectors_are_listed_as_agents():
    async with hosting(Jobs(), Other()) as (_, _, client):
        [agent] = (await client(client.metadata.ListAgents, admin.ListAgentsRequest())).agents
        same = await client(client.metadata.GetAgent, admin.GetAgentRequest(name="Jobs"))
        unknown = await client.refused(client.metadata.GetAgent, admin.GetAgentRequest(name="Nope"))
    assert agent == same.agent
    assert (agent.name, agent.is_sync) == ("Jobs", False)
    assert list(agent.supported_task_types) == ["jobs", "jobs"]
    assert [(category.name, category.version) for category in agent.supported_task_categories] == [
        ("jobs", 0),
        ("jobs", 2),
    ]
    assert unknown == ("NOT_FOUND", "Cannot find connector for name: Nope.")


class Immediate(Jobs):
    name = "Immediate"
    task_type_name = "immediate"
    is_sync = True


async def test_connectors_say_that_their_tasks_end_in_one_call():
    async with hosting(Jobs(), Immediate()) as (_, _, client):
        agents = (await client(client.metadata.ListAgents, admin.ListAgentsRequest())).agents
        one = await client(client.metadata.GetAgent, admin.GetAgentRequest(name="Immediate"))
    assert {agent.name: agent.is_sync for agent in agents} == {"Jobs": False, "Immediate": True}
    assert one.agent.is_sync


async def test_health_and_reflection_name_the_services():
    names = [f"flyteidl.service.{name}" for name in SERVICES]
    async with hosting(Jobs()) as (_, addresses, client):
        for name in names:
            answer = await client(client.health.Check, health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with Channel(addresses.target) as channel:
            answers = ServerReflectionStub(channel).server_reflection_info(_ask(*names))
            listed, *files = [answer async for answer in answers]
    assert {*names} < {service.name for service in listed.list_services_response.service}
    for answer in files:
        described = b"".join(answer.file_descriptor_response.file_descriptor_proto)
        assert b"flyteidl/service/agent.proto" in described
        assert b"flyteidl/core/literals.proto" in described


async def _ask(*names):
    yield ServerReflectionRequest(list_services="")
    for name in names:
        yield ServerReflectionRequest(file_containing_symbol=name)


def sync_request(task_type="jobs", **literals):
    """The two messages that Flyte's executor sends."""
    request = creation(**literals)
    request.template.type = task_type
    header = admin.CreateRequestHeader(template=request.template, output_prefix="/out")
    return [admin.ExecuteTaskSyncRequest(header=header), admin.ExecuteTaskSyncRequest(inputs=request.inputs)]


async def test_a_task_is_executed_while_the_client_waits():
    jobs = Jobs()
    async with hosting(jobs) as (host, _, client):
        parts = iter(sync_request(n=integer(21), polls=integer(2)))
        [answer] = await to_thread.run_sync(lambda: list(client.sync.ExecuteTaskSync(parts, timeout=PATIENCE)))
        sample = partial(host.collectors.get_sample_value, "flyte_connector_requests_success_total")
        assert sample({"task_type": "jobs", "operation": "create"}) == 1
        assert sample({"task_type": "jobs", "operation": "get"}) == 3
    resource = answer.header.resource
    assert (resource.phase, resource.message) == (3, "so it ended")
    assert resource.outputs.literals["doubled"] == integer(42)
    assert jobs.asked == [("get", {"output_prefix": "/out"})] * 3
    assert jobs.deleted == []


async def test_an_unknown_task_is_not_executed():
    async with hosting(Jobs()) as (_, _, client):
        with pytest.raises(grpc.RpcError) as caught:
            await to_thread.run_sync(lambda: list(client.sync.ExecuteTaskSync(iter(sync_request("nope")))))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
