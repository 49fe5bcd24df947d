"""A connector for a vendor that is an object of the test, and hangs, fails and forgets as it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from connectrio import AsyncConnector, Phase, Resource, ResourceMeta, TaskLog
from connectrio.idl.flyteidl2.connector import (
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    GetTaskMetricsResponse,
)
from connectrio.idl.flyteidl2.core import ExecutionMetricResult
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.idl.google.protobuf import Struct


@dataclass
class Job(ResourceMeta):
    number: int


@dataclass
class Vendor(AsyncConnector[Job]):
    """:ivar polls: how many polls find a job running"""

    polls: int = 2
    end: Phase = Phase.SUCCEEDED
    hang: bool = False
    created: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    asked: anyio.Event = field(default_factory=anyio.Event)
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    is_open: bool = False
    seen: int = 0

    name = "Vendor"
    task_type_name = "vendor"
    metadata_type = Job

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        assert self.is_open
        self.created.append(
            {
                "template": task_template,
                "prefix": output_prefix,
                "inputs": inputs,
                "execution": task_execution_metadata,
                "connection": kwargs,
            }
        )
        return Job(len(self.created))

    async def get(self, resource_meta, **kwargs):
        self.asked.set()
        if self.hang:
            try:
                await anyio.sleep_forever()
            finally:
                self.cancelled.set()
        self.seen += 1
        if self.seen <= self.polls:
            return Resource(Phase.RUNNING, message="at it", custom_info={"progress": 40})
        inputs = self.created[resource_meta.number - 1]["inputs"]
        return Resource(
            self.end,
            message="done",
            outputs={"echo": inputs.get("text", ""), "all": list(inputs)},
            log_links=[TaskLog(uri="https://example.com", name="console")],
        )

    async def delete(self, resource_meta, **kwargs):
        self.deleted.append(resource_meta.number)

    async def get_logs(self, resource_meta, token="", lines=0, **kwargs):
        start = int(token or 0)
        end = min(start + (lines or 2), 3)
        found = [LogLine(message=f"line {number}") for number in range(start, end)]
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=found))
        yield GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token=str(end)))

    def get_metrics(self, resource_meta, queries=(), **kwargs):
        return GetTaskMetricsResponse(
            results=[
                ExecutionMetricResult(metric=name, data=Struct.from_dict({"value": 3})) for name in queries or ["rows"]
            ]
        )
