"""The names by which jobs and executions are found."""

from __future__ import annotations

import pytest

from connectrio.telemetry.jobs import JobRecord
from connectrio.telemetry.report import TaskName
from connectrio.telemetry.search import is_named

NAMED = TaskName(project="p", domain="d", execution="f7", node="n0")


@pytest.mark.parametrize(
    ("task", "name", "expected"),
    [
        (NAMED, "f7", True),
        (NAMED, "p-d-f7", True),
        (NAMED, "key", True),
        (NAMED, "0a0a0a0a0a0a", True),
        (NAMED, "n0", False),
        (NAMED, "", False),
        (TaskName(), "--", False),  # an execution that is not known has no full name
    ],
)
def test_a_job_is_found_by_its_names(task, name, expected):
    job = JobRecord(("tiny", 0, b"\n" * 32), "Tiny", task, 0.0, key="key").report(0.0, 0.0)
    assert is_named(job, name) is expected
