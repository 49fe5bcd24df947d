"""A client like the executor of Flyte 1: grpcio with flyteidl's stubs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import grpc
from flyteidl.admin.agent_pb2 import (
    CreateTaskRequest,
    CreateTaskResponse,
    DeleteTaskRequest,
    ExecuteTaskSyncRequest,
    GetTaskLogsRequest,
    GetTaskMetricsRequest,
    GetTaskRequest,
    TaskCategory,
)
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.service.agent_pb2_grpc import AgentMetadataServiceStub, AsyncAgentServiceStub, SyncAgentServiceStub

# seconds; only ends a test that fails
DEADLINE = 60.0


class Client:
    """One connection to a host of flytekit's connectors.

    :param unanswered: seconds to wait for answers that flytekit's host never gives
    :ivar program: our host
    """

    def __init__(self, target: str, unanswered: float = DEADLINE) -> None:
        self.unanswered = unanswered
        self.program: Any = None
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(target, options=options)
        self._tasks = AsyncAgentServiceStub(self.channel)
        self._sync = SyncAgentServiceStub(self.channel)
        self.agents = AgentMetadataServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def create(self, message: CreateTaskRequest) -> Any:
        return self._tasks.CreateTask(message, timeout=DEADLINE)

    def create_for_flyte_2(self, message: CreateTaskRequest) -> Any:
        """Send the same bytes as the executor of Flyte 2 would."""
        method = "/flyteidl2.connector.AsyncConnectorService/CreateTask"
        call = self.channel.unary_unary(method, response_deserializer=CreateTaskResponse.FromString)
        return call(message.SerializeToString(), timeout=DEADLINE)

    def get(self, task_type: str, meta: bytes, version: int = 0, deadline: float = DEADLINE) -> Any:
        category = TaskCategory(name=task_type, version=version)
        return self._tasks.GetTask(GetTaskRequest(task_category=category, resource_meta=meta), timeout=deadline)

    def get_by_type(self, task_type: str, meta: bytes) -> Any:
        """Send no category, as older executors."""
        return self._tasks.GetTask(GetTaskRequest(task_type=task_type, resource_meta=meta), timeout=DEADLINE)

    def delete(self, task_type: str, meta: bytes) -> Any:
        request = DeleteTaskRequest(task_category=TaskCategory(name=task_type), resource_meta=meta)
        return self._tasks.DeleteTask(request, timeout=DEADLINE)

    def get_metrics(self, task_type: str, meta: bytes) -> Any:
        request = GetTaskMetricsRequest(task_category=TaskCategory(name=task_type), resource_meta=meta)
        return self._tasks.GetTaskMetrics(request, timeout=DEADLINE)

    def get_logs(self, task_type: str, meta: bytes) -> Any:
        request = GetTaskLogsRequest(task_category=TaskCategory(name=task_type), resource_meta=meta)
        return list(self._tasks.GetTaskLogs(request, timeout=DEADLINE))

    def execute(self, message: CreateTaskRequest) -> Any:
        """Run a task with ExecuteTaskSync. Return its resource."""
        header = ExecuteTaskSyncRequest()
        header.header.template.CopyFrom(message.template)
        header.header.output_prefix = message.output_prefix
        inputs = ExecuteTaskSyncRequest(inputs=message.inputs)
        (answer,) = self._sync.ExecuteTaskSync(iter([header, inputs]), timeout=DEADLINE)
        return answer.header.resource


def task(task_type: str, prefix: str = "s3://x", version: int = 0, **fields: Any) -> CreateTaskRequest:
    """Return a request for a task of that type."""
    template = TaskTemplate(type=task_type, task_type_version=version)
    return CreateTaskRequest(template=template, output_prefix=prefix, **fields)


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer, or the status code and the text of the error."""
    try:
        return call(*arguments)
    except grpc.RpcError as error:
        return error.code(), error.details()
