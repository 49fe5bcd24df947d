"""Small rolling updates: none loses a call or makes a job twice. No durations are asserted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drills.cluster.rows import ROWS
from drills.cluster.ways import MissingToolError
from drills.rolling import drill

# short, so that a test is; clients learn of a change within less than drain_delay
SMALL = {"drain_delay": 3.0, "late": (0.5, 1.5), "replicas": 2, "replacements": 2, "around": 1.0}


@pytest.mark.parametrize(
    ("name", "client", "processes"),
    [
        ("service", "go", 2),
        ("nginx", "go", 1),
        ("envoy", "go", 1),
        ("nginx", "grpcio", 1),
        ("envoy", "channel", 1),
    ],
)
def test_a_rolling_update_loses_nothing(name: str, client: str, processes: int):
    row = replace(ROWS[name].but(name, **SMALL), processes=processes, client=client)
    try:
        report = drill(name, row, rate=40)
    except MissingToolError as error:
        pytest.skip(str(error))
    assert report.passed, report
    assert report.calls > 0
    assert report.jobs > 0
