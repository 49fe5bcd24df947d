"""A service with connectors made of functions, and requests for each of its operations."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio

from connectrio import AsyncConnector, Phase, Resource, ResourceMeta
from connectrio.connector.registry import Registry
from connectrio.idl.flyteidl2.connector import (
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskLogsRequest,
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskMetricsRequest,
    GetTaskMetricsResponse,
    GetTaskRequest,
    TaskCategory,
    TaskExecutionMetadata,
)
from connectrio.idl.flyteidl2.core import (
    Connection,
    Identifier,
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    TaskTemplate,
    WorkflowExecutionIdentifier,
)
from connectrio.service.async_connector import AsyncConnectorService
from connectrio.service.settings import ServiceSettings
from connectrio.service.shared_creates import SharedCreates

GET_TASK_LOGS = "/flyteidl2.connector.AsyncConnectorService/GetTaskLogs"
# seconds; what is waited for is an event, and this only ends a test that fails
PATIENCE = 30
OPERATIONS = ["create", "get", "delete", "get_metrics", "get_logs"]
# the settings with the limits of the operations
LIMITS = ["create_limit", "get_limit", "delete_limit", "metrics_limit", "logs_limit"]


@dataclass
class Job(ResourceMeta):
    id: str


META = Job("7").encode()


def log_lines(*lines: str) -> GetTaskLogsResponse:
    return GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=list(lines)))


class Base(AsyncConnector[Job]):
    name = "Tiny Connector"
    task_type_name = "tiny"
    metadata_type = Job

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Job("7")

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=Phase.RUNNING)

    async def delete(self, resource_meta, **kwargs):
        return None


class Complete(Base):
    async def get_metrics(self, resource_meta, **kwargs):
        return GetTaskMetricsResponse()

    async def get_logs(self, resource_meta, **kwargs):
        return log_lines("a line")


def connector(base: type[Base] = Complete, **members: Any) -> AsyncConnector[Job]:
    """A connector of class Tiny with these methods and attributes."""
    return type("Tiny", (base,), members)()


def failing(error: Callable[[], BaseException], *, plain: bool = False) -> AsyncConnector[Job]:
    """A connector all of whose methods raise."""

    async def coroutine(self, **kwargs):
        raise error()

    def function(self, **kwargs):
        raise error()

    return connector(**dict.fromkeys(OPERATIONS, function if plain else coroutine))


class Service:
    """The service under test, with a host's settings unless a test says otherwise; but polls are not shielded."""

    def __init__(
        self,
        *connectors: AsyncConnector[Any],
        clock: Callable[[], float] = time.monotonic,
        shared: SharedCreates | None = None,
        **settings: Any,
    ) -> None:
        self.registry = Registry()
        for each in connectors or (connector(),):
            self.registry.register(each)
        unshielded = ServiceSettings(worker=4, poll_retry=0, poll_absorb=0)
        settings = replace(unshielded, **settings)
        self.servicer = AsyncConnectorService(self.registry, settings, shared=shared, clock=clock)
        self.metrics = self.servicer.metrics
        self.workers = self.servicer.workers
        self.creates = self.servicer.creates

    async def create(self, task_type="tiny", version=0, *, connection=None, resource_meta=None, **fields):
        template = fields.pop("template", None) or TaskTemplate(type=task_type, task_type_version=version)
        return await self.servicer.create_task(CreateTaskRequest(template=template, connection=connection, **fields))

    async def get(self, task_type="tiny", version=0, *, connection=None, resource_meta=META, **fields):
        category = TaskCategory(name=task_type, version=version)
        return await self.servicer.get_task(
            GetTaskRequest(resource_meta=resource_meta, task_category=category, connection=connection, **fields)
        )

    async def delete(self, task_type="tiny", version=0, *, connection=None, resource_meta=META):
        category = TaskCategory(name=task_type, version=version)
        return await self.servicer.delete_task(
            DeleteTaskRequest(resource_meta=resource_meta, task_category=category, connection=connection)
        )

    async def get_metrics(self, task_type="tiny", version=0, *, resource_meta=META, **fields):
        category = TaskCategory(name=task_type, version=version)
        return await self.servicer.get_task_metrics(
            GetTaskMetricsRequest(resource_meta=resource_meta, task_category=category, **fields)
        )

    async def get_logs(self, task_type="tiny", version=0, *, resource_meta=META, send=None, **fields):
        category = TaskCategory(name=task_type, version=version)
        request = GetTaskLogsRequest(resource_meta=resource_meta, task_category=category, **fields)
        stream = FakeStream(request, send)
        await self.servicer.__mapping__()[GET_TASK_LOGS].func(stream)
        return stream.sent

    async def call(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self, operation)(*args, **kwargs)

    def count(self, operation: str, error_code: str | None = None, task_type: str = "tiny") -> float:
        """How many calls of that operation were counted as successful, or as failed with that code."""
        labels = {"task_type": task_type, "operation": operation}
        if error_code is None:
            name = "flyte_connector_requests_success_total"
        else:
            name = "flyte_connector_requests_failure_total"
            labels["error_code"] = error_code
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def sample(self, name: str, **labels: str) -> float:
        """The value of one of our own metrics."""
        labels = {"task_type": "tiny", **labels}
        return self.metrics.registry.get_sample_value(f"connectrio_{name}", labels) or 0.0


class FakeStream:
    """The server's side of a streaming call, as a handler sees it."""

    def __init__(self, request: GetTaskLogsRequest, send: Callable[[Any], Awaitable[None]] | None = None) -> None:
        self._request = request
        self._send = send
        self.sent: list[GetTaskLogsResponse] = []

    async def recv_message(self):
        return self._request

    async def send_message(self, message):
        if self._send is not None:
            await self._send(message)
        self.sent.append(message)


def attempt(number: int = 0, *, node: str = "n0", execution: str = "run") -> TaskExecutionMetadata:
    """Who a job is created for."""
    execution_id = WorkflowExecutionIdentifier(project="p", domain="d", name=execution)
    return TaskExecutionMetadata(
        task_execution_id=TaskExecutionIdentifier(
            task_id=Identifier(project="p", domain="d", name="task", version="v1"),
            node_execution_id=NodeExecutionIdentifier(node_id=node, execution_id=execution_id),
            retry_attempt=number,
        )
    )


def secrets(**values: str) -> Connection:
    return Connection(secrets=values)


class Gate:
    """Holds threads until it opens."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.entered = threading.Semaphore(0)

    def pass_through(self, result=None):
        self.entered.release()
        assert self._open.wait(PATIENCE)
        return result

    async def wait_entered(self, count: int = 1) -> None:
        for _ in range(count):
            assert await anyio.to_thread.run_sync(partial(self.entered.acquire, timeout=PATIENCE))

    def open(self) -> None:
        self._open.set()
