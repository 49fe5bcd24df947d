"""A connector as flyte-sdk's documentation has them; the tests change its imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional  # noqa: UP035 - as they write it

from flyte import system_logger as logger
from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
from flyte.connectors.utils import convert_to_flyte_phase, is_terminal_phase
from flyte.io import DataFrame, Dir, File
from flyteidl2.connector.connector_pb2 import (
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    GetTaskMetricsResponse,
    TaskExecutionMetadata,
)
from flyteidl2.core.execution_pb2 import TaskExecution, TaskLog
from flyteidl2.core.metrics_pb2 import ExecutionMetricResult
from flyteidl2.core.tasks_pb2 import TaskTemplate
from flyteidl2.logs.dataplane.payload_pb2 import LogLine, LogLineOriginator
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

STATES = ["pending", "running", "done"]


@dataclass
class BatchJob(ResourceMeta):
    job_id: str
    seen: Dict[str, Any]  # noqa: UP006 - as they write it
    where: Optional[str] = None  # noqa: UP045 - as they write it


class BatchConnector(AsyncConnector):
    name = "Batch"
    task_type_name = "batch"
    metadata_type = BatchJob
    polls = 0

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: Optional[Dict[str, Any]] = None,  # noqa: UP006, UP045 - as they write it
        task_execution_metadata: Optional[TaskExecutionMetadata] = None,  # noqa: UP045 - as they write it
        api_token: str = "",
        **kwargs,
    ) -> BatchJob:
        logger.info(f"a job of {task_template.id.name}")
        has_outputs = task_template.interface.outputs is not None and len(task_template.interface.outputs.variables) > 0
        seen = {
            "custom": json_format.MessageToDict(task_template.custom),
            "field": task_template.custom["queue"],
            "statement": task_template.sql.statement,
            "image": task_template.container.image,
            "env": {each.key: each.value for each in task_template.container.env},
            "config": dict(task_template.config),
            "inputs": inputs,
            "declared": {each.key: each.value.type.simple for each in task_template.interface.inputs.variables},
            "has_outputs": has_outputs,
            "runtime": task_template.metadata.runtime.version,
            "attempt": task_execution_metadata.HasField("task_execution_id")
            and task_execution_metadata.task_execution_id.retry_attempt,
            "labels": dict(task_execution_metadata.labels),
            "token": api_token,
        }
        return BatchJob("job-1", seen, output_prefix)

    async def get(self, resource_meta: BatchJob, **kwargs) -> Resource:
        phase = convert_to_flyte_phase(STATES[min(self.polls, 2)])
        self.polls += 1
        link = TaskLog(uri="https://batch.example/job-1", name="Console", ready=True, link_type=TaskLog.DASHBOARD)
        if not is_terminal_phase(phase):
            return Resource(phase=phase, message="in progress", log_links=[link])
        assert phase == TaskExecution.SUCCEEDED
        outputs = {
            "n": 7,
            "table": DataFrame(uri="s3://b/t"),
            "file": File.from_existing_remote("s3://b/f.csv"),
            "directory": Dir.from_existing_remote("s3://b/d"),
        }
        return Resource(phase=phase, log_links=[link], outputs=outputs, custom_info={"job": resource_meta.job_id})

    async def delete(self, resource_meta: BatchJob, **kwargs):
        pass

    async def get_metrics(self, resource_meta: BatchJob, **kwargs) -> GetTaskMetricsResponse:
        data = Struct()
        data.update({"cpu": [1, 2]})
        return GetTaskMetricsResponse(results=[ExecutionMetricResult(metric="cpu", data=data)])

    async def get_logs(self, resource_meta: BatchJob, token: str = "", **kwargs):
        stamp = Timestamp(seconds=7)
        line = LogLine(timestamp=stamp, message="second" if token else "first", originator=LogLineOriginator.USER)
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=[line]))
        if not token:
            yield GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token="1"))


ConnectorRegistry.register(BatchConnector())
