"""The record of each call: one observation in the metrics and one log line. No secret gets into either."""

from __future__ import annotations

import time
from contextvars import Token
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import anyio
from grpclib import GRPCError
from grpclib.const import Status

from connectrio.connector.context import reset_current_call, set_current_call
from connectrio.diagnostics import LONGEST_TEXT, format_error, shorten, text_of
from connectrio.idl.flyteidl2.task import Inputs
from connectrio.literals.errors import MAX_DEPTH
from connectrio.logs import LogLevel, get_logger
from connectrio.masking import SecretMask
from connectrio.rpc.call import current_call as current_rpc  # the `current_call` of connectors is set from it
from connectrio.rpc.codec import EncodeError, encode, received_size
from connectrio.rpc.exceptions import is_cancellation, only_leaf
from connectrio.rpc.status import fit_status_message
from connectrio.service.errors import CallFailure, DeliveryError, RequestError, Severity, classify
from connectrio.service.metrics import UNREGISTERED, Metrics
from connectrio.service.operations import Operation, TaskCall

__all__ = ["CallRecord"]

logger = get_logger("connectrio.service")

# the executor polls every job twice a minute; only what it asks for once is logged at the level info
_ROUTINE = {Operation.GET, Operation.GET_METRICS, Operation.GET_LOGS}

# characters of a name that a client chooses
_LONGEST_NAME = 200
# characters of an error's text in a log line and a status
_LONGEST_MESSAGE = LONGEST_TEXT // 2


class CallRecord:
    """One call from its arrival to its end.

    `with` it around the work of the call. In the block, connectors see the call as the current one. At the end of the
    block, the call is counted and logged, and an error becomes the `GRPCError` for the client.

    :param label: the `task_type` label of the metrics
    :ivar mask: finds the secrets of the job; None if there are none, or if they are not known
    """

    def __init__(self, call: TaskCall, label: str, metrics: Metrics) -> None:
        connection = call.connection
        self.mask = SecretMask(connection.secrets) if connection is not None and connection.secrets else None
        self._call = call
        self._label = label
        self._metrics = metrics
        self._rpc = current_rpc()
        self._token: Token[Any] | None = None
        self._is_ended = False
        self._last_failure: tuple[BaseException, CallFailure] | None = None
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        rpc = self._rpc
        if rpc is not None:
            deadline = None if rpc.deadline is None else rpc.deadline.at - anyio.current_time() + time.monotonic()
            # the `CurrentCall` of connectors, made from the servicers' `Call`: `connector/` does not import `rpc/`
            self._token = set_current_call(rpc.peer, rpc.metadata, deadline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, places: TracebackType | None
    ) -> None:
        """Count and log the call, and translate its error. A cancellation passes through.

        :raises GRPCError: the call failed, whatever the connector raised
        """
        if self._token is not None:
            reset_current_call(self._token)
        if error is None:
            if self._is_ended:
                return
            level: LogLevel = "debug" if self._call.operation in _ROUTINE else "info"
            seconds = self._end(Status.OK)
            if logger.is_enabled_for(level):
                getattr(logger, level)("call finished", **self._fields(Status.OK, seconds))
        elif is_cancellation(error):
            self._cancelled()
        elif type(cause := only_leaf(error)) is DeliveryError:
            self._cancelled()
            raise cause.reason from None
        else:
            failure = self._classify(error)
            self._failed(failure, error)
            raise GRPCError(failure.status, fit_status_message(failure.message), failure.details) from error

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

    def client_text(self, error: BaseException) -> str:
        """Return the text about `error` that a client may read."""
        return fit_status_message(self._classify(error).message)

    def failed_for_good(self, error: BaseException) -> str:
        """Record that the connector gave the task up with `error`, and that the client gets an answer that says so.

        :returns: the text for that answer
        """
        failure = self._classify(error)
        self._metrics.permanent_failures.labels(self._label, self._call.operation).inc()
        self._failed(failure, error)
        return fit_status_message(failure.message)

    def poll_absorbed(self, error: BaseException) -> None:
        """Record that a poll failed with `error`, and that the client gets the last known phase."""
        failure = self._classify(error)
        self._metrics.absorbed_polls.labels(self._label).inc()
        fields = self._fields(Status.OK, self._end(failure.status))
        fields |= {"error": shorten(failure.message, LONGEST_TEXT), "kept_back": failure.status.name}
        logger.warning("poll failed, answered with the last known phase", **fields)

    def _cancelled(self) -> None:
        """The client went away, its deadline passed, or the host is stopping."""
        deadline = None if self._rpc is None else self._rpc.deadline
        expired = deadline is not None and deadline.has_passed
        status = Status.DEADLINE_EXCEEDED if expired else Status.CANCELLED
        logger.info("call cancelled", **self._fields(status, self._end(status)))

    def _failed(self, failure: CallFailure, error: BaseException) -> None:
        fields = self._fields(failure.status, self._end(failure.status))
        fields["error"] = shorten(failure.message, LONGEST_TEXT)
        if failure.traceback:
            # as text: a renderer that shows local variables would show the secrets among them
            text = format_error(error, 2 * LONGEST_TEXT)
            fields["exception"] = shorten(text, LONGEST_TEXT) if self.mask is None else self.mask.text(text)
        log = logger.error if failure.severity is Severity.BUG else logger.warning
        log("call failed", **fields)

    def _classify(self, error: BaseException) -> CallFailure:
        if self._last_failure is not None and self._last_failure[0] is error:
            return self._last_failure[1]
        failure = classify(error, self._call.operation, self._call.task_type)
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

    def _end(self, status: Status) -> float:
        """Count the call; return how many seconds it took."""
        self._is_ended = True
        seconds = time.perf_counter() - self._started
        self._metrics.request_ended(self._label, self._call.operation, status, seconds)
        return seconds

    def _fields(self, status: Status, seconds: float) -> dict[str, str | int | float]:
        task_type = shorten(self._call.task_type, _LONGEST_NAME)
        if self.mask is not None and self._label == UNREGISTERED:  # a client may send anything as the type
            task_type = self.mask.text(self._call.task_type, _LONGEST_NAME)
        return {
            "operation": self._call.operation.value,
            "task_type": task_type,
            "task_type_version": self._call.version,
            "status": status.name,
            "duration_ms": round(seconds * 1000, 3),
        }
