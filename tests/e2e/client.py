"""A client like the executor: grpcio with Flyte's published stubs."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, Self

import grpc
from flyteidl2.connector.connector_pb2 import (
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskLogsRequest,
    GetTaskMetricsRequest,
    GetTaskRequest,
    TaskCategory,
)
from flyteidl2.connector.service_pb2_grpc import AsyncConnectorServiceStub, ConnectorMetadataServiceStub
from flyteidl2.core.tasks_pb2 import TaskTemplate
from grpc_health.v1.health_pb2_grpc import HealthStub

OPERATIONS = ("create", "get", "delete", "get_metrics", "get_logs")

# seconds; only ends a test that fails
DEADLINE = 30.0

UNARY = {"create": "CreateTask", "get": "GetTask", "delete": "DeleteTask", "get_metrics": "GetTaskMetrics"}
SERVICE = "/flyteidl2.connector.AsyncConnectorService/"


def order(does: str = "echo", argument: object = "", id: str = "") -> bytes:  # noqa: A002 - the field's name
    """Return the `resource_meta` that tells a probe what to do."""
    return json.dumps({"does": does, "argument": str(argument), "id": id}).encode()


def request(
    operation: str, *, task_type: str = "probe", version: int = 0, meta: bytes | None = None, **fields: Any
) -> Any:
    """The request of that operation on a task of that type.

    :param meta: the resource_meta; for create, which has none, the output_prefix
    """
    category = TaskCategory(name=task_type, version=version)
    meta = order() if meta is None else meta
    match operation:
        case "create":
            template = fields.pop("template", TaskTemplate(type=task_type, task_type_version=version))
            return CreateTaskRequest(template=template, output_prefix=meta.decode("latin-1"), **fields)
        case "get":
            return GetTaskRequest(task_category=category, resource_meta=meta, **fields)
        case "delete":
            return DeleteTaskRequest(task_category=category, resource_meta=meta, **fields)
        case "get_metrics":
            return GetTaskMetricsRequest(task_category=category, resource_meta=meta, **fields)
    return GetTaskLogsRequest(task_category=category, resource_meta=meta, **fields)


class Client:
    """One connection to a host."""

    def __init__(self, target: str, **options: Any) -> None:
        # a pool of its own: it must not share the connection of another test
        options = {"grpc.use_local_subchannel_pool": 1, "grpc.max_receive_message_length": -1, **options}
        self.channel = grpc.insecure_channel(target, options=list(options.items()))
        self.tasks = AsyncConnectorServiceStub(self.channel)
        self.connectors = ConnectorMetadataServiceStub(self.channel)
        self.health = HealthStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self.channel.close()

    def connecting(self) -> Any:
        """Return a future that is done once there is a connection."""
        return grpc.channel_ready_future(self.channel)

    def start(self, operation: str, *, deadline: float = DEADLINE, compression: Any = None, **fields: Any) -> Any:
        """Start a call. Return a future, or for logs an iterator of responses."""
        message = request(operation, **fields)
        if operation == "get_logs":
            return self.tasks.GetTaskLogs(message, timeout=deadline, compression=compression)
        return getattr(self.tasks, UNARY[operation]).future(message, timeout=deadline, compression=compression)

    def call(self, operation: str, **fields: Any) -> Any:
        """The response; for logs, the list of them.

        :raises grpc.RpcError: the call failed
        """
        call = self.start(operation, **fields)
        return list(call) if operation == "get_logs" else call.result()

    def echo(self, **fields: Any) -> Any:
        """Return the arguments that a probe's `get` was called with."""
        return json.loads(self.call("get", **fields).resource.message)

    def send_bytes(self, operation: str, data: bytes) -> bytes:
        """Send `data` in place of a request."""
        method = SERVICE + UNARY.get(operation, "GetTaskLogs")
        if operation == "get_logs":
            return b"".join(self.channel.unary_stream(method)(data, timeout=DEADLINE))
        return bytes(self.channel.unary_unary(method)(data, timeout=DEADLINE))


def fetch(url: str) -> tuple[int, str]:
    """Return the status and the text of `url`."""
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
