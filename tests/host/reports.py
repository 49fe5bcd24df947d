"""Reports of a host, for tests of what shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from connectrio.telemetry.report import (
    CallReport,
    ConnectorReport,
    FailureReport,
    HostReport,
    IncidentReport,
    JobReport,
    TaskName,
)

NOW = 1_700_000_000.0
TASK = TaskName(
    org="acme",
    project="flytesnacks",
    domain="development",
    execution="f7c1",
    node="n0",
    attempt=1,
    output_prefix="s3://bucket/metadata/flytesnacks-development-f7c1/n0/data/1",
)


def made(kind: type[Any], /, **given: Any) -> Any:
    """Make a report of `kind`; what is not given is empty."""
    document: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        text = str(field.type)
        if field.name in given or not field.required:
            continue
        if field.type is TaskName:
            document[field.name] = TaskName()
        elif "None" in text:
            document[field.name] = None
        elif text.startswith(("list", "dict")):
            document[field.name] = field.type()
        else:
            document[field.name] = field.type()
    return kind(**document, **given)


def report(**given: Any) -> HostReport:
    """A report of a host that serves."""
    given = {"state": "serving", "is_ready": True, "now": NOW, "started": NOW - 3600, "version": "1.2.3", **given}
    return made(HostReport, **given)


def job(**given: Any) -> JobReport:
    """A job that runs."""
    known = {
        "job": "0123456789ab", "task_type": "toy", "connector": "Toy", "task": TASK, "key": "key-of-0",
        "phase": "RUNNING", "seen": NOW - 60, "changed": NOW - 30, "polled": NOW - 1, "polls": 4,
    }  # fmt: skip
    return made(JobReport, **{**known, **given})


def call(**given: Any) -> CallReport:
    """A call that is being answered."""
    known = {
        "operation": "get", "task_type": "toy", "task": TASK, "key": "key-of-0", "job": "0123456789ab",
        "peer": "10.0.0.1:40000", "method": "GetTask", "started": NOW - 5, "seconds": 5.0, "stage": "connector",
        "waits": "toy.py:42 in get",
    }  # fmt: skip
    return made(CallReport, **{**known, **given})


def failure(**given: Any) -> FailureReport:
    """A call that has failed."""
    known = {
        "operation": "get", "task_type": "toy", "task": TASK, "key": "key-of-0", "job": "0123456789ab", "at": NOW - 7,
        "status": "UNAVAILABLE", "error": "no route", "kind": "vendor", "place": "toy.py:42 in get",
    }  # fmt: skip
    return made(FailureReport, **{**known, **given})


def incident(**given: Any) -> IncidentReport:
    """A time in which the vendor of `toy` fails."""
    known = {
        "id": "1", "task_type": "toy", "operation": "get", "kind": "connection", "began": NOW - 120, "last": NOW - 1,
        "failures": 7, "jobs": 3, "error": "no route", "place": "toy.py:42 in get", "task": TASK,
    }  # fmt: skip
    return made(IncidentReport, **{**known, **given})


def connector(**given: Any) -> ConnectorReport:
    """A connector that is served."""
    return made(ConnectorReport, **{"name": "Toy", "task_type": "toy", "source": "module toy", **given})
