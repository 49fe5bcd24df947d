"""A host that traces, and the spans of its calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from connectrio import HostSettings, Registry
from connectrio.host.host import Host
from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceStub,
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskLogsRequest,
    GetTaskRequest,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import Connection, TaskTemplate
from connectrio.rpc import Channel
from connectrio.tracing import on_channel_call
from rpc.kit.serving import leaving_nothing
from service.harness import META, attempt

# of the RPC methods
SERVICE = "flyteidl2.connector.AsyncConnectorService/"


class Spans:
    """The spans that have ended."""

    def __init__(self, memory: InMemorySpanExporter) -> None:
        self._memory = memory

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._memory.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def of(self, kind: SpanKind) -> ReadableSpan:
        """The only span of this kind, but for those that connectors make themselves."""
        [found] = [span for span in self.all if span.kind is kind and span.name != "own"]
        return found


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    assert child.parent is not None
    return (child.parent.span_id, child.context.trace_id) == (parent.context.span_id, parent.context.trace_id)


@dataclass
class Hosted:
    """A host, a channel that traces its calls, and requests."""

    host: Host
    channel: Channel
    port: int

    @property
    def stub(self) -> AsyncConnectorServiceStub:
        return AsyncConnectorServiceStub(self.channel)  # type: ignore[arg-type]

    async def create(self, *, connection: Connection | None = None, **options: Any) -> Any:
        template = TaskTemplate(type="tiny")
        request = CreateTaskRequest(template=template, task_execution_metadata=attempt(), connection=connection)
        return await self.stub.create_task(request, **options)

    async def get(self, *, connection: Connection | None = None, task_type: str = "tiny", **options: Any) -> Any:
        category = TaskCategory(name=task_type)
        request = GetTaskRequest(resource_meta=META, task_category=category, connection=connection)
        return await self.stub.get_task(request, **options)

    async def delete(self) -> Any:
        request = DeleteTaskRequest(resource_meta=META, task_category=TaskCategory(name="tiny"))
        return await self.stub.delete_task(request)

    async def logs(self, **options: Any) -> list[str]:
        request = GetTaskLogsRequest(resource_meta=META, task_category=TaskCategory(name="tiny"))
        answers = self.stub.get_task_logs(request, **options)
        return [line for each in [each async for each in answers] if each.body for line in each.body.results]


@asynccontextmanager
async def hosted(*connectors: Any, traced_channel: bool = True, **settings: Any) -> AsyncIterator[Hosted]:
    """A host of these connectors with tracing, on a port."""
    registry = Registry()
    for each in connectors:
        registry.register(each)
    defaults = {"host": "127.0.0.1", "port": 0, "prometheus_port": 0, "tracing": True, "watchdog": 0}
    host = Host(HostSettings(**{**defaults, **settings}), registry=registry)
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        on_call = on_channel_call if traced_channel else None
        async with Channel(addresses.target, on_call=on_call) as channel:
            yield Hosted(host, channel, int(addresses.target.rpartition(":")[2]))
        await host.shutdown()
