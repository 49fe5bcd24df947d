"""ExecuteTaskSync, and what becomes of the job when the call ends before it."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest
from grpclib import GRPCError
from grpclib.const import Cardinality, Status
from structlog.testing import capture_logs

from connectrio.idl.flyteidl.admin import (
    CreateRequestHeader,
    ExecuteTaskSyncRequest,
    ExecuteTaskSyncResponse,
    TaskExecutionMetadata,
)
from connectrio.idl.flyteidl.core import (
    Literal,
    LiteralMap,
    LiteralType,
    NodeExecutionIdentifier,
    Primitive,
    Scalar,
    SimpleType,
    TaskExecutionIdentifier,
    TaskTemplate,
    TypedInterface,
    Variable,
    VariableMap,
    WorkflowExecutionIdentifier,
)
from connectrio.idl.flyteidl.core import TaskExecutionPhase as Phase
from connectrio.idl.flyteidl.service import SyncAgentServiceStub
from connectrio.rpc import Server
from connectrio.rpc.testing import memory_channel
from connectrio.service.flyte1.sync_agent import SyncAgentService
from rpc.kit.virtual_time import in_virtual_time
from service.flyte1.jobs import Jobs
from service.harness import Service

PATIENCE = 60


def text(value):
    return Literal(scalar=Scalar(primitive=Primitive(string_value=value)))


def number(value):
    return Literal(scalar=Scalar(primitive=Primitive(integer=value)))


def parts(**inputs):
    """The header and the inputs of a request."""
    types = {name: SimpleType.STRING if name == "end" else SimpleType.INTEGER for name in inputs}
    variables = {name: Variable(type=LiteralType(simple=simple)) for name, simple in types.items()}
    interface = TypedInterface(inputs=VariableMap(variables=variables))
    literals = {name: text(value) if name == "end" else number(value) for name, value in inputs.items()}
    return (
        ExecuteTaskSyncRequest(header=CreateRequestHeader(template=TaskTemplate(type="jobs", interface=interface))),
        ExecuteTaskSyncRequest(inputs=LiteralMap(literals=literals)),
    )


@asynccontextmanager
async def calling(jobs, **settings):
    service = Service(jobs, **settings)
    with anyio.fail_after(PATIENCE):
        async with memory_channel(Server([SyncAgentService(service.servicer)])) as channel:
            yield channel


async def execute(channel, *messages, **options):
    return [answer async for answer in SyncAgentServiceStub(channel).execute_task_sync(messages, **options)]


async def failure(channel, *messages, **options):
    with pytest.raises(GRPCError) as caught:
        await execute(channel, *messages, **options)
    return caught.value


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED", "ABORTED", "RETRYABLE_FAILED"])
async def test_the_answer_is_the_jobs_last_state(end):
    jobs = Jobs()
    async with calling(jobs) as channel:
        [answer] = await execute(channel, *parts(end=end))
    assert (answer.header.resource.phase, answer.header.resource.message) == (Phase[end], "so it ended")
    assert jobs.deleted == []


async def test_a_client_may_keep_its_stream_open_until_the_answer():
    async with calling(Jobs()) as channel:
        call = channel.request(
            "/flyteidl.service.SyncAgentService/ExecuteTaskSync",
            Cardinality.STREAM_STREAM,
            ExecuteTaskSyncRequest,
            ExecuteTaskSyncResponse,
        )
        async with call as stream:
            for part in parts():
                await stream.send_message(part)
            assert (await stream.recv_message()).header.resource.phase is Phase.SUCCEEDED
            await stream.end()
            assert await stream.recv_message() is None


async def test_a_client_that_leaves_takes_its_job_with_it():
    jobs = Jobs()
    async with calling(jobs) as channel:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute, channel, *parts(polls=-1))
            await jobs.polled.wait()
            tasks.cancel_scope.cancel()
        await jobs.ended.wait()
    assert jobs.deleted == [1]


async def test_a_client_that_leaves_while_its_job_is_created_takes_it_along():
    began, go_on = anyio.Event(), anyio.Event()

    class Held(Jobs):
        async def create(self, *args, **kwargs):
            began.set()
            await go_on.wait()
            return await super().create(*args, **kwargs)

    header, inputs = parts(polls=-1)
    execution = WorkflowExecutionIdentifier(project="p", domain="d", name="n")
    node = NodeExecutionIdentifier(node_id="n0", execution_id=execution)
    header.header.task_execution_metadata = TaskExecutionMetadata(
        task_execution_id=TaskExecutionIdentifier(node_execution_id=node)
    )
    jobs = Held()
    async with calling(jobs) as channel:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute, channel, header, inputs)
            await began.wait()
            tasks.cancel_scope.cancel()
        go_on.set()
        await jobs.ended.wait()
    assert jobs.deleted == [1]


@in_virtual_time
async def test_the_deadline_of_the_client_ends_the_job():
    jobs = Jobs()
    async with calling(jobs) as channel:
        error = await failure(channel, *parts(polls=-1), timeout=5)
        assert error.status is Status.DEADLINE_EXCEEDED
        await jobs.ended.wait()
    assert jobs.deleted == [1]


@in_virtual_time
async def test_the_limit_of_the_host_ends_the_job():
    jobs = Jobs()
    async with calling(jobs, execute_limit=3) as channel:
        error = await failure(channel, *parts(polls=-1))
    assert error.status is Status.DEADLINE_EXCEEDED
    assert "after 3 s, this host's limit" in error.message
    assert jobs.deleted == [1]


async def test_a_poll_that_fails_ends_the_job_and_the_call():
    jobs = Jobs()
    async with calling(jobs) as channel:
        error = await failure(channel, *parts(end="raise"))
    assert (error.status, "the vendor says no" in error.message) == (Status.INTERNAL, True)
    assert jobs.deleted == [1]


async def test_a_job_that_cannot_be_deleted_is_logged():
    class Stubborn(Jobs):
        async def delete(self, resource_meta, **kwargs):
            raise RuntimeError("no way")

    with capture_logs() as logs:
        async with calling(Stubborn()) as channel:
            error = await failure(channel, *parts(end="raise"))
    assert "the vendor says no" in error.message
    [line] = [line for line in logs if "was not deleted" in line["event"]]
    assert "no way" in line["error"]
    assert (line["task_type"], line["key"]) == ("jobs", None)


HEADER, INPUTS = parts()


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([], "the end of the stream"),
        ([HEADER], "the end of the stream"),
        ([INPUTS, HEADER], "inputs"),
        ([HEADER, HEADER], "header"),
        ([HEADER, ExecuteTaskSyncRequest()], "nothing"),
    ],
)
async def test_a_request_that_is_not_whole_is_refused(messages, found):
    jobs = Jobs()
    async with calling(jobs) as channel:
        error = await failure(channel, *messages)
    assert error.status is Status.INVALID_ARGUMENT
    assert error.message.endswith(f"got {found}")
    assert jobs.given == []
