"""A map of states that has an answer for everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from connectrio import Phase, PhaseMap

PHASES = PhaseMap({"QUEUED": Phase.QUEUED, "success": Phase.SUCCEEDED, 3: Phase.FAILED}, system="Snowball")

# the states of Snowflake's QueryStatus
SNOWFLAKE = PhaseMap(
    {
        "RUNNING": Phase.RUNNING,
        "RESUMING_WAREHOUSE": Phase.INITIALIZING,
        "QUEUED": Phase.QUEUED,
        "QUEUED_REPARING_WAREHOUSE": Phase.QUEUED,
        "NO_DATA": Phase.QUEUED,
        "BLOCKED": Phase.WAITING_FOR_RESOURCES,
        "SUCCESS": Phase.SUCCEEDED,
        "ABORTING": Phase.RUNNING,
        "ABORTED": Phase.ABORTED,
        "FAILED_WITH_ERROR": Phase.FAILED,
        "FAILED_WITH_INCIDENT": Phase.RETRYABLE_FAILED,
        "DISCONNECTED": Phase.RETRYABLE_FAILED,
        "RESTARTED": Phase.RUNNING,
    }
)


@pytest.mark.parametrize(
    ("state", "phase"),
    [("QUEUED", Phase.QUEUED), ("queued", Phase.QUEUED), ("Success", Phase.SUCCEEDED), (3, Phase.FAILED)],
)
def test_known_states(state, phase):
    with capture_logs() as logs:
        assert PHASES[state] is phase
    assert not logs


@given(st.one_of(st.text(), st.binary(), st.none(), st.floats(), st.lists(st.integers()), st.just(object())))
def test_it_is_total(state):
    assert PHASES[state] in set(Phase) - {Phase.UNDEFINED}
    assert SNOWFLAKE[state] in set(Phase) - {Phase.UNDEFINED}


def test_an_unknown_state_is_reported_once():
    phases = PhaseMap({"ok": Phase.SUCCEEDED}, unknown=Phase.QUEUED, system="Snowball")
    with capture_logs() as logs:
        assert {phases["new"], phases["new"], phases["NEW"]} == {Phase.QUEUED}
    assert [(line["state"], line["system"], line["taken_for"]) for line in logs] == [
        ("new", "Snowball", "QUEUED"),
        ("NEW", "Snowball", "QUEUED"),
    ]


def test_reports_are_bounded():
    phases = PhaseMap({})
    with capture_logs() as logs:
        for number in range(1000):
            phases[f"{number}{'x' * 10_000}"]
            phases[[number]]
    assert len(logs) == 100
    assert max(len(line["state"]) for line in logs) == 100
    assert "an object of class list" in {line["state"] for line in logs}


@pytest.mark.parametrize("phase", [Phase.UNDEFINED, Phase(99), 3, "RUNNING", None])
def test_what_is_no_phase(phase):
    with pytest.raises(ValueError, match="which is no phase of a job"):
        PhaseMap({"x": phase})
    with pytest.raises(ValueError, match="which is no phase of a job"):
        PhaseMap({}, unknown=phase)


def test_the_same_state_twice():
    PhaseMap({"done": Phase.SUCCEEDED, "DONE": Phase.SUCCEEDED})
    with pytest.raises(ValueError, match="'DONE' is there twice"):
        PhaseMap({"done": Phase.SUCCEEDED, "DONE": Phase.FAILED})


def test_its_repr():
    assert repr(PhaseMap({}, system="X")) == "PhaseMap({}, unknown=<TaskExecutionPhase.RUNNING: 2>, system='X')"
