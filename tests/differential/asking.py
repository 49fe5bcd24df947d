"""What both hosts are asked: named requests, the same at each run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flyteidl2.connector import connector_pb2 as pb
from flyteidl2.connector.service_pb2_grpc import AsyncConnectorServiceStub, ConnectorMetadataServiceStub
from flyteidl2.core.interface_pb2 import TypedInterface, Variable, VariableEntry, VariableMap
from flyteidl2.core.literals_pb2 import Literal
from flyteidl2.core.tasks_pb2 import TaskTemplate
from flyteidl2.core.types_pb2 import LiteralType
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

__all__ = ["DEADLINE", "Request", "create", "health", "inputs_request", "metadata", "order", "raw", "task"]

# seconds; long enough for anything that must be answered
DEADLINE = 30.0

STREAMS = {"GetTaskLogs", "Watch"}


@dataclass(frozen=True)
class Request:
    """One request.

    :ivar name: what the table of differences knows it by
    :ivar stub: the class of stub that has the method; None where `method` is a path, and `message` bytes
    :ivar their_deadline: seconds after which flyte-sdk's host will not answer any more
    """

    name: str
    stub: Callable[[Any], Any] | None
    method: str
    message: Any
    their_deadline: float = DEADLINE

    def send(self, channel: Any, deadline: float) -> Any:
        """Make the call on a channel; the responses of a stream are a list, of a watch the first alone.

        :raises grpc.RpcError: it failed
        """
        if self.stub is None:
            return channel.unary_unary(self.method)(self.message, timeout=deadline)
        call = getattr(self.stub(channel), self.method)(self.message, timeout=deadline)
        if self.method == "Watch":
            response = next(iter(call))
            call.cancel()
            return response
        return list(call) if self.method in STREAMS else call


def order(does: str = "show", argument: str = "") -> str:
    """What the mirror is to do."""
    return json.dumps({"does": does, "argument": argument})


def create(name: str, message: Any) -> Request:
    """A CreateTask."""
    return Request(name, AsyncConnectorServiceStub, "CreateTask", message)


def inputs_request(
    name: str, declared: list[tuple[str, LiteralType]], came: list[tuple[str, Literal]], does: str = "", **fields: Any
) -> Request:
    """A CreateTask whose answer says which inputs the connector got.

    :param does: the mirror's order, if it is to do something else
    """
    variables = [VariableEntry(key=key, value=Variable(type=literal_type)) for key, literal_type in declared]
    template = TaskTemplate(type="mirror", interface=TypedInterface(inputs=VariableMap(variables=variables)))
    inputs = Inputs(literals=[NamedLiteral(name=key, value=literal) for key, literal in came])
    return create(name, pb.CreateTaskRequest(template=template, inputs=inputs, output_prefix=does, **fields))


_TASKS = {
    "GetTask": pb.GetTaskRequest,
    "DeleteTask": pb.DeleteTaskRequest,
    "GetTaskMetrics": pb.GetTaskMetricsRequest,
    "GetTaskLogs": pb.GetTaskLogsRequest,
}


def task(
    name: str,
    method: str,
    meta: str | bytes,
    task_type: str = "mirror",
    version: int = 0,
    their_deadline: float = DEADLINE,
    **fields: Any,
) -> Request:
    """A call for a task that exists, or for CreateTask one whose `output_prefix` is `meta`."""
    if method == "CreateTask":
        template = TaskTemplate(type=task_type, task_type_version=version)
        message = pb.CreateTaskRequest(template=template, output_prefix=meta, **fields)
    else:
        category = pb.TaskCategory(name=task_type, version=version)
        data = meta.encode() if isinstance(meta, str) else meta
        message = _TASKS[method](task_category=category, resource_meta=data, **fields)
    return Request(name, AsyncConnectorServiceStub, method, message, their_deadline)


def metadata(name: str, method: str, message: Any) -> Request:
    """A call that asks which connectors there are."""
    return Request(name, ConnectorMetadataServiceStub, method, message)


def raw(name: str, path: str, data: bytes) -> Request:
    """A request of these bytes."""
    return Request(name, None, path, data)


def health(name: str, method: str, service: str) -> Request:
    """A health check."""
    return Request(name, HealthStub, method, HealthCheckRequest(service=service))
