"""The record of each call: who asked for what, and how it ended. Metrics, log lines and the account are fed from it.

No secret gets into any of them.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import Token
from dataclasses import replace
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Self

import anyio
from grpclib import GRPCError
from grpclib.const import Status

from connectrio.connector.base import AsyncConnector
from connectrio.connector.context import reset_current_call, set_current_call
from connectrio.connector.transient import failure_kind
from connectrio.diagnostics import LONGEST_TEXT, current_trace, format_error, shorten, text_of
from connectrio.idl.flyteidl2.connector import TaskExecutionMetadata
from connectrio.idl.flyteidl2.task import Inputs
from connectrio.literals.errors import MAX_DEPTH
from connectrio.logs import LogLevel, get_logger, line_fields, line_mask
from connectrio.masking import SecretMask
from connectrio.rpc.call import find_current_call
from connectrio.rpc.codec import EncodeError, encode, received_size
from connectrio.rpc.exceptions import is_cancellation, only_leaf
from connectrio.rpc.status import fit_status_message
from connectrio.service.errors import (
    CallFailure,
    DeliveryError,
    OutageError,
    OverloadError,
    RequestError,
    Severity,
    TimeLimitError,
    classify,
)
from connectrio.service.methods import ConnectorMethod, Span
from connectrio.service.metrics import UNREGISTERED, Metrics
from connectrio.service.operations import Operation, TaskCall
from connectrio.service.places import failed_in
from connectrio.service.slots import Slots
from connectrio.service.vendor_gate import VendorAccount, VendorGate
from connectrio.service.wanted_job import Origin
from connectrio.service.workers import Workers
from connectrio.telemetry.account import Account
from connectrio.telemetry.incidents import VendorFailure
from connectrio.telemetry.jobs import NOBODY, JobName, JobRecord, job_id
from connectrio.telemetry.report import FailureReport, TaskName

__all__ = ["CallRecord", "TraceMethod", "task_name"]

logger = get_logger("connectrio.service")

# the executor polls every job twice a minute; only what it asks for once is logged at the level info
_ROUTINE = {Operation.GET, Operation.GET_METRICS, Operation.GET_LOGS}

# a connector need not have these; clients find out by asking, as `connectrio run` does
_OPTIONAL = {Operation.GET_METRICS, Operation.GET_LOGS}

# the functions in which calls wait before anything is done for them
_QUEUES = {Slots.enter.__code__, VendorAccount.turn.__code__}

# characters of a name that a client chooses
_LONGEST_NAME = 200
# characters of an error's text in a log line and a status
_LONGEST_MESSAGE = LONGEST_TEXT // 2
# characters of an error's text that the account keeps
_LONGEST_KEPT = 2000


class CallRecord:
    """One call from its arrival to its end.

    `with` it around the work of the call. In the block, connectors see the call as the current one. At the end of the
    block, the call is counted and logged, and an error becomes the `GRPCError` for the client.

    :param label: the `task_type` label of the metrics
    :param trace: makes the spans of the connector's methods; None without tracing
    :ivar span: `trace` for this call
    :ivar mask: finds the secrets of the job; None if there are none, or if they are not known
    :ivar task: of Flyte, as far as the request says
    :ivar key: of the job that is created
    :ivar origin: of that job: the value of an `Origin`
    :ivar name: of the job that the call is about
    :ivar job: that job, if the account knows it
    :ivar connector: that the call is for, once it was found
    :ivar gate: of that connector
    """

    def __init__(
        self,
        call: TaskCall,
        label: str,
        metrics: Metrics,
        account: Account,
        trace: TraceMethod | None = None,
    ) -> None:
        connection = call.connection
        self.mask = SecretMask(connection.secrets) if connection is not None and connection.secrets else None
        self.call = call
        self.task = NOBODY
        self.key = self.origin = ""
        self.retries = 0
        self.name: JobName | None = None
        self.job: JobRecord | None = None
        self.connector: AsyncConnector[Any] | None = None
        self.gate: VendorGate | None = None
        self._label = label
        self._metrics = metrics
        self._account = account
        self.span: Span | None = None if trace is None else partial(trace, self)
        self._rpc = find_current_call()
        self._token: Token[Any] | None = None
        self._fields_token: Token[Any] | None = None
        self._mask_token: Token[Any] | None = None
        self._is_ended = False
        self._last_failure: tuple[BaseException, CallFailure] | None = None
        self._verdict: tuple[BaseException, bool] | None = None
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long the call has taken so far."""
        return time.perf_counter() - self._started

    @property
    def peer(self) -> str:
        """The client's address."""
        return "" if self._rpc is None else self._rpc.peer

    @property
    def method(self) -> str:
        """The RPC method."""
        return "" if self._rpc is None else self._rpc.method

    @property
    def for_task(self) -> TaskName:
        """The task of Flyte, as the request or an earlier one has said."""
        return self.job.task if self.task is NOBODY and self.job is not None else self.task

    @property
    def shown_type(self) -> str:
        """The task type, cut, and without secrets: a client may send anything as the type."""
        if self.mask is not None and self._label == UNREGISTERED:
            return self.mask.text(self.call.task_type, _LONGEST_NAME)
        return shorten(self.call.task_type, _LONGEST_NAME)

    @property
    def shown_key(self) -> str:
        """The key of the job, "" if it is not known."""
        return self.key or ("" if self.job is None else self.job.key)

    @property
    def shown_job(self) -> str:
        """What people call the job; "" if there is none yet."""
        return "" if self.name is None else job_id(self.name)

    def identity(self) -> dict[str, str | int]:
        """Return what each log line of the call says of it."""
        task = self.for_task
        trace_id, span_id = current_trace() or ("", "")
        texts: dict[str, Any] = {
            "project": task.project,
            "domain": task.domain,
            "execution": task.execution,
            "node": task.node,
            "attempt": task.attempt,
            "key": self.shown_key,
            "job": self.shown_job,
            "output_prefix": "" if task.execution else task.output_prefix,
            "peer": self.peer,
            "rpc": self.method,
            "trace_id": trace_id,
            "span_id": span_id,
        }
        fields: dict[str, str | int] = {
            "operation": self.call.operation.value,
            "task_type": self.shown_type,
            "task_type_version": self.call.version,
        }
        return fields | _without_empty(texts)

    def _masked(self, text: str) -> str:
        """Return what the connector writes without the job's secrets; they may become known within the call."""
        return text if self.mask is None else self.mask.text(text)

    def __enter__(self) -> Self:
        rpc = self._rpc
        if rpc is not None:
            deadline = None if rpc.deadline is None else rpc.deadline.at - anyio.current_time() + time.monotonic()
            # the `CurrentCall` of connectors, made from the servicers' `Call`: `connector/` does not import `rpc/`
            self._token = set_current_call(rpc.peer, rpc.metadata, deadline)
        self._account.calls[self] = None
        self._fields_token = line_fields.set(self.identity)
        self._mask_token = line_mask.set(self._masked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, places: TracebackType | None
    ) -> None:
        """Count and log the call, and translate its error. A cancellation passes through.

        :raises GRPCError: the call failed, whatever the connector raised
        """
        del self._account.calls[self]
        if self._fields_token is not None:
            line_fields.reset(self._fields_token)
        if self._mask_token is not None:
            line_mask.reset(self._mask_token)
        if self._token is not None:
            reset_current_call(self._token)
        if error is None:
            if self._is_ended:
                self._forget_error()
                return
            level: LogLevel = "debug" if self.call.operation in _ROUTINE else "info"
            seconds = self._end(Status.OK)
            if self._account.incidents.open:
                self._account.incidents.succeeded(self._label, self.call.operation, self.name)
            if logger.is_enabled_for(level):
                getattr(logger, level)("call finished", **self._fields(Status.OK, seconds))
        elif is_cancellation(error):
            self._cancelled(error)
        elif type(cause := only_leaf(error)) is DeliveryError:
            self._cancelled(error)
            raise cause.reason from None
        else:
            failure = self._classify(error)
            self._failed(failure, error)
            self._forget_error()
            raise GRPCError(failure.status, fit_status_message(failure.message), failure.details) from error

    def _forget_error(self) -> None:
        """Break the cycle of the error, the frames that it passed, and this object in them."""
        self._last_failure = self._verdict = None

    def inputs_arrived(self, inputs: Inputs | None) -> None:
        """Observe the size of the inputs of a task to create, 0 if there are none.

        :raises RequestError: they are nested so deeply that they have no encoding
        """
        size = 0 if inputs is None else received_size(inputs)
        try:
            self._metrics.inputs_received(self._label, len(encode(inputs)) if size is None else size)
        except EncodeError as error:
            raise RequestError(
                f"the inputs are nested too deeply: Flyte's literals may have {MAX_DEPTH} levels of collections, maps,"
                " unions and structs on this host; nest them less, or pass them in a file"
            ) from error

    def about(self, resource_meta: bytes) -> JobName:
        """Note which job the call is about; return its name."""
        self.name = self.call.job(resource_meta)
        self.job = self._account.jobs.find(self.name)
        return self.name

    def retried(self, error: Exception) -> None:
        """Count that the host tries again by itself, because of `error`."""
        self._metrics.retried(self._label, self.call.operation, error)
        self.retries += 1
        if self.job is not None:
            self.job.retries += 1

    def job_found(self, origin: Origin) -> None:
        """Count that a create is answered with a job, and where it comes from."""
        self.origin = origin.value
        self._metrics.job_created(self._label, origin)

    def trace_attributes(self) -> dict[str, str | int]:
        """Return what the spans of the call say about its task, by the names of their attributes."""
        names = ("task_type", "task_type_version", "project", "domain", "execution", "node", "attempt", "key", "job")
        identity = self.identity()
        return {f"flyte.{name}": identity[name] for name in names if name in identity}

    def client_text(self, error: BaseException) -> str:
        """Return the text about `error` that a client may read."""
        return fit_status_message(self._classify(error).message)

    def failed_for_good(self, error: BaseException) -> str:
        """Record that the connector gave the task up with `error`, and that the client gets an answer that says so.

        :returns: the text for that answer
        """
        failure = self._classify(error)
        self._metrics.permanent_failures.labels(self._label, self.call.operation).inc()
        self._failed(failure, error, is_answered=True)
        return fit_status_message(failure.message)

    def poll_absorbed(self, error: BaseException) -> None:
        """Record that a poll failed with `error`, and that the client gets the last known phase."""
        failure = self._classify(error)
        self._metrics.absorbed_polls.labels(self._label).inc()
        seconds = self._end(failure.status, is_answered=True)
        place = self._account_for(failure, error, seconds, absorbed=True)
        # the lines of an incident tell of the vendor's failures, once for all polls
        left_out = 0 if self.is_vendors(error) else self._left_out(failure, place)
        level: LogLevel = "debug" if self.is_vendors(error) else "warning"
        if left_out is not None and logger.is_enabled_for(level):
            fields = {**self._fields(Status.OK, seconds), "place": place, "kept_back": failure.status.name}
            fields |= {"error": shorten(failure.message, LONGEST_TEXT), "left_out": left_out}
            getattr(logger, level)("poll failed, answered with the last known phase", **_without_empty(fields))

    def answered_from_memory(self) -> None:
        """Count a poll that has not asked the other system, and so says nothing of it."""
        self._end(Status.OK)

    def _cancelled(self, error: BaseException) -> None:
        """The client went away, its deadline passed, or the host is stopping."""
        deadline = None if self._rpc is None else self._rpc.deadline
        expired = deadline is not None and deadline.has_passed
        status = Status.DEADLINE_EXCEEDED if expired else Status.CANCELLED
        seconds = self._end(status)
        place = "" if self.connector is None else failed_in(error, self.connector, _frames_in_thread)
        if self.call.operation is not Operation.GET_LOGS:  # clients leave these when they have read enough
            why = "its deadline passed" if expired else "its client left"
            text = f"no answer to {self.call.operation.phrase(self.shown_type)}: {why} after {seconds:.3g} s"
            if self.job is not None and self.call.operation is Operation.GET:
                self.job.failed(self._account.clock(), text, place, "client", absorbed=False)
            self._account.failed(self._failure(status, text, seconds, "client", place), self._label)
        logger.info("call cancelled", **_without_empty({**self._fields(status, seconds), "place": place}))

    def _failed(self, failure: CallFailure, error: BaseException, *, is_answered: bool = False) -> None:
        seconds = self._end(failure.status, is_answered=is_answered)
        if self._is_not_offered(failure.status):
            log = logger.debug
            log("call failed", **self._fields(failure.status, seconds), error=shorten(failure.message, LONGEST_TEXT))
            return
        place = self._account_for(failure, error, seconds, absorbed=False)
        left_out = self._left_out(failure, place)
        if left_out is None:
            return
        fields = {**self._fields(failure.status, seconds), "place": place, "left_out": left_out}
        fields["error"] = shorten(failure.message, LONGEST_TEXT)
        if failure.traceback:
            # as text: a renderer that shows local variables would show the secrets among them
            text = format_error(error, 2 * LONGEST_TEXT)
            fields["exception"] = shorten(text, LONGEST_TEXT) if self.mask is None else self.mask.text(text)
        log = logger.error if failure.severity is Severity.BUG else logger.warning
        log("call failed", **_without_empty(fields))

    def _is_not_offered(self, status: Status) -> bool:
        """Return whether a call ended with `status` because the connector does not have an optional method."""
        return status is Status.UNIMPLEMENTED and self.call.operation in _OPTIONAL

    def _left_out(self, failure: CallFailure, place: str) -> int | None:
        """Return how many lines like this one were left out before it; None if it is to be left out as well."""
        return self._account.failed_calls.count((self._label, self.call.operation, failure.status, place))

    def _account_for(self, failure: CallFailure, error: BaseException, seconds: float, *, absorbed: bool) -> str:
        """Give the failure to the account; return the line of the connector's code that it comes from."""
        cause = only_leaf(error)
        is_refused = issubclass(type(cause), RequestError)
        place = "" if self.connector is None or is_refused else failed_in(error, self.connector, _frames_in_thread)
        text = shorten(failure.message, _LONGEST_KEPT)
        account, call, job = self._account, self.call, self.job
        is_vendors = self.is_vendors(error)
        kind = _kind(cause, failure, is_vendors=is_vendors)
        if job is not None:
            if call.operation is Operation.GET:
                job.failed(account.clock(), text, place, kind, absorbed=absorbed)
            else:
                job.note_error(text, place, kind)
        if is_vendors:
            vendor_kind = failure_kind(cause)
            account.incidents.failed(
                VendorFailure(
                    task_type=self._label,
                    operation=call.operation,
                    kind=vendor_kind,
                    error=text,
                    place=place,
                    task=self.for_task,
                    job=job.name if job is not None and call.operation is Operation.GET else None,
                    absorbed=absorbed,
                    fields=self._fields(failure.status, seconds),
                )
            )
            self._metrics.vendor_failed(self._label, call.operation, vendor_kind)
        account.failed(self._failure(failure.status, text, seconds, kind, place, absorbed=absorbed), self._label)
        return place

    def _failure(
        self, status: Status, error: str, seconds: float, kind: str, place: str, *, absorbed: bool = False
    ) -> FailureReport:
        return FailureReport(
            operation=self.call.operation,
            task_type=self.shown_type,
            version=self.call.version,
            task=self.for_task,
            key=self.shown_key,
            job=self.shown_job,
            peer=self.peer,
            at=self._account.wall_clock(),
            seconds=round(seconds, 3),
            status=status.name,
            error=error,
            kind=kind,
            absorbed=absorbed,
            place=place,
        )

    def is_vendors(self, error: BaseException) -> bool:
        """Return whether the system behind the connector is at fault, for the moment."""
        if self._verdict is None or self._verdict[0] is not error:
            cause, gate = only_leaf(error), self.gate
            if gate is not None and issubclass(type(cause), TimeLimitError):
                found = not _waited_for_room(cause)
            else:
                found = gate is not None and gate.is_vendors(cause)
            self._verdict = error, found
        return self._verdict[1]

    def _classify(self, error: BaseException) -> CallFailure:
        if self._last_failure is not None and self._last_failure[0] is error:
            return self._last_failure[1]
        failure = classify(error, self.call.operation, self.call.task_type)
        self._last_failure = error, failure
        if self.mask is None:
            return failure
        message = self.mask.text(failure.message, _LONGEST_MESSAGE)
        # the details are of any class: they go out as they are, or not at all
        details = failure.details
        if details is not None:
            text = text_of(details)
            if len(text) > LONGEST_TEXT or self.mask.found_in(text.encode("utf-8", "backslashreplace")) != []:
                details = None
        failure = replace(failure, message=message, details=details)
        self._last_failure = error, failure
        return failure

    def _end(self, status: Status, *, is_answered: bool = False) -> float:
        """Count the call; return how many seconds it took.

        :param is_answered: it failed, and its client gets an answer in place of the error
        """
        self._is_ended = True
        seconds = time.perf_counter() - self._started
        trace = None if self.span is None else current_trace()
        exemplar = None if trace is None else {"trace_id": trace[0], "span_id": trace[1]}
        self._metrics.request_ended(
            self._label, self.call.operation, status, seconds, exemplar, is_answered=is_answered
        )
        return seconds

    def _fields(self, status: Status, seconds: float) -> dict[str, Any]:
        return {**self.identity(), "status": status.name, "duration_ms": round(seconds * 1000, 3)}


def task_name(metadata: TaskExecutionMetadata | None, output_prefix: str = "") -> TaskName:
    """Return the task of Flyte that a job is created for."""
    task = None if metadata is None else metadata.task_execution_id
    node = None if task is None else task.node_execution_id
    execution = None if node is None else node.execution_id
    texts: list[str] = [
        *(["", "", "", ""] if execution is None else
          [execution.org, execution.project, execution.domain, execution.name]),
        "" if node is None else node.node_id,
        output_prefix,
    ]  # fmt: skip
    if max(map(len, texts)) > _LONGEST_NAME:
        texts = [shorten(text, _LONGEST_NAME) for text in texts]
    org, project, domain, name, node_id, prefix = texts
    return TaskName(
        org=org,
        project=project,
        domain=domain,
        execution=name,
        node=node_id,
        attempt=None if task is None else task.retry_attempt,
        output_prefix=prefix,
    )


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that say something; an attempt of 0 does."""
    return {
        name: value for name, value in fields.items() if value not in ("", None) and (name, value) != ("left_out", 0)
    }


def _kind(error: BaseException, failure: CallFailure, *, is_vendors: bool) -> str:
    if is_vendors:
        return "vendor"
    if issubclass(type(error), OverloadError | OutageError | TimeLimitError):
        return "host"
    return "connector" if failure.severity is Severity.BUG else "request"


def _waited_for_room(error: BaseException) -> bool:
    """Return whether a call ran out of time while it waited for a slot, a worker thread or its turn at the gate."""
    return any(frame.f_code in _QUEUES for frame, _ in traceback.walk_tb(error.__traceback__))


def _frames_in_thread(frame: FrameType) -> Iterator[FrameType]:
    """Yield the frames of the worker thread that a frame of `Workers.run` waits for, the innermost first."""
    if frame.f_code is Workers.run.__code__ and (run := frame.f_locals.get("run")) is not None:
        yield from run.frames()


TraceMethod = Callable[[CallRecord, ConnectorMethod], AbstractContextManager[object]]
"""Makes the span of one call of a connector's method, for the record of its RPC."""
