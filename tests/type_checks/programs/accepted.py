"""Connectors whose methods have all the shapes that a host accepts: type checkers find nothing wrong."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from connectrio import (
    AsyncConnector,
    ConnectorPolicy,
    GetTaskLogsResponse,
    GetTaskMetricsResponse,
    Phase,
    PhaseMap,
    Resource,
    ResourceMeta,
    TaskExecutionMetadata,
    TaskLog,
    TaskTemplate,
    current_call,
    read_custom,
)


@dataclass
class Job(ResourceMeta):
    id: str


@dataclass
class Settings:
    warehouse: str
    tags: tuple[str, ...] = ()


class AsInFlyteSdk(AsyncConnector[Job]):
    name = "All parameters, as flyte-sdk's documents show them"
    task_type_name = "a"
    metadata_type = Job

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: dict[str, Any] | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,
        **kwargs: Any,
    ) -> Job:
        return Job(current_call().key or "")

    async def get(self, resource_meta: Job, **kwargs: Any) -> Resource:
        link = TaskLog(uri=f"https://vendor.example/{resource_meta.id}", name="console")
        return Resource(phase=Phase.SUCCEEDED, log_links=[link], outputs={"n": 1}, custom_info={"a": [1]})

    async def delete(self, resource_meta: Job, **kwargs: Any) -> None: ...

    async def get_logs(self, resource_meta: Job, token: str = "", **kwargs: Any) -> GetTaskLogsResponse:
        return GetTaskLogsResponse()

    async def get_metrics(self, resource_meta: Job, **kwargs: Any) -> GetTaskMetricsResponse:
        return GetTaskMetricsResponse()


class WithSecrets(AsyncConnector[Job]):
    """Secrets as parameters, an async generator of logs, and jobs polled together."""

    task_type_name = "b"
    task_type_version = 1
    create_is_idempotent = True
    policy = ConnectorPolicy(rate_calls=30)
    phases = PhaseMap({"done": Phase.SUCCEEDED})

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        yield

    async def create(
        self, task_template: TaskTemplate, output_prefix: str, inputs: dict[str, Any], *, token: str, **kwargs: Any
    ) -> Job:
        plain: dict[str, Any] = read_custom(task_template)
        settings = read_custom(task_template, Settings)
        return Job(settings.warehouse.upper() + "".join(settings.tags) + str(plain))

    async def get(self, resource_meta: Job, *, token: str, region: str = "eu") -> Resource:
        return Resource(self.phases[resource_meta.id])

    async def get_many(self, resource_metas: Sequence[Job], *, token: str) -> list[Resource | Exception | None]:
        return [None for _ in resource_metas]

    async def delete(self, resource_meta: Job, *, token: str) -> None: ...

    async def get_logs(self, resource_meta: Job, lines: int) -> AsyncIterator[GetTaskLogsResponse]:
        yield GetTaskLogsResponse()

    def is_transient(self, error: Exception) -> bool:
        return isinstance(error, OSError) or super().is_transient(error)


class Plain(AsyncConnector[Job]):
    """Methods that run in worker threads, with what they need and no more."""

    task_type_name = "c"

    def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: dict[str, Any],
        task_execution_metadata: TaskExecutionMetadata | None,
    ) -> Job:
        return Job(str(inputs["name"]))

    def get(self, resource_meta: Job, output_prefix: str) -> Resource:
        return Resource(Phase.RUNNING, output_prefix)

    def delete(self, resource_meta: Job) -> None: ...

    def get_logs(self, resource_meta: Job) -> GetTaskLogsResponse:
        return GetTaskLogsResponse()

    def get_metrics(
        self, resource_meta: Job, queries: Sequence[str], start_time: datetime | None, step: timedelta | None
    ) -> GetTaskMetricsResponse:
        return GetTaskMetricsResponse()


J = TypeVar("J", bound=Job)


class Shared(AsyncConnector[J], Generic[J]):
    """A base class of several connectors."""

    async def get(self, resource_meta: J, **kwargs: Any) -> Resource:
        return Resource(Phase.RUNNING, resource_meta.id)

    async def delete(self, resource_meta: J, **kwargs: Any) -> None: ...


class Special(Shared[Job]):
    task_type_name = "d"

    async def create(
        self, task_template: TaskTemplate, output_prefix: str, inputs: dict[str, Any], **kwargs: Any
    ) -> Job:
        return Job("1")


Special(task_type_name="e", task_type_version=2, metadata_type=Job, name="Special")
