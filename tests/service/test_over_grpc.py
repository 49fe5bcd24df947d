"""The services behind the gRPC server, with our own client and with the one that Flyte uses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from urllib.parse import unquote

import anyio
import grpc
import pytest
from anyio.abc import SocketAttribute
from flyteidl2.connector import connector_pb2, service_pb2_grpc
from grpclib import GRPCError
from grpclib.const import Cardinality, Status

from connectrio import CurrentCall, Phase, Resource, current_call
from connectrio.connector.failures import LoadFailure
from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceStub,
    ConnectorMetadataServiceStub,
    CreateTaskRequest,
    DeleteTaskRequest,
    GetConnectorRequest,
    GetTaskLogsRequest,
    GetTaskLogsResponse,
    GetTaskMetricsRequest,
    GetTaskRequest,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.rpc import Server
from connectrio.rpc.testing import memory_channel
from connectrio.service.connector_metadata import LOAD_FAILURE_KEY, ConnectorMetadataService
from rpc.kit.virtual_time import in_virtual_time
from service.harness import (
    GET_TASK_LOGS,
    META,
    OPERATIONS,
    Complete,
    Service,
    attempt,
    connector,
    failing,
    log_lines,
)

GET = GetTaskRequest(resource_meta=META, task_category=TaskCategory(name="tiny"))
LOGS = GetTaskLogsRequest(resource_meta=META, task_category=TaskCategory(name="tiny"))


def server_of(service: Service) -> Server:
    return Server([service.servicer, ConnectorMetadataService(service.registry)])


async def test_unary_and_streaming_calls():
    async def get_logs(self, **kwargs):
        yield log_lines("0")
        yield log_lines("1")

    async with memory_channel(server_of(Service(connector(get_logs=get_logs)))) as channel:
        stub = AsyncConnectorServiceStub(channel)
        assert (await stub.get_task(GET)).resource.phase is Phase.RUNNING
        assert [response.body.results for response in [each async for each in stub.get_task_logs(LOGS)]] == [
            ["0"],
            ["1"],
        ]
        metadata = ConnectorMetadataServiceStub(channel)
        answer = await metadata.get_connector(GetConnectorRequest(name="Tiny Connector"))
        assert answer.connector.supported_task_categories == [TaskCategory(name="tiny")]


async def all_of(responses):
    return [each async for each in responses]


@pytest.mark.parametrize("shields", [{}, {"poll_retry": 1.0, "poll_absorb": 60.0}])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_connector_that_leaves_scopes_open_ends_its_own_call(operation: str, shields: dict[str, float]):
    going_on = anyio.Event()
    beside = []

    async def careless(self, *args, **kwargs):
        group = await anyio.create_task_group().__aenter__()
        group.start_soon(anyio.sleep_forever)
        anyio.CancelScope().__enter__()
        return await getattr(Complete, operation)(self, *args, **kwargs)

    async def get(self, **kwargs):
        await going_on.wait()
        return Resource(phase=Phase.SUCCEEDED)

    other = connector(get=get, task_type_name="other")
    service = Service(connector(**{operation: careless}), other, **shields)
    job = {"resource_meta": META, "task_category": TaskCategory(name="tiny")}
    calls = {
        "create": lambda stub: stub.create_task(
            CreateTaskRequest(template=TaskTemplate(type="tiny"), task_execution_metadata=attempt())
        ),
        "get": lambda stub: stub.get_task(GetTaskRequest(**job)),
        "delete": lambda stub: stub.delete_task(DeleteTaskRequest(**job)),
        "get_metrics": lambda stub: stub.get_task_metrics(GetTaskMetricsRequest(**job)),
        "get_logs": lambda stub: all_of(stub.get_task_logs(GetTaskLogsRequest(**job))),
    }

    async with memory_channel(server_of(service)) as channel, anyio.create_task_group() as tasks:
        stub = AsyncConnectorServiceStub(channel)

        async def call_beside() -> None:
            beside.append(await stub.get_task(replace(GET, task_category=TaskCategory(name="other"))))

        tasks.start_soon(call_beside)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(GRPCError, match="that was entered here is still open") as raised:
            await calls[operation](stub)
        assert raised.value.status is Status.INTERNAL
        if operation == "create":  # the job was created, and is not created again
            await calls[operation](stub)
        going_on.set()
    assert beside[0].resource.phase is Phase.SUCCEEDED


@in_virtual_time
async def test_the_clients_deadline_reaches_the_connector():
    ended = anyio.Event()

    async def get(self, **kwargs):
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    service = Service(connector(get=get))
    async with memory_channel(server_of(service)) as channel:
        with pytest.raises(GRPCError) as caught:
            await AsyncConnectorServiceStub(channel).get_task(GET, timeout=5)
        assert caught.value.status is Status.DEADLINE_EXCEEDED
        await ended.wait()
    assert service.count("get", "504") + service.count("get", "499") == 1


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "function"])
async def test_a_method_knows_its_call(plain):
    seen = []

    def see():
        call = current_call()
        seen.append((call.key, call.metadata["x-tenant"], call.time_remaining()))
        return Resource(phase=Phase.RUNNING)

    async def coroutine(self, **kwargs):
        return see()

    def function(self, **kwargs):
        return see()

    async with memory_channel(server_of(Service(connector(get=function if plain else coroutine)))) as channel:
        await AsyncConnectorServiceStub(channel).get_task(GET, timeout=3600, metadata={"x-tenant": "blue"})
    [(key, tenant, remaining)] = seen
    assert (key, tenant) == (None, "blue")
    assert 0 < remaining < 3601
    assert current_call() == CurrentCall()


async def test_a_client_that_leaves_closes_the_generator():
    closed = anyio.Event()

    async def get_logs(self, **kwargs):
        try:
            while True:
                yield log_lines("x" * 10_000)
        finally:
            closed.set()

    service = Service(connector(get_logs=get_logs))
    async with memory_channel(server_of(service)) as channel:
        call = channel.request(GET_TASK_LOGS, Cardinality.UNARY_STREAM, GetTaskLogsRequest, GetTaskLogsResponse)
        async with call as stream:
            await stream.send_message(LOGS, end=True)
            await stream.recv_message()
            await stream.cancel()
        await closed.wait()
    assert service.count("get_logs", "499") == 1


@pytest.mark.parametrize("plain", [False, True], ids=["asynchronous", "plain"])
async def test_log_lines_that_are_not_unicode_are_escaped(plain):
    async def asynchronous(self, **kwargs):
        yield log_lines("0")
        yield log_lines("a\udcff")

    def generator(self, **kwargs):
        yield log_lines("0")
        yield log_lines("a\udcff")

    service = Service(connector(get_logs=generator if plain else asynchronous))
    async with memory_channel(server_of(service)) as channel:
        responses = [each async for each in AsyncConnectorServiceStub(channel).get_task_logs(LOGS)]
    assert [response.body.results for response in responses] == [["0"], ["a\\udcff"]]
    assert service.count("get_logs") == 1


async def test_a_log_line_that_cannot_be_encoded_fails_the_call():
    async def get_logs(self, **kwargs):
        yield log_lines("0")
        yield log_lines(5)

    service = Service(connector(get_logs=get_logs))
    async with memory_channel(server_of(service)) as channel:
        with pytest.raises(GRPCError, match=r"a GetTaskLogsResponse that cannot be encoded: \S*results: ") as caught:
            _ = [each async for each in AsyncConnectorServiceStub(channel).get_task_logs(LOGS)]
    assert caught.value.status is Status.INTERNAL
    assert service.count("get_logs", "500") == 1


async def test_an_asyncio_cancelled_error_of_the_connectors_gets_an_answer():
    import asyncio

    service = Service(failing(asyncio.CancelledError))
    async with memory_channel(server_of(service)) as channel:
        with pytest.raises(GRPCError, match="CancelledError") as caught:
            await AsyncConnectorServiceStub(channel).get_task(GET, timeout=30)
        assert caught.value.status is Status.INTERNAL


async def with_grpcio(service: Service, use):
    """Call `use(channel)` in a thread, with a grpcio channel to `service`."""
    async with anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        server = server_of(service)
        await tasks.start(server.serve, listener)

        def run():
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                return use(channel)

        result = await anyio.to_thread.run_sync(run)
        await server.shutdown(grace=5)
    return result


@pytest.mark.parametrize("character", ["x", "漢", "%"])
async def test_grpcio_reads_the_status_of_a_20_kB_error(character):
    def use(channel):
        stub = service_pb2_grpc.AsyncConnectorServiceStub(channel)
        category = connector_pb2.TaskCategory(name="tiny")
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetTask(connector_pb2.GetTaskRequest(resource_meta=META, task_category=category))
        return caught.value

    error = await with_grpcio(Service(failing(lambda: ValueError(character * 20_000))), use)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details().startswith("failed to get tiny task with error:\n " + character * 600)
    assert error.details().endswith(" characters in all]")


async def test_grpcio_reads_load_failures():
    service = Service()
    service.registry.failures += [LoadFailure(f"entry point {number}", "é" * 20_000, "secret") for number in range(20)]

    def use(channel):
        stub = service_pb2_grpc.ConnectorMetadataServiceStub(channel)
        response, call = stub.ListConnectors.with_call(connector_pb2.ListConnectorsRequest())
        return response, call.trailing_metadata()

    response, metadata = await with_grpcio(service, use)
    assert [entry.name for entry in response.connectors] == ["Tiny Connector"]
    failures = [unquote(value) for key, value in metadata if key == LOAD_FAILURE_KEY]
    assert len(failures) == 11
    assert failures[0].startswith("entry point 0: ééé")


async def test_grpcio_streams_logs_and_cancels():
    closed = anyio.Event()

    async def get_logs(self, **kwargs):
        try:
            while True:
                yield log_lines("x")
        finally:
            closed.set()

    service = Service(connector(get_logs=get_logs))

    def use(channel):
        stub = service_pb2_grpc.AsyncConnectorServiceStub(channel)
        category = connector_pb2.TaskCategory(name="tiny")
        call = stub.GetTaskLogs(connector_pb2.GetTaskLogsRequest(resource_meta=META, task_category=category))
        first = next(call)
        call.cancel()
        anyio.from_thread.run(partial(closed.wait))
        return first

    first = await with_grpcio(service, use)
    assert list(first.body.results) == ["x"]
    assert service.count("get_logs", "499") == 1


async def test_200_calls_at_once():
    async def get(self, **kwargs):
        await anyio.sleep(0.05)
        return Resource(phase=Phase.RUNNING)

    service = Service(connector(get=get))
    async with memory_channel(server_of(service)) as channel, anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(AsyncConnectorServiceStub(channel).get_task, GET)
    assert service.count("get") == 200
