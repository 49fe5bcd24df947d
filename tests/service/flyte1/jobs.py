"""A connector whose jobs do what their inputs say, and remember what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from connectrio import AsyncConnector, Phase, Resource, ResourceMeta
from connectrio.idl.flyteidl2.connector import (
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    GetTaskMetricsResponse,
)
from connectrio.idl.flyteidl2.core import ExecutionMetricResult, TaskLog
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.idl.google.protobuf import Struct


@dataclass
class Meta(ResourceMeta):
    number: int
    inputs: dict[str, Any]


@dataclass
class Jobs(AsyncConnector[Meta]):
    """Inputs: `polls`, how many find the job RUNNING (-1: all), and `end`, the phase of the one after them."""

    given: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    polled: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)

    name = "Jobs"
    task_type_name = "jobs"
    metadata_type = Meta

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        self.given.append(
            {"template": task_template, "prefix": output_prefix, "inputs": inputs, "execution": task_execution_metadata}
        )
        return Meta(len(self.given), inputs)

    async def get(self, resource_meta, output_prefix, **kwargs):
        self.asked.append(("get", {"output_prefix": output_prefix}))
        self.polled.set()
        polls = resource_meta.inputs.get("polls", 0)
        if resource_meta.inputs.get("end") == "raise":
            raise RuntimeError("the vendor says no")
        if polls == -1 or len(self.asked) <= polls:
            return Resource(Phase.RUNNING)
        return Resource(
            Phase[resource_meta.inputs.get("end", "SUCCEEDED")],
            message="so it ended",
            log_links=[TaskLog(uri="https://example.com/1", name="console")],
            outputs={"doubled": resource_meta.inputs.get("n", 0) * 2, "names": ["a", "b"]},
            custom_info={"rows": 7},
        )

    async def delete(self, resource_meta, **kwargs):
        await checkpoint()  # as a vendor that is asked: a cancelled call gets no further
        self.deleted.append(resource_meta.number)
        self.ended.set()

    async def get_metrics(self, resource_meta, queries, start_time, step, **kwargs):
        self.asked.append(("get_metrics", {"queries": queries, "start_time": start_time, "step": step}))
        return GetTaskMetricsResponse(
            results=[ExecutionMetricResult(metric="rows", data=Struct.from_dict({"value": 3}))]
        )

    async def get_logs(self, resource_meta, token, lines, **kwargs):
        self.asked.append(("get_logs", {"token": token, "lines": lines}))
        yield GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token="2"))
        yield GetTaskLogsResponse(
            body=GetTaskLogsResponseBody(results=["bare"], lines=[LogLine(message="whole", short_pod_name="pod")])
        )


class Other(Jobs):
    """The same name, another version."""

    task_type_version = 2
