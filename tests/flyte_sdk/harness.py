"""Connectors for flyte-sdk, and a service that hosts them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from flyte.connectors import AsyncConnector, Resource, ResourceMeta
from flyteidl2.connector.connector_pb2 import (
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskMetricsResponse,
)
from flyteidl2.core.execution_pb2 import TaskExecution

from connectrio.flyte import HostedConnector
from service.harness import Service

# seconds; only ends a test that fails
PATIENCE = 30.0


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - it happens in another thread
            await anyio.sleep(0.01)


@dataclass
class Job(ResourceMeta):
    id: str


META = Job("7").encode()


def log_lines(*lines: str) -> GetTaskLogsResponse:
    return GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=list(lines)))


class Base(AsyncConnector):
    name = "Tiny Connector"
    task_type_name = "tiny"
    metadata_type = Job

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Job("7")

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=TaskExecution.RUNNING, message=resource_meta.id)

    async def delete(self, resource_meta, **kwargs):
        return None


class Complete(Base):
    async def get_metrics(self, resource_meta, **kwargs):
        return GetTaskMetricsResponse()

    async def get_logs(self, resource_meta, token="", **kwargs):
        return log_lines("a line")


def connector(base: type[Base] = Complete, **members: Any) -> AsyncConnector:
    """Return a connector of class Tiny with these methods and attributes."""
    return type("Tiny", (base,), {"__module__": __name__, **members})()


@asynccontextmanager
async def hosting(*connectors: AsyncConnector, **options: Any):
    """Yield a service of these connectors, with open lifespans."""
    hosted = [HostedConnector.of(each) for each in connectors or (connector(),)]
    async with AsyncExitStack() as stack:
        for each in hosted:
            await stack.enter_async_context(each.lifespan())
        yield Service(*hosted, **options)


class Waiting:
    """A connector's method that waits for its cancellation."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def method(self):
        """For a connector's class."""

        async def wait(_self, **kwargs):
            self.events.append("begun")
            try:
                await asyncio.sleep(100 * PATIENCE)
            except asyncio.CancelledError:
                self.events.append("cancelled")
                raise

        return wait
