"""How calls are accounted for: one observation in the metrics and one log line each."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from typing import Any

from grpclib.const import Status

from connectrio.connector.failures import PermanentFailure
from connectrio.idl.flyteidl2.core import Connection
from connectrio.idl.flyteidl2.task import Inputs
from connectrio.logs import LogLevel, get_logger
from connectrio.rpc.call import current_call
from connectrio.rpc.codec import EncodeError, encode, received_size
from connectrio.service.errors import Failure, RequestError, Severity, only_leaf
from connectrio.service.metrics import Metrics
from connectrio.service.operations import Operation
from connectrio.service.redaction import redact

__all__ = ["Account", "TaskCall"]

logger = get_logger("connectrio.service")

# the executor polls every job twice a minute; what it asks for once is worth a line of its own
_ROUTINE = {Operation.GET, Operation.GET_METRICS, Operation.GET_LOGS}

# characters of what a client or a connector may make as long as it likes
_LONGEST_NAME = 200
_LONGEST_TEXT = 64 * 1024


@dataclass(frozen=True)
class TaskCall:
    """One request for an operation on a task.

    :ivar connection: the request's secrets and configs; Flyte sends none for metrics and logs
    :ivar inputs: those of the task to create
    """

    operation: Operation
    task_type: str
    version: int
    connection: Connection | None = None
    inputs: Inputs | None = None


class Account:
    """One call from its arrival to its end.

    :param label: the `task_type` label of the metrics
    """

    def __init__(self, call: TaskCall, label: str, metrics: Metrics) -> None:
        self._call = call
        self._label = label
        self._metrics = metrics
        self._started = time.perf_counter()

    def observe_inputs(self) -> None:
        """Observe the size of the inputs, those of tasks without inputs included.

        :raises RequestError: they are nested so deeply that they have no encoding
        """
        inputs = self._call.inputs
        size = 0 if inputs is None else received_size(inputs)
        try:
            self._metrics.inputs_received(self._label, len(encode(inputs)) if size is None else size)
        except EncodeError as error:
            raise RequestError("the inputs are nested too deeply") from error

    def succeeded(self) -> None:
        """The client has its answer."""
        level: LogLevel = "debug" if self._call.operation in _ROUTINE else "info"
        seconds = self._count(Status.OK)
        if logger.is_enabled_for(level):
            getattr(logger, level)("call finished", **self._fields(Status.OK, seconds))

    def recovered(self, failure: Failure, error: BaseException) -> None:
        """The client gets an answer in place of an error.

        :param error: what `failure` was made of
        """
        if isinstance(only_leaf(error), PermanentFailure):
            self._metrics.failed_for_good(self._label, self._call.operation)
            self.failed(failure, error)
            return
        self._metrics.poll_absorbed(self._label)
        fields = self._end(Status.OK) | {"error": self._presentable(failure.message), "kept_back": failure.status.name}
        logger.warning("poll failed, answered with the last known phase", **fields)

    def cancelled(self) -> None:
        """The client went away, its deadline passed, or the host is stopping."""
        call = current_call()
        expired = call is not None and call.deadline is not None and call.deadline.time_remaining() <= 0
        logger.info("call cancelled", **self._end(Status.DEADLINE_EXCEEDED if expired else Status.CANCELLED))

    def failed(self, failure: Failure, error: BaseException) -> None:
        """The client gets an error.

        :param error: what `failure` was made of
        """
        fields = self._end(failure.status) | {"error": self._presentable(failure.message)}
        if failure.traceback:
            # as text: a renderer that shows local variables would show the secrets among them
            fields["exception"] = self._presentable(_format(error, failure.message))
        log = logger.error if failure.severity is Severity.BUG else logger.warning
        log("call failed", **fields)

    def _end(self, status: Status) -> dict[str, Any]:
        return self._fields(status, self._count(status))

    def _count(self, status: Status) -> float:
        """:returns: how many seconds the call has taken"""
        seconds = time.perf_counter() - self._started
        self._metrics.request_ended(self._label, self._call.operation, status, seconds)
        return seconds

    def _fields(self, status: Status, seconds: float) -> dict[str, Any]:
        return {
            "operation": self._call.operation.value,
            "task_type": _shorten(self._call.task_type, _LONGEST_NAME),
            "task_type_version": self._call.version,
            "status": status.name,
            "duration_ms": round(seconds * 1000, 3),
        }

    def _presentable(self, text: str) -> str:
        return _shorten(redact(text, self._call.connection), _LONGEST_TEXT)


def _format(error: BaseException, message: str) -> str:
    """The traceback as text; of an error whose text is very long, which takes seconds to format, only the places."""
    if len(message) <= _LONGEST_TEXT:
        return "".join(traceback.format_exception(error)).rstrip()
    places = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{places}{type(error).__name__}: {_shorten(message, _LONGEST_TEXT)}"


def _shorten(text: str, length: int) -> str:
    """`text`, without its middle where it is longer than that: a traceback says the most at its end."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]} [… {len(text) - 2 * half} characters …] {text[-half:]}"
