"""The calls about the jobs of one task type."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceStub,
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskLogsRequest,
    GetTaskLogsResponse,
    GetTaskMetricsRequest,
    GetTaskRequest,
    Resource,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import Connection, ExecutionMetricResult

__all__ = ["Jobs"]


@dataclass(frozen=True)
class Jobs:
    """The jobs of one task type on one host. Every call raises `GRPCError` when it fails.

    :ivar category: the task type and its version
    :ivar connection: goes with every call that has room for it
    :ivar timeout: seconds for each call; streams of log lines have no limit
    :ivar output_prefix: where the jobs write their outputs, for connectors that ask
    """

    stub: AsyncConnectorServiceStub
    category: TaskCategory
    connection: Connection | None = None
    timeout: float = 10.0
    output_prefix: str = ""

    async def create(self, request: CreateTaskRequest) -> bytes:
        """Start a job; its resource meta."""
        return (await self.stub.create_task(request, timeout=self.timeout)).resource_meta

    async def get(self, meta: bytes) -> Resource:
        """The state of a job."""
        request = GetTaskRequest(
            resource_meta=meta,
            task_category=self.category,
            output_prefix=self.output_prefix,
            connection=self.connection,
        )
        return (await self.stub.get_task(request, timeout=self.timeout)).resource or Resource()

    async def delete(self, meta: bytes) -> None:
        """Cancel a job."""
        request = DeleteTaskRequest(resource_meta=meta, task_category=self.category, connection=self.connection)
        await self.stub.delete_task(request, timeout=self.timeout)

    def logs(self, meta: bytes, token: str = "", lines: int = 0) -> AsyncIterator[GetTaskLogsResponse]:
        """The log of a job.

        :param token: where an earlier stream ended
        :param lines: how many are wanted; 0 for the connector's choice
        """
        request = GetTaskLogsRequest(resource_meta=meta, task_category=self.category, token=token, lines=lines)
        return self.stub.get_task_logs(request)

    async def metrics(self, meta: bytes, queries: Sequence[str] = ()) -> list[ExecutionMetricResult]:
        """The metrics of a job."""
        request = GetTaskMetricsRequest(resource_meta=meta, task_category=self.category, queries=list(queries))
        return (await self.stub.get_task_metrics(request, timeout=self.timeout)).results
