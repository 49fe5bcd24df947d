"""Flyte's AsyncConnectorService."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import anyio
from grpclib.const import Handler
from grpclib.server import Stream

from connectrio.connector.base import AsyncConnector, Phase
from connectrio.connector.context import reset_current_call, set_key
from connectrio.connector.failures import PermanentFailure
from connectrio.connector.registry import Registry
from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceBase,
    CreateTaskRequest,
    CreateTaskResponse,
    DeleteTaskRequest,
    DeleteTaskResponse,
    GetTaskLogsRequest,
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskMetricsRequest,
    GetTaskMetricsResponse,
    GetTaskRequest,
    GetTaskResponse,
    Resource,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import Connection, TaskTemplate, VariableMap
from connectrio.idl.flyteidl2.task import Inputs
from connectrio.idl.google.protobuf import Duration, Timestamp
from connectrio.literals import LiteralError
from connectrio.literals.times import duration_to_timedelta, timestamp_to_datetime
from connectrio.logs import get_logger
from connectrio.service.admission import Admission
from connectrio.service.dispatch import Calls
from connectrio.service.errors import OverloadError, RequestError, TimeLimitError, describe_error
from connectrio.service.idempotent_creates import Creates, Wanted
from connectrio.service.inputs import InputReader
from connectrio.service.job_identity import JobIdentity, identify
from connectrio.service.log_stream import Send, send_responses
from connectrio.service.methods import ConnectorMethod, ConnectorMethods
from connectrio.service.metrics import Metrics
from connectrio.service.operations import Operation, OperationLimits
from connectrio.service.permanent import encode_failure, failed_resource, failure_in, is_failure
from connectrio.service.poll_shield import Polls, name_of
from connectrio.service.redaction import secrets_in
from connectrio.service.results import encode_resource_meta, expect, resource_to_message
from connectrio.service.retries import is_transient, try_again
from connectrio.service.telemetry import TaskCall
from connectrio.service.workers import Workers

__all__ = ["AsyncConnectorService"]

logger = get_logger("connectrio.service")

T = TypeVar("T")

_FAILED = {Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED}
# seconds to ask for a job of an earlier attempt, within the ten that its client waits
_LIFE_SIGN_TIMEOUT = 5.0
_GET_TASK_LOGS = "/flyteidl2.connector.AsyncConnectorService/GetTaskLogs"


class AsyncConnectorService(AsyncConnectorServiceBase):
    """Creates, polls, reads and deletes tasks with the connectors of a registry.

    Whatever a connector raises, the call ends with a status and the host goes on; only the cancellation of the call
    itself passes through.

    :param registry: looked into at each call, so that connectors may be registered later
    :param metrics: where calls are counted
    :param workers: the threads for methods that are plain functions
    :param limits: how long operations may take
    :param admission: how many may be going on
    :param creates: the jobs that were created lately
    :param polls: how polls that fail are answered; not at all, unless given
    :param inputs: converts the inputs of tasks
    """

    def __init__(
        self,
        registry: Registry,
        *,
        metrics: Metrics,
        workers: Workers,
        limits: OperationLimits | None = None,
        admission: Admission | None = None,
        creates: Creates | None = None,
        polls: Polls | None = None,
        inputs: InputReader | None = None,
    ) -> None:
        admission = admission or Admission()
        admission.expect(registered.connector.task_type_name for registered in registry.registered())
        self._calls = Calls(
            registry,
            metrics=metrics,
            workers=workers,
            limits=limits or OperationLimits(),
            admission=admission,
            early_polls=polls is not None and polls.absorb > 0,
        )
        self._limits = limits or OperationLimits()
        self._metrics = metrics
        self._workers = workers
        self._inputs = inputs or InputReader()
        self._methods = ConnectorMethods()
        self._creates = Creates() if creates is None else creates
        self._polls = Polls(retry=0, absorb=0) if polls is None else polls

    async def create_task(self, message: CreateTaskRequest) -> CreateTaskResponse:
        """Start a task; the answer's `resource_meta` is what the other operations need."""
        template = TaskTemplate() if message.template is None else message.template
        call = TaskCall(Operation.CREATE, template.type, template.task_type_version, message.connection, message.inputs)

        async def create(connector: AsyncConnector[Any]) -> CreateTaskResponse:
            identity = identify(message)
            if identity is None:
                return CreateTaskResponse(resource_meta=await self._create(connector, message, template))
            wanted = self._wanted(connector, identity, message, template)
            return CreateTaskResponse(resource_meta=await self._creates.once(wanted))

        def recover(_: AsyncConnector[Any], cause: BaseException, text: str) -> CreateTaskResponse | None:
            failed = isinstance(cause, PermanentFailure)
            return CreateTaskResponse(resource_meta=encode_failure(text)) if failed else None

        return await self._calls.perform(call, create, recover)

    def _wanted(
        self,
        connector: AsyncConnector[Any],
        identity: JobIdentity,
        message: CreateTaskRequest,
        template: TaskTemplate,
    ) -> Wanted:
        async def create() -> bytes:
            token = set_key(identity.key)
            try:
                if not connector.create_is_idempotent:
                    return await self._create(connector, message, template)
                return await self._with_retries(connector, partial(self._create, connector, message, template))
            finally:
                reset_current_call(token)

        return Wanted(
            identity=identity,
            create=create,
            adopts=connector.adopts_lost_jobs or not identity.declares_outputs,
            is_alive=partial(self._is_alive, connector, message),
            limit=self._limits.create,
            count=partial(self._metrics.job_created, connector.task_type_name),
        )

    async def _create(
        self, connector: AsyncConnector[Any], message: CreateTaskRequest, template: TaskTemplate
    ) -> bytes:
        method = self._methods.get(connector, Operation.CREATE)
        arguments = {
            "task_template": template,
            "output_prefix": message.output_prefix,
            "inputs": await self._read_inputs(connector, message.inputs, _variables(template)),
            "task_execution_metadata": message.task_execution_metadata,
        }
        meta = await method(method.with_connection(arguments, message.connection), self._workers)
        encoded = encode_resource_meta(connector, meta, method.label)
        self._warn_of_secrets(encoded, message.connection, method)
        return encoded

    def _warn_of_secrets(self, resource_meta: bytes, connection: Connection | None, method: ConnectorMethod) -> None:
        """The job exists, so there is nothing to refuse any more."""
        names = secrets_in(resource_meta, connection)
        if names:
            logger.error(
                "the resource_meta holds secrets, and the executor logs it; leave them out, they come with each call",
                method=method.label,
                secrets=names,
            )

    async def _is_alive(self, connector: AsyncConnector[Any], message: CreateTaskRequest, resource_meta: bytes) -> bool:
        """Whether a job can serve a later attempt than the one that it was created for."""
        request = GetTaskRequest(
            resource_meta=resource_meta, output_prefix=message.output_prefix, connection=message.connection
        )
        phase = None
        with anyio.move_on_after(_LIFE_SIGN_TIMEOUT):
            try:
                phase = (await self._with_retries(connector, partial(self._poll, connector, request))).phase
            except Exception as error:  # noqa: BLE001 - whatever the connector raises
                return is_transient(connector, error)
        # one that cannot be reached just now is as good as alive: polls will tell
        return phase not in _FAILED

    async def get_task(self, message: GetTaskRequest) -> GetTaskResponse:
        """Report the state of a task."""

        async def get(connector: AsyncConnector[Any]) -> GetTaskResponse:
            if is_failure(message.resource_meta):
                return GetTaskResponse(resource=failed_resource(failure_in(message.resource_meta)))
            self._creates.asked_for(message.resource_meta)
            try:
                resource = await self._poll(connector, message)
            except Exception as error:
                if not self._is_worth_retrying(connector, error):
                    raise
                resource = await self._try_again(connector, partial(self._poll, connector, message), error)
            self._polls.succeeded(name_of(connector, message.resource_meta), resource)
            return GetTaskResponse(resource=resource)

        def recover(connector: AsyncConnector[Any], cause: BaseException, text: str) -> GetTaskResponse | None:
            if isinstance(cause, PermanentFailure):
                return GetTaskResponse(resource=failed_resource(text))
            if not isinstance(cause, TimeLimitError | OverloadError) and not is_transient(connector, cause):
                return None
            resource = self._polls.failed(name_of(connector, message.resource_meta), text)
            return None if resource is None else GetTaskResponse(resource=resource)

        call = _task_call(Operation.GET, message.task_category, message.connection)
        return await self._calls.perform(call, get, recover)

    async def _poll(self, connector: AsyncConnector[Any], message: GetTaskRequest) -> Resource:
        method = self._methods.get(connector, Operation.GET)
        offered = {"output_prefix": message.output_prefix}
        result = await self._call(connector, method, message.resource_meta, offered, message.connection)
        return resource_to_message(result, method.label)

    async def _with_retries(self, connector: AsyncConnector[Any], work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, which is done again while it fails for reasons that pass."""
        try:
            return await work()
        except Exception as error:
            if not self._is_worth_retrying(connector, error):
                raise
            return await self._try_again(connector, work, error)

    def _is_worth_retrying(self, connector: AsyncConnector[Any], error: Exception) -> bool:
        return self._polls.retry > 0 and is_transient(connector, error)

    async def _try_again(self, connector: AsyncConnector[Any], work: Callable[[], Awaitable[T]], error: Exception) -> T:
        count = partial(self._metrics.poll_retried, connector.task_type_name)
        return await try_again(work, error, connector, seconds=self._polls.retry, count=count)

    async def delete_task(self, message: DeleteTaskRequest) -> DeleteTaskResponse:
        """Cancel a task."""

        async def delete(connector: AsyncConnector[Any]) -> DeleteTaskResponse:
            if not is_failure(message.resource_meta):
                self._creates.asked_for(message.resource_meta)
                method = self._methods.get(connector, Operation.DELETE)
                await self._call(connector, method, message.resource_meta, {}, message.connection)
            return DeleteTaskResponse()

        call = _task_call(Operation.DELETE, message.task_category, message.connection)
        return await self._calls.perform(call, delete)

    async def get_task_metrics(self, message: GetTaskMetricsRequest) -> GetTaskMetricsResponse:
        """Report the metrics of a task."""

        async def get_metrics(connector: AsyncConnector[Any]) -> GetTaskMetricsResponse:
            if is_failure(message.resource_meta):
                return GetTaskMetricsResponse()
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
            if is_failure(message.resource_meta):
                await send_responses(_only_line(failure_in(message.resource_meta)), send, self._workers, method)
                return
            offered = {"token": message.token, "lines": message.lines}
            always = {"token": message.token} if method.takes_any else {}
            result = await self._call(connector, method, message.resource_meta, offered, None, always)
            await send_responses(result, send, self._workers, method)

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

    async def _read_inputs(
        self, connector: AsyncConnector[Any], inputs: Inputs | None, variables: VariableMap | None
    ) -> Any:
        return inputs if connector.converts_inputs else await self._inputs.read(inputs, variables)

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
    if category is None:
        category = TaskCategory()
    return TaskCall(operation, category.name, category.version, connection)


def _only_line(text: str) -> GetTaskLogsResponse:
    return GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=[text]))


def _decode_resource_meta(connector: AsyncConnector[Any], data: bytes) -> Any:
    try:
        return connector.metadata_type.decode(data)
    except Exception as error:
        # any: `decode` may be the connector's own, and what it raises on foreign bytes is its affair
        raise RequestError(
            f"the resource_meta of this {connector.task_type_name} task was not made by this connector:"
            f" {describe_error(error)}"
        ) from error


def _variables(template: TaskTemplate) -> VariableMap | None:
    return None if template.interface is None else template.interface.inputs


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
