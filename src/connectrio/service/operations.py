"""What clients ask connectors for, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from connectrio.idl.flyteidl2.connector import TaskCategory
from connectrio.idl.flyteidl2.core import Connection

__all__ = ["Operation", "OperationLimits", "TaskCall"]


class Operation(StrEnum):
    """The operations of a connector; the values are its method names, and the `operation` label of the metrics."""

    CREATE = "create"
    GET = "get"
    DELETE = "delete"
    GET_METRICS = "get_metrics"
    GET_LOGS = "get_logs"

    # an enum hashes its members' names, in Python; the text itself does it several times as fast
    __hash__ = str.__hash__

    def phrase(self, task_type: str) -> str:
        """Return the operation on a task of that type as a phrase: "delete duckdb task"."""
        subject = _SUBJECTS.get(self, "")
        verb = "get" if subject else self.value
        return f"{verb} {subject}{task_type} task"


_SUBJECTS = {Operation.GET_METRICS: "metrics of ", Operation.GET_LOGS: "logs of "}


@dataclass(frozen=True)
class TaskCall:
    """One request for an operation on a task.

    :ivar connection: the request's secrets and configs; Flyte sends none for metrics and logs
    """

    operation: Operation
    task_type: str
    version: int
    connection: Connection | None = None

    @classmethod
    def of(cls, operation: Operation, category: TaskCategory | None, connection: Connection | None = None) -> TaskCall:
        """Return the call for a task that exists."""
        if category is None:
            return cls(operation, "", 0, connection)
        return cls(operation, category.name, category.version, connection)


@dataclass(frozen=True)
class OperationLimits:
    """How long each operation may take on this host, in seconds, whatever deadline the client has set; None: no limit.

    Flyte's executor waits 10 s for any call unless it is configured otherwise. A host's defaults are well above that,
    so that the executor's timeouts can be raised without touching the host. They are for clients that set no deadline:
    a hung vendor must not hold a call, and with it a drain, for ever.

    :ivar create: submitting may upload or compile something first
    :ivar get: a poll; the next one comes anyway
    :ivar delete: some vendors confirm a cancellation only once it has happened
    :ivar get_metrics: a query, as `get`
    :ivar get_logs: the whole stream. Following a job's logs takes as long as the job, so there is no limit
    """

    create: float | None = None
    get: float | None = None
    delete: float | None = None
    get_metrics: float | None = None
    get_logs: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            seconds = getattr(self, field.name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"the limit for {field.name} must be more than 0 seconds, or None, not {seconds!r}")

    def seconds(self, operation: Operation) -> float | None:
        """Return the limit for `operation`."""
        limit: float | None = getattr(self, operation)
        return limit
