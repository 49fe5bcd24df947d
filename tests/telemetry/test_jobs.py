"""What is known of each job."""

from __future__ import annotations

from connectrio import Phase, TaskLog
from connectrio.telemetry.jobs import _MOST_JOBS, Jobs, job_id
from connectrio.telemetry.report import PhaseChange, TaskName

DIGEST = bytes(range(32))
NAME = ("tiny", 0, DIGEST)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_job_from_its_first_poll_to_its_end():
    clock = Clock()
    job = Jobs(clock).obtain(NAME, "Tiny", TaskName(execution="run", node="n0", attempt=0))
    clock.now += 10
    job.succeeded(clock.now, Phase.QUEUED, "in line", [TaskLog(name="console", uri="https://a/b")], is_final=False)
    clock.now += 10
    job.failed(clock.now, "no answer", "tiny.py:7 in get", "vendor", absorbed=True)
    report = job.report(clock.now, 1000.0)
    assert (report.job, report.connector, report.task.execution) == ("000102030405", "Tiny", "run")
    assert (report.seen, report.changed, report.polled, report.failing_since) == (980.0, 990.0, 990.0, 1000.0)
    assert (report.phase, report.message, report.is_final, report.trouble) == ("QUEUED", "in line", False, 3)
    assert (report.polls, report.failed_polls, report.absorbed) == (2, 1, 1)
    assert (report.error, report.place, report.links) == (
        "no answer",
        "tiny.py:7 in get",
        (("console", "https://a/b"),),
    )
    clock.now += 10
    job.succeeded(clock.now, Phase.SUCCEEDED, "", [], is_final=True)
    report = job.report(clock.now, 1010.0)
    assert (report.is_final, report.failing_since) == (True, None)
    assert report.phases == (PhaseChange(phase="QUEUED", at=990.0), PhaseChange(phase="SUCCEEDED", at=1010.0))


def test_trouble_comes_first():
    clock = Clock()
    jobs = Jobs(clock)

    def trouble(seconds: float = 0.0, **state: object) -> int:
        job = jobs.obtain(("tiny", 0, b"%d" % len(jobs)), "Tiny")
        for name, value in state.items():
            setattr(job, name, value)
        return job.report(clock.now + seconds, 0.0).trouble

    assert trouble() == 0
    assert trouble(polled=100.0) == 0
    assert trouble(300.0) == trouble(300.0, polled=100.0) == 1  # nobody polls it
    assert trouble(is_final=True, error="boom") == 0  # a poll has failed, long ago
    assert trouble(is_final=True) == trouble(deleted=100.0, error="boom") == 0
    assert trouble(is_final=True, phase=Phase.FAILED) == trouble(is_final=True, phase=Phase.RETRYABLE_FAILED) == 2
    assert trouble(is_final=True, phase=Phase.SUCCEEDED) == trouble(is_final=True, phase=Phase.ABORTED) == 0
    assert trouble(failing_since=100.0) == 3
    assert trouble(300.0, failing_since=100.0) == 4


def test_those_that_nobody_asks_for_are_forgotten():
    jobs = Jobs(Clock())
    for number in range(_MOST_JOBS + 5):
        jobs.obtain(("tiny", 0, b"%d" % number), "Tiny")
        jobs.obtain(("tiny", 0, b"0"), "Tiny")
    assert len(jobs) == _MOST_JOBS
    assert jobs.find(("tiny", 0, b"0")) is not None
    assert jobs.find(("tiny", 0, b"1")) is None


def test_what_is_kept_of_a_job_is_bounded():
    job = Jobs(Clock()).obtain(NAME, "Tiny")
    for number in range(100):
        phase = Phase.QUEUED if number % 2 else Phase.RUNNING
        job.succeeded(number, phase, "m" * 1_000_000, [TaskLog(name="n" * 1000, uri="u" * 1000)] * 30, is_final=False)
    job.failed(0.0, "e" * 1_000_000, "", "connector", absorbed=False)
    report = job.report(100.0, 100.0)
    assert len(report.message) < 600
    assert len(report.error) < 600
    assert len(report.links) == 2
    # the first phases say how it began, the last one how it is
    assert len(report.phases) == 20
    assert (report.phases[0].at, report.phases[-1].at) == (0.0, 99.0)


def test_the_metric_counts_jobs_by_phase():
    jobs = Jobs(Clock())
    for number, phase in enumerate([Phase.QUEUED, Phase.RUNNING, Phase.RUNNING]):
        job = jobs.obtain(("tiny", 0, b"%d" % number), "Tiny")
        job.succeeded(0.0, phase, "", [], is_final=False)
    jobs.obtain(("tiny", 0, b"never polled"), "Tiny")
    jobs.obtain(("tiny", 0, b"0"), "Tiny").deleted = 1.0
    jobs.obtain(("tiny", 0, b"1"), "Tiny").orphaned = 1.0
    family, orphans = jobs.collect()
    assert [(sample.labels["task_type"], sample.value) for sample in orphans.samples] == [("tiny", 1)]
    assert {sample.labels["phase"]: sample.value for sample in family.samples} == {
        "RUNNING": 2,
        "UNKNOWN": 1,
        "DELETED": 1,
    }


def test_what_people_call_a_job():
    assert job_id(NAME) == "000102030405"
