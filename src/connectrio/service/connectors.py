"""Flyte's AsyncConnectorService."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from grpclib.const import Handler
from grpclib.server import Stream

from connectrio.connector import AsyncConnector
from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceBase,
    CreateTaskRequest,
    CreateTaskResponse,
    DeleteTaskRequest,
    DeleteTaskResponse,
    GetTaskLogsRequest,
    GetTaskLogsResponse,
    GetTaskMetricsRequest,
    GetTaskMetricsResponse,
    GetTaskRequest,
    GetTaskResponse,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import Connection, TaskTemplate
from connectrio.idl.google.protobuf import Duration, Timestamp
from connectrio.literals import LiteralError, inputs_to_python
from connectrio.literals.times import duration_to_timedelta, timestamp_to_datetime
from connectrio.registry import Registry
from connectrio.service.accounting import TaskCall
from connectrio.service.calls import Calls
from connectrio.service.errors import RequestError, describe_error
from connectrio.service.methods import ConnectorMethod, ConnectorMethods
from connectrio.service.metrics import Metrics
from connectrio.service.operations import Operation, OperationLimits
from connectrio.service.responses import Send, send_responses
from connectrio.service.results import encode_resource_meta, expect, resource_to_message
from connectrio.service.workers import Workers

__all__ = ["AsyncConnectorService"]

_GET_TASK_LOGS = "/flyteidl2.connector.AsyncConnectorService/GetTaskLogs"


class AsyncConnectorService(AsyncConnectorServiceBase):
    """Creates, polls, reads and deletes tasks with the connectors of a registry.

    Whatever a connector raises, the call ends with a status and the host goes on; only the cancellation of the call
    itself passes through.

    :param registry: looked into at each call, so that connectors may be registered later
    :param metrics: where calls are counted
    :param workers: the threads for methods that are plain functions
    :param limits: how long operations may take
    """

    def __init__(
        self, registry: Registry, *, metrics: Metrics, workers: Workers, limits: OperationLimits | None = None
    ) -> None:
        self._calls = Calls(registry, metrics=metrics, workers=workers, limits=limits or OperationLimits())
        self._workers = workers
        self._methods = ConnectorMethods()

    async def create_task(self, message: CreateTaskRequest) -> CreateTaskResponse:
        """Start a task; the answer's `resource_meta` is what the other operations need."""
        template = message.template or TaskTemplate()
        connection = message.connection

        async def create(connector: AsyncConnector[Any]) -> CreateTaskResponse:
            method = self._methods.get(connector, Operation.CREATE)
            arguments = {
                "task_template": template,
                "output_prefix": message.output_prefix,
                "inputs": message.inputs if connector.converts_inputs else _inputs(message, template),
                "task_execution_metadata": message.task_execution_metadata,
            }
            meta = await method(method.with_connection(arguments, connection), self._workers)
            return CreateTaskResponse(resource_meta=encode_resource_meta(connector, meta, method.label))

        call = TaskCall(Operation.CREATE, template.type, template.task_type_version, connection, message.inputs)
        return await self._calls.perform(call, create)

    async def get_task(self, message: GetTaskRequest) -> GetTaskResponse:
        """Report the state of a task."""

        async def get(connector: AsyncConnector[Any]) -> GetTaskResponse:
            method = self._methods.get(connector, Operation.GET)
            offered = {"output_prefix": message.output_prefix}
            result = await self._call(connector, method, message.resource_meta, offered, message.connection)
            return GetTaskResponse(resource=resource_to_message(result, method.label))

        return await self._calls.perform(_task_call(Operation.GET, message.task_category, message.connection), get)

    async def delete_task(self, message: DeleteTaskRequest) -> DeleteTaskResponse:
        """Cancel a task."""

        async def delete(connector: AsyncConnector[Any]) -> DeleteTaskResponse:
            method = self._methods.get(connector, Operation.DELETE)
            await self._call(connector, method, message.resource_meta, {}, message.connection)
            return DeleteTaskResponse()

        call = _task_call(Operation.DELETE, message.task_category, message.connection)
        return await self._calls.perform(call, delete)

    async def get_task_metrics(self, message: GetTaskMetricsRequest) -> GetTaskMetricsResponse:
        """Report the metrics of a task."""

        async def get_metrics(connector: AsyncConnector[Any]) -> GetTaskMetricsResponse:
            method = self._methods.get(connector, Operation.GET_METRICS)
            result = await self._call(connector, method, message.resource_meta, _metrics_query(message), None)
            return expect(result, GetTaskMetricsResponse, f"{method.label} returned")

        return await self._calls.perform(_task_call(Operation.GET_METRICS, message.task_category), get_metrics)

    async def send_task_logs(self, message: GetTaskLogsRequest, send: Send) -> None:
        """Send the log lines of a task, in one response or many.

        :param send: awaited with each response before the next one is fetched
        """

        async def get_logs(connector: AsyncConnector[Any]) -> None:
            method = self._methods.get(connector, Operation.GET_LOGS)
            offered = {"token": message.token, "lines": message.lines}
            always = {"token": message.token} if method.takes_any else {}
            result = await self._call(connector, method, message.resource_meta, offered, None, always)
            await send_responses(result, send, self._workers, method.label)

        await self._calls.perform(_task_call(Operation.GET_LOGS, message.task_category), get_logs)

    def __mapping__(self) -> dict[str, Handler]:
        # The base's handler iterates an async generator. A time limit cannot be a scope around the `yield` of one, and
        # nothing would close it when sending fails: so responses are sent from inside the call instead.
        mapping = super().__mapping__()
        mapping[_GET_TASK_LOGS] = mapping[_GET_TASK_LOGS]._replace(func=self._handle_get_task_logs)
        return mapping

    async def _handle_get_task_logs(self, stream: Stream[GetTaskLogsRequest, GetTaskLogsResponse]) -> None:
        message = await stream.recv_message()
        if message is not None:
            await self.send_task_logs(message, stream.send_message)

    async def _call(
        self,
        connector: AsyncConnector[Any],
        method: ConnectorMethod,
        resource_meta: bytes,
        offered: Mapping[str, Any],
        connection: Connection | None,
        always: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a method for an existing task.

        :param offered: arguments for the parameters of these names, where the method's signature has them
        :param always: further arguments
        """
        meta = _decode_resource_meta(connector, resource_meta)
        arguments = {"resource_meta": meta, **method.named(offered), **(always or {})}
        return await method(method.with_connection(arguments, connection), self._workers)


def _task_call(operation: Operation, category: TaskCategory | None, connection: Connection | None = None) -> TaskCall:
    category = category or TaskCategory()
    return TaskCall(operation, category.name, category.version, connection)


def _decode_resource_meta(connector: AsyncConnector[Any], data: bytes) -> Any:
    try:
        return connector.metadata_type.decode(data)
    except Exception as error:
        # any: `decode` may be the connector's own, and what it raises on foreign bytes is its affair
        raise RequestError(
            f"the resource_meta of this {connector.task_type_name} task was not made by this connector:"
            f" {describe_error(error)}"
        ) from error


def _inputs(message: CreateTaskRequest, template: TaskTemplate) -> dict[str, Any]:
    try:
        return inputs_to_python(message.inputs, template.interface.inputs if template.interface else None)
    except LiteralError as error:
        raise RequestError(str(error)) from error


def _metrics_query(message: GetTaskMetricsRequest) -> dict[str, Any]:
    try:
        return {
            "queries": message.queries,
            "start_time": _datetime(message.start_time),
            "end_time": _datetime(message.end_time),
            "step": _timedelta(message.step),
        }
    except LiteralError as error:
        raise RequestError(f"the metrics query: {error}") from error


def _datetime(timestamp: Timestamp | None) -> datetime | None:
    return None if timestamp is None else timestamp_to_datetime(timestamp)


def _timedelta(duration: Duration | None) -> timedelta | None:
    return None if duration is None else duration_to_timedelta(duration)
