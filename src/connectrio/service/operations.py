"""What clients ask connectors for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from connectrio.idl.flyteidl2.connector import TaskCategory
from connectrio.idl.flyteidl2.core import Connection
from connectrio.telemetry.jobs import JobName

__all__ = ["CONNECTION_KEY", "Operation", "TaskCall"]

CONNECTION_KEY = "connectrio-connection-bin"
"""Metadata of GetTaskLogs and GetTaskMetrics that holds a `Connection`, which their messages cannot. Only a client in
the same process may send it: for jobs that somebody runs by hand, and for tests of connectors."""


class Operation(StrEnum):
    """The operations of a connector; the values are its method names, and the `operation` label of the metrics.

    GET_MANY is the host's own: no client asks for it.
    """

    CREATE = "create"
    GET = "get"
    GET_MANY = "get_many"
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


_SUBJECTS = {
    Operation.GET_MANY: "states of ", Operation.GET_METRICS: "metrics of ",
    Operation.GET_LOGS: "logs of ",
}  # fmt: skip


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

    def job(self, resource_meta: bytes) -> JobName:
        """Return the name of the job with this `resource_meta`."""
        return self.task_type, self.version, hashlib.sha256(resource_meta).digest()
