"""One line when the other system begins to fail, one when that is over."""

from __future__ import annotations

import json

from structlog.testing import capture_logs

from connectrio.logs import configure_logging, line_fields
from connectrio.telemetry.incidents import _MOST_ENDED, _MOST_OPEN, Incidents, VendorFailure
from connectrio.telemetry.report import TaskName


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def failure(number: int | None = 0, *, absorbed: bool = True, kind: str = "connection", operation: str = "get"):
    return VendorFailure(
        task_type="tiny",
        operation=operation,
        kind=kind,
        error="no answer",
        place="tiny.py:7 in get",
        task=TaskName(execution=f"run{number}"),
        job=None if number is None else ("tiny", 0, b"%d" % number),
        absorbed=absorbed,
        fields={"execution": f"run{number}"},
    )


def test_500_jobs_are_two_lines():
    clock = Clock()
    incidents = Incidents(clock)
    with capture_logs() as logs:
        for _ in range(2):
            for number in range(500):
                incidents.failed(failure(number))
            clock.now += 20
            incidents.settle()
        for number in range(500):
            incidents.succeeded("tiny", "get", ("tiny", 0, b"%d" % number))
        incidents.settle()
    begun, over = logs
    assert begun["event"] == "an incident began: the other system fails"
    assert (begun["execution"], begun["kind"], begun["place"]) == ("run0", "connection", "tiny.py:7 in get")
    assert over["event"] == "an incident is over"
    assert (over["failures"], over["absorbed_polls"], over["jobs"], over["seconds"]) == (1000, 1000, 500, 20.0)
    assert over["answered"] is True
    [report] = [incident.report(0.0) for incident in incidents]
    assert (report.began, report.last, report.ended, report.jobs) == (100.0, 120.0, 120.0, 500)


def test_its_end_has_no_fields_of_the_call_that_met_it(capsys):
    configure_logging("info", "json")
    clock = Clock()
    incidents = Incidents(clock)
    incidents.failed(failure(0))
    clock.now += 200
    token = line_fields.set(lambda: {"execution": "another"})
    try:
        incidents.failed(failure(None, absorbed=False, kind="timeout"))
    finally:
        line_fields.reset(token)
    begun, over = map(json.loads, capsys.readouterr().err.splitlines())
    assert (begun["execution"], over["event"]) == ("run0", "an incident is over")
    assert "execution" not in over


def test_it_goes_on_as_long_as_a_job_is_without_an_answer():
    clock = Clock()
    incidents = Incidents(clock)
    incidents.failed(failure(1))
    incidents.failed(failure(2))
    clock.now += 60
    incidents.succeeded("tiny", "get", ("tiny", 0, b"1"))
    incidents.settle()
    assert len(incidents.open) == 1
    incidents.succeeded("tiny", "delete", ("tiny", 0, b"2"))
    incidents.succeeded("other", "get", ("tiny", 0, b"2"))
    incidents.settle()
    assert len(incidents.open) == 1
    clock.now += 60  # nobody asks for it any more
    with capture_logs() as logs:
        incidents.settle()
    assert len(incidents.open) == 0
    assert logs[0]["answered"] is True


def test_a_line_a_minute_while_it_goes_on():
    clock = Clock()
    incidents = Incidents(clock)
    with capture_logs() as logs:
        for _ in range(19):
            incidents.failed(failure())
            clock.now += 10
    assert [(line["event"], line.get("failures")) for line in logs] == [
        ("an incident began: the other system fails", 1),
        ("an incident goes on", 7),
        ("an incident goes on", 13),
        ("an incident goes on", 19),
    ]


def test_a_failure_that_its_client_sees_is_no_incident_yet():
    clock = Clock()
    incidents = Incidents(clock)
    with capture_logs() as logs:
        for _ in range(2):
            incidents.failed(failure(None, absorbed=False, operation="create"))
        assert list(incidents) == []
        incidents.failed(failure(None, absorbed=False, operation="create"))
    assert len(logs) == 1
    assert len(list(incidents)) == 1
    clock.now += 10
    incidents.succeeded("tiny", "create", None)
    incidents.settle()
    assert [incident.ended for incident in incidents] == [100.0]


def test_kinds_are_told_apart_and_bounded():
    clock = Clock()
    incidents = Incidents(clock)
    for number in range(_MOST_OPEN + 10):
        incidents.failed(failure(kind=str(number)))
    assert len(incidents.open) == _MOST_OPEN
    clock.now += 120
    incidents.settle()
    assert len(incidents.open) == 0
    assert len(list(incidents)) == _MOST_ENDED
