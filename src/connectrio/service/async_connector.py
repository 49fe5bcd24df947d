"""Flyte's AsyncConnectorService."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from grpclib.const import Handler
from grpclib.server import Stream

from connectrio.connector.base import EncodedResource, Phase
from connectrio.connector.context import Start, reset_current_call, set_creation
from connectrio.connector.failures import PermanentFailure
from connectrio.connector.phases import FINAL_PHASES
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
)
from connectrio.idl.flyteidl2.core import Connection, TaskTemplate
from connectrio.literals import LiteralError
from connectrio.literals.times import duration_to_timedelta, timestamp_to_datetime
from connectrio.logs import get_logger
from connectrio.masking import SecretMask
from connectrio.rpc.call import find_current_call
from connectrio.rpc.codec import received_size
from connectrio.rpc.exceptions import only_leaf
from connectrio.service.conversion import (
    RECEIVED,
    EncodedAnswer,
    InputReader,
    ReceivedTask,
    encode_failure,
    encode_resource_meta,
    expect,
    failed_resource,
    failure_in,
    inputs_refused,
    is_failure,
    sendable,
)
from connectrio.service.dispatch import Dispatcher
from connectrio.service.errors import ConnectorFault, LimitedError, RequestError, TimeLimitError
from connectrio.service.idempotent_creates import IdempotentCreates
from connectrio.service.job_identity import JobIdentity, identify
from connectrio.service.job_secrets import JobSecrets
from connectrio.service.known_jobs import JobRefresh
from connectrio.service.log_stream import Send, send_responses
from connectrio.service.methods import UNTRACED, ConnectorMethod
from connectrio.service.metrics import Metrics
from connectrio.service.operations import CONNECTION_KEY, Operation, TaskCall
from connectrio.service.outputs import OutputWriter
from connectrio.service.poll_shield import PollShield
from connectrio.service.polling import Polling
from connectrio.service.protobuf import to_protobuf, wrong_messages
from connectrio.service.settings import ServiceSettings
from connectrio.service.telemetry import CallRecord, TraceMethod, task_name
from connectrio.service.wanted_job import WantedJob
from connectrio.service.workers import Workers
from connectrio.telemetry.account import Account
from connectrio.telemetry.jobs import NOBODY, JobRecord
from connectrio.telemetry.rates import Rates

if TYPE_CHECKING:
    from connectrio.service.shared_creates import SharedCreates

__all__ = ["AsyncConnectorService"]

logger = get_logger("connectrio.service")

# bytes of a task and its inputs whose key is computed on the event loop: at most about 20 ms
_IDENTIFIED_ON_THE_EVENT_LOOP = 128 * 1024
# secrets that one log line names
_MOST_NAMES = 10
# the times of a metrics query, and what makes Python's of them
_TIMES: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("start_time", timestamp_to_datetime),
    ("end_time", timestamp_to_datetime),
    ("step", duration_to_timedelta),
)
_CREATE_TASK = "/flyteidl2.connector.AsyncConnectorService/CreateTask"
_GET_TASK_LOGS = "/flyteidl2.connector.AsyncConnectorService/GetTaskLogs"


class AsyncConnectorService(AsyncConnectorServiceBase):
    """Creates, polls, reads and deletes tasks with the connectors of a registry.

    Whatever a connector raises, the call ends with a status and the host goes on; only the cancellation of the call
    itself passes through. `Dispatcher` describes the steps that all operations share.

    :param registry: looked into at each call, so that connectors may be registered later
    :param settings: limits of time and number; the defaults of `ServiceSettings` if None
    :param metrics: where calls are counted; each service needs its own
    :param account: of calls and jobs; a new one if None
    :param trace: makes the spans of the connectors' methods; None without tracing
    :param shared: the jobs that several hosts create; None for a host that remembers for itself
    :param clock: for a new account: returns seconds, from any start
    :ivar workers: the threads for methods that are plain functions
    :ivar creates: the jobs that were created lately
    :ivar account: what is known of calls and jobs
    :ivar admission: the slots for calls
    :ivar gates: the limits of calls to the systems behind the connectors
    :ivar shared: the jobs that several hosts create, if they do
    :ivar known_jobs: the jobs that are polled in the background, while the owner of the service has its `run` run
    """

    def __init__(
        self,
        registry: Registry,
        settings: ServiceSettings | None = None,
        *,
        metrics: Metrics | None = None,
        account: Account | None = None,
        trace: TraceMethod | None = None,
        shared: SharedCreates | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings = settings or ServiceSettings()
        self.metrics = Metrics() if metrics is None else metrics
        self.workers = Workers(settings.worker)
        self.metrics.registry.register(self.workers)
        self.shared = shared
        self.creates = IdempotentCreates(settings, shared)
        self.account = account = Account(clock) if account is None else account
        account.rates = Rates(self.metrics.totals, account.clock)
        self.metrics.registry.register(account.jobs)
        self._polls = PollShield(settings, account.clock)
        self._secrets = JobSecrets()
        self._outputs = OutputWriter(settings, self.workers)
        self._inputs = InputReader(settings, self.workers)
        self._dispatcher = Dispatcher(
            registry, settings, metrics=self.metrics, workers=self.workers, account=account, trace=trace
        )
        self.admission = self._dispatcher.admission
        self.gates = self._dispatcher.gates
        self.known_jobs = JobRefresh(
            settings,
            self.workers,
            self.admission.slots(Operation.GET),
            self._dispatcher.methods.get,
            account.clock,
        )
        self.metrics.registry.register(self.known_jobs)
        self._polling = Polling(
            settings,
            self.workers,
            self._dispatcher.methods,
            self.known_jobs,
            self._polls,
            self.metrics,
            account.clock,
        )

    async def create_task(self, message: CreateTaskRequest) -> CreateTaskResponse:
        """Start a task; the answer's `resource_meta` is what the other operations need."""
        dispatcher = self._dispatcher
        if message.template is None:
            message.template = TaskTemplate()
        call = TaskCall(Operation.CREATE, message.template.type, message.template.task_type_version, message.connection)
        with dispatcher.record(call) as record:
            record.task = task_name(message.task_execution_metadata, message.output_prefix)
            record.inputs_arrived(message.inputs)
            method = dispatcher.find(record)
            if not method.connector.converts_inputs:
                message.__dict__.pop(RECEIVED, None)
            try:
                with dispatcher.limit(call), await dispatcher.slot(call):
                    identity = await self.identify(message)
                    if identity is None:
                        meta = await self._create(method, message, record)
                    else:
                        record.key = identity.key
                        wanted = WantedJob(
                            identity=identity,
                            task_type=call.task_type,
                            create=partial(self._create, method, message, record),
                            adopts=method.connector.adopts_lost_jobs or not identity.declares_outputs,
                            is_idempotent=method.connector.create_is_idempotent,
                            at_most_once=method.gate.policy.at_most_once,
                            is_alive=partial(self._polling.is_alive, method.connector, message, record.span),
                            limit=self.settings.create_limit,
                            count=record.job_found,
                            orphaned=partial(self._orphaned, record),
                            release=partial(_empty, message),
                        )
                        meta = await self.creates.once(wanted)
            except Exception as error:
                if not issubclass(type(only_leaf(error)), PermanentFailure):
                    raise
                text = record.failed_for_good(error)
                meta = encode_failure(text)
                self._know(record, meta).succeeded(self.account.clock(), Phase.FAILED, text, [], is_final=True)
            job = record.job or self._know(record, meta)
            job.orphaned = None
            if record.mask is not None:
                self._secrets.remember(job.name, record.mask)
            return CreateTaskResponse(resource_meta=meta)

    def _know(self, record: CallRecord, resource_meta: bytes) -> JobRecord:
        """Return the account's record of the job that a call is about, with what the call says of it."""
        connector = record.connector
        name = record.name or record.call.job(resource_meta)
        job = self.account.jobs.obtain(name, "" if connector is None else connector.name)
        if record.task is not NOBODY and not job.task.execution:
            job.task = record.task
        if record.key:
            job.key, job.origin = job.key or record.key, job.origin or record.origin
        record.name, record.job = name, job
        return job

    def _orphaned(self, record: CallRecord, resource_meta: bytes) -> None:
        """Note that no client waits any more for the job that a call has created."""
        self._know(record, resource_meta).orphaned = self.account.clock()
        logger.warning(
            "a job was created that nobody waits for any more; unless a retry takes it, delete it in the other system",
            **record.identity(),
        )

    async def identify(self, message: CreateTaskRequest) -> JobIdentity | None:
        """Return the job that `message` asks for, computed in a thread if the request is large."""
        template, inputs = message.template, message.inputs
        size = 0 if template is None else received_size(template) or 0
        size += 0 if inputs is None else received_size(inputs) or 0
        if size <= _IDENTIFIED_ON_THE_EVENT_LOOP:
            return identify(message)
        return await self._inputs.run_in_thread(partial(identify, message), name="identifying a large task")

    async def _create(
        self,
        method: ConnectorMethod,
        message: CreateTaskRequest,
        record: CallRecord,
        key: str = "",
        start: Start | None = None,
    ) -> bytes:
        """Call the connector's `create`; return the job's `resource_meta`.

        With `start`, `current_call().key` is `key` meanwhile, and transient errors are tried again if the connector
        allows that.
        """
        connector, inputs = method.connector, cast("Any", message.inputs)
        template = cast("TaskTemplate", message.template)
        # the literals take many times the memory of the request, and `create` may take a minute
        message.inputs = None
        request = message.__dict__.pop(RECEIVED, None)
        token = None if start is None else set_creation(key, start)
        stored = None
        try:
            declared = None if template.interface is None else template.interface.inputs
            if connector.converts_inputs:
                checked, stored = await self._inputs.check(inputs, declared)
                inputs = request if request is not None and checked is inputs else checked
                del checked, request
            else:
                inputs = await self._inputs.read(inputs, declared)
            arguments = {
                "task_template": template,
                "output_prefix": message.output_prefix,
                "inputs": inputs,
                "task_execution_metadata": message.task_execution_metadata,
            }
            del inputs
            if method.takes_protobuf:
                arguments = to_protobuf(arguments)
            arguments = method.with_connection(arguments, message.connection)
            create = partial(self._create_job, method, arguments, record, start)
            if start is not None and connector.create_is_idempotent:
                meta = await self._polls.retrying(create, method.gate, record.retried)
            else:
                meta = await create()
            self._know(record, meta)  # at once: its client may be gone, and then it is all that is known of the job
        except LiteralError as error:
            if not connector.converts_inputs:
                raise
            raise inputs_refused(error, stored) from error
        else:
            return meta
        finally:
            if token is not None:
                reset_current_call(token)

    async def _create_job(
        self, method: ConnectorMethod, arguments: dict[str, Any], record: CallRecord, start: Start | None
    ) -> bytes:
        """Call the connector's `create` once."""
        try:
            call = partial(method, arguments, self.workers, record.span, start)
            meta = await method.gate.through(Operation.CREATE, record.call.connection, call)
        except AttributeError as error:
            fault = wrong_messages(error, method.label)
            if fault is None:
                raise
            raise fault from error
        encoded = encode_resource_meta(method.connector, meta, method.label)
        most = self.settings.max_response_size
        if len(encoded) > most:
            raise ConnectorFault(
                f"{method.label} has started a job that nobody can find again: its resource_meta has {len(encoded)}"
                f" bytes, and an answer may have {most} (max_response_size); keep large data elsewhere"
            )
        # the job exists, so it is too late to refuse this
        found = [] if record.mask is None else record.mask.found_in(encoded)
        if found is None:
            logger.warning(
                "the resource_meta could not be checked for secrets, and the executor logs it: it has too many escapes,"
                " or the request too many secrets; see that none is in it",
                method=method.label,
            )
        elif found:
            logger.error(
                "the resource_meta holds secrets, and the executor logs it; leave them out, they come with each call",
                method=method.label,
                secrets=found[:_MOST_NAMES],
            )
        return encoded

    async def get_task(self, message: GetTaskRequest) -> GetTaskResponse:
        """Report the state of a task."""
        dispatcher = self._dispatcher
        call = TaskCall.of(Operation.GET, message.task_category, message.connection)
        with dispatcher.record(call) as record:
            method = dispatcher.find(record)
            name = record.about(message.resource_meta)
            if record.mask is not None:
                self._secrets.remember(name, record.mask)
            if record.job is None and message.output_prefix:
                record.task = task_name(None, message.output_prefix)
            try:
                with dispatcher.limit(call), await dispatcher.slot(call):
                    if is_failure(message.resource_meta):
                        return GetTaskResponse(resource=failed_resource(failure_in(message.resource_meta)))
                    self.creates.asked_for(message.resource_meta)
                    resource, at = await self._polling.state(method, message, record)
                    answer: GetTaskResponse
                    if isinstance(resource, EncodedResource):
                        answer = EncodedAnswer(resource)
                    else:
                        answer = await self._fitting(resource, message, record.mask)
                    job, phase = record.job or self._know(record, message.resource_meta), resource.phase
                    is_final = phase in FINAL_PHASES
                    job.succeeded(at, phase, resource.message, resource.log_links, is_final=is_final)
            except Exception as error:
                known = self._answer_in_place(error, method, message, record)
                if known is None:
                    raise
                answer = known
            return answer

    async def _fitting(self, resource: Resource, message: GetTaskRequest, mask: SecretMask | None) -> GetTaskResponse:
        """Return an answer that is not too large, and holds no secret."""
        answer = GetTaskResponse(resource=resource)
        if not self._outputs.fits(answer, is_final=mask is None):
            await self._outputs.fit(resource, message.output_prefix)
            answer = GetTaskResponse(resource=resource)
        if mask is not None:
            mask.resource(resource)
        return answer

    def _answer_in_place(
        self, error: Exception, method: ConnectorMethod, message: GetTaskRequest, record: CallRecord
    ) -> GetTaskResponse | None:
        """Return the answer to a poll that failed with `error`; None if the client gets the error."""
        cause = type(only_leaf(error))
        if issubclass(cause, LimitedError):
            job = self._know(record, message.resource_meta)
            job.asked = self.account.clock()
            method.gate.limited += 1
            record.answered_from_memory()
            return GetTaskResponse(resource=self._polls.last_known(job, str(error)))
        if issubclass(cause, PermanentFailure):
            text = record.failed_for_good(error)
            job = self._know(record, message.resource_meta)
            job.succeeded(self.account.clock(), Phase.FAILED, text, [], is_final=True)
            return GetTaskResponse(resource=failed_resource(text))
        is_vendors = record.is_vendors(error)
        if is_vendors and method.gate.applies and issubclass(cause, TimeLimitError):
            method.gate.account(message.connection).was_late()
        if not self._polls.absorbs(error, is_vendors=is_vendors):
            return None
        job = self._know(record, message.resource_meta)
        absorbed = self._polls.answer(job, record.client_text(error))
        if absorbed is None:
            return None
        record.poll_absorbed(error)
        return GetTaskResponse(resource=absorbed)

    async def delete_task(self, message: DeleteTaskRequest) -> DeleteTaskResponse:
        """Cancel a task."""
        dispatcher = self._dispatcher
        call = TaskCall.of(Operation.DELETE, message.task_category, message.connection)
        with dispatcher.record(call) as record:
            method = dispatcher.find(record)
            name = record.about(message.resource_meta)
            with dispatcher.limit(call), await dispatcher.slot(call):
                if not is_failure(message.resource_meta):
                    self.creates.asked_for(message.resource_meta)
                    arguments = method.arguments(message.resource_meta, {}, message.connection)
                    call_delete = partial(method, arguments, self.workers, record.span)
                    await method.gate.through(Operation.DELETE, message.connection, call_delete)
                    if method.gate.applies:
                        self.known_jobs.deleted(name, method.gate.account(message.connection))
                if (job := record.job) is not None and not job.is_final:
                    job.deleted, job.orphaned = self.account.clock(), None
                return DeleteTaskResponse()

    async def get_task_metrics(self, message: GetTaskMetricsRequest) -> GetTaskMetricsResponse:
        """Report the metrics of a task."""
        dispatcher = self._dispatcher
        call = TaskCall.of(Operation.GET_METRICS, message.task_category, _local_connection())
        with dispatcher.record(call) as record:
            method = dispatcher.find(record)
            name = record.about(message.resource_meta)
            mask = record.mask = record.mask or self._secrets.find(name)
            with dispatcher.limit(call), await dispatcher.slot(call):
                if is_failure(message.resource_meta):
                    return GetTaskMetricsResponse()
                query = _metrics_query(message)
                connection = None if call.connection is None else method.accepted(call.connection, query)
                arguments = method.arguments(message.resource_meta, query, connection)
                result = await method(arguments, self.workers, record.span)
                claim = f"{method.label} returned"
                response = sendable(expect(result, GetTaskMetricsResponse, claim), claim)
                return response if mask is None else mask.metrics(response)

    async def send_task_logs(self, message: GetTaskLogsRequest, send: Send) -> None:
        """Send the log lines of a task, in one response or many.

        :param send: awaited with each response before the next one is fetched
        """
        dispatcher = self._dispatcher
        call = TaskCall.of(Operation.GET_LOGS, message.task_category, _local_connection())
        with dispatcher.record(call) as record:
            method = dispatcher.find(record)
            name = record.about(message.resource_meta)
            mask = record.mask = record.mask or self._secrets.find(name)
            is_failed = is_failure(message.resource_meta)
            # the method may return a generator, so its span lasts until the last line is sent
            span = UNTRACED if record.span is None or is_failed else record.span(method)
            with dispatcher.limit(call), await dispatcher.slot(call), span:
                if is_failed:
                    body = GetTaskLogsResponseBody(results=[failure_in(message.resource_meta)])
                    result: Any = GetTaskLogsResponse(body=body)
                else:
                    offered = {"token": message.token, "lines": message.lines}
                    connection = None if call.connection is None else method.accepted(call.connection, offered)
                    arguments = method.arguments(message.resource_meta, offered, connection)
                    if method.takes_any:
                        arguments["token"] = message.token
                    result = await method(arguments, self.workers)
                await send_responses(result, send, self.workers, method, mask)

    def __mapping__(self) -> dict[str, Handler]:
        # The base's handler iterates an async generator. A time limit cannot be a scope around the `yield` of one, and
        # nothing would close it when sending fails: so responses are sent from inside the call instead.
        mapping = super().__mapping__()
        mapping[_CREATE_TASK] = mapping[_CREATE_TASK]._replace(request_type=ReceivedTask)
        mapping[_GET_TASK_LOGS] = mapping[_GET_TASK_LOGS]._replace(func=self._handle_get_task_logs)
        return mapping

    async def _handle_get_task_logs(self, stream: Stream[GetTaskLogsRequest, GetTaskLogsResponse]) -> None:
        message = await stream.recv_message()
        if message is not None:
            await self.send_task_logs(message, stream.send_message)


def _local_connection() -> Connection | None:
    """Return the connection that a client in this process has sent beside the message of the current call."""
    rpc = find_current_call()
    data = None if rpc is None or rpc.peer else rpc.metadata.get(CONNECTION_KEY)
    return Connection.parse(data) if isinstance(data, bytes) else None


def _empty(message: CreateTaskRequest) -> None:
    """Drop what is large in the request."""
    message.__dict__.pop(RECEIVED, None)
    message.template = message.inputs = message.task_execution_metadata = None


def _metrics_query(message: GetTaskMetricsRequest) -> dict[str, Any]:
    """Return the arguments of `get_metrics` that the request holds.

    :raises RequestError: Python has no such time
    """
    query: dict[str, Any] = {"queries": message.queries}
    name = ""
    try:
        for name, convert in _TIMES:
            value = getattr(message, name)
            query[name] = None if value is None else convert(value)
    except LiteralError as error:
        raise RequestError(f"the metrics query: {name}: {error}") from error
    return query
