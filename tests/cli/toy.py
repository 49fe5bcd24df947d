"""A connector whose jobs do what their inputs say: a module for `--modules`, and for hosts inside a test.

Inputs: `end`, the phase that the second poll finds ("NEVER": none), and `message`; `hold`: the creation prints
"creating" and goes on once somebody has written to the named pipe `gate` under its output prefix.
A job that is deleted leaves a file `deleted` under its output prefix, if that is a directory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import anyio

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta, TaskLog, UnknownJobError
from connectrio.idl.flyteidl2.connector import (
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    GetTaskMetricsResponse,
)
from connectrio.idl.flyteidl2.core import ExecutionMetricResult
from connectrio.idl.flyteidl2.logs.dataplane import LogLine, LogLineOriginator
from connectrio.idl.google.protobuf import Struct, Timestamp
from connectrio.literals import DataFrame

LINES = [
    LogLine(
        timestamp=Timestamp.from_datetime(datetime(2024, 1, 1, 12, 30, second, tzinfo=UTC)),
        message=f"line {second}",
        originator=LogLineOriginator.USER,
    )
    for second in range(3)
]


@dataclass
class ToyJob(ResourceMeta):
    number: int
    end: str
    message: str
    prefix: str


@dataclass
class Call:
    """What `create` was given."""

    template: Any
    prefix: str
    inputs: dict[str, Any]
    execution: Any
    connection: dict[str, Any]


@dataclass
class Toy(AsyncConnector[ToyJob]):
    """See the module."""

    calls: list[Call] = field(default_factory=list)
    polls: dict[int, int] = field(default_factory=dict)
    deleted: list[int] = field(default_factory=list)
    ends: dict[int, str] = field(default_factory=dict)  # of jobs that come to another end than their inputs say

    name = "Toy"
    task_type_name = "toy"
    metadata_type = ToyJob

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        inputs = inputs or {}
        if inputs.get("hold"):
            print("creating", flush=True)
            await anyio.Path(output_prefix, "gate").read_bytes()
        self.calls.append(Call(task_template, output_prefix, inputs, task_execution_metadata, kwargs))
        return ToyJob(len(self.calls), inputs.get("end", "SUCCEEDED"), inputs.get("message", ""), output_prefix)

    async def get(self, resource_meta, **kwargs):
        if resource_meta.number < 0:
            raise UnknownJobError(f"there is no job {resource_meta.number}")
        polls = self.polls[resource_meta.number] = self.polls.get(resource_meta.number, 0) + 1
        end = self.ends.get(resource_meta.number, resource_meta.end)
        if end == "NEVER" or polls == 1:
            return Resource(Phase.RUNNING, message="at it", custom_info={"progress": 40})
        return Resource(
            Phase[end],
            message=resource_meta.message,
            outputs={"answer": 42, "frame": DataFrame("/data/frame.parquet", "parquet")},
            custom_info={"rows": 7, "share": 0.5},
            log_links=[TaskLog(uri="https://example.com/job", name="console")],
        )

    async def delete(self, resource_meta, **kwargs):
        self.deleted.append(resource_meta.number)
        prefix = anyio.Path(resource_meta.prefix)
        if await prefix.is_dir():
            await (prefix / "deleted").touch()

    async def get_logs(self, resource_meta, token="", lines=0, **kwargs):
        start = int(token or 0)
        end = min(start + (lines or 2), len(LINES))
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=LINES[start:end]))
        yield GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token=str(end) if start < len(LINES) else ""))

    async def get_metrics(self, resource_meta, queries=(), **kwargs):
        return GetTaskMetricsResponse(
            results=[
                ExecutionMetricResult(metric=name, data=Struct.from_dict({"value": 3, "unit": "rows"}))
                for name in queries or ["rows_read", "rows_written"]
            ]
        )


class Mute(Toy):
    """Has neither logs nor metrics."""

    name = "Mute"
    task_type_name = "mute"
    get_logs = AsyncConnector.get_logs
    get_metrics = AsyncConnector.get_metrics


ConnectorRegistry.register(Toy(), override=True)
