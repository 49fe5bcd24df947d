"""What several processes tell of themselves, as one report."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import msgspec
from structlog.testing import capture_logs

from connectrio.host.lifecycle import HostState
from connectrio.host.settings import HostSettings
from connectrio.processes._worker import _Worker
from connectrio.processes.control import (
    Control,
    Order,
    ServeOptions,
    Stacks,
    StateReport,
    StatusReport,
    encode,
)
from connectrio.processes.reports import join, shortened
from connectrio.processes.supervisor import Supervisor
from connectrio.telemetry.report import (
    Attention,
    CertificateReport,
    LoadFailureReport,
    PhaseChange,
    ProcessReport,
    Restart,
    TaskName,
    ThreadReport,
)
from host.reports import NOW, TASK, call, connector, failure, job, made, report

BROKEN = LoadFailureReport(source="module x", kind="ImportError", error="no y")
CERTIFICATE = CertificateReport(port="gRPC", file="server.pem", expires=None)


def process(number: int, state: str = "serving") -> ProcessReport:
    return ProcessReport(process=number, pid=100 + number, state=state, restarts=0)


def test_lists_are_joined_and_numbers_are_added_up():
    first = report(
        jobs=[job()], calls=[call()], threads=[made(ThreadReport)], connectors=[connector(), connector(task_type="a")],
        load_failures=[BROKEN], certificates=[CERTIFICATE], threads_busy=2, threads_limit=8, dropped_lines=1, lag=0.5,
        settings={"grace": "10"}, grpc=["127.0.0.1:8000"], restart=Restart(grace=25, calls=2, creates=1, jobs=1),
    )  # fmt: skip
    second = report(
        jobs=[job(job="b")], connectors=[connector()], load_failures=[BROKEN], certificates=[CERTIFICATE],
        threads_busy=1, threads_limit=8, lag=0.25, settings={"grace": "10"}, grpc=["127.0.0.1:8000"],
        restart=Restart(grace=25, calls=1, stuck_threads=1, jobs=1),
    )  # fmt: skip
    joined = join(report(pid=7, not_ready=[], dropped_lines=4), {0: first, 1: second}, [process(0), process(1)])
    assert [(each.job, each.process) for each in joined.jobs] == [("0123456789ab", 0), ("b", 1)]
    assert [each.process for each in (*joined.calls, *joined.threads)] == [0, 0]
    assert [(each.task_type, each.process) for each in joined.connectors] == [("a", 0), ("toy", 0), ("toy", 1)]
    assert (joined.load_failures, joined.certificates) == ([BROKEN], [CERTIFICATE])
    assert (joined.threads_busy, joined.threads_limit, joined.dropped_lines, joined.lag) == (3, 16, 5, 0.5)
    assert (joined.pid, joined.settings, joined.grpc) == (7, {"grace": "10"}, ["127.0.0.1:8000"])
    assert joined.restart == Restart(grace=25, calls=3, creates=1, stuck_threads=1, jobs=2)
    assert joined.restart_safe == (
        "3 calls in flight would have 25 s to finish (grace); 1 job would be created in that time, or the executor"
        " tries again; 1 stuck thread would be given up; 2 jobs would go on in their systems, and be polled afterwards"
    )
    assert joined.attention == []


def phases(*changes) -> tuple[PhaseChange, ...]:
    return tuple(PhaseChange(phase=phase, at=NOW + at) for phase, at in changes)


def created(**given):
    """A job as the process sees it that has created it, and was never asked for it again."""
    known = {"origin": "fresh", "phase": "", "polled": None, "polls": 0, "changed": NOW - 60, "seen": NOW - 60}
    return job(**{**known, **given})


def polled(**given):
    """The same job as another process sees it that was polled."""
    return job(**{"task": TaskName(), "key": "", "seen": NOW - 50, **given})


def joined_of(*each_has, **given):
    reports = {number: report(**has) for number, has in enumerate(each_has)}
    return join(report(**given), reports, [process(number) for number in reports])


def test_a_job_that_one_process_creates_and_others_are_asked_for_is_one_job():
    restart = Restart(grace=25, jobs=1)
    joined = joined_of(
        {"jobs": [created(trouble=1)], "restart": restart},
        {
            "jobs": [polled(phases=phases(("RUNNING", -40)), changed=NOW - 40, polled=NOW - 9, message="old")],
            "restart": restart,
        },
        {
            "jobs": [
                polled(
                    phases=phases(("QUEUED", -50), ("RUNNING", -30)), polled=NOW - 1, message="half", failed_polls=1,
                    absorbed=1, retries=2, links=(("log", "https://logs"),),
                )
            ],
            "calls": [call(task=TaskName())],
            "failures": [failure(task=TaskName()), failure(task=TaskName(), job="another")],
            "restart": restart,
        },
    )  # fmt: skip
    [one] = joined.jobs
    assert (one.task, one.key, one.origin, one.process) == (TASK, "key-of-0", "fresh", 2)
    assert (one.phase, one.message, one.links, one.polled) == ("RUNNING", "half", (("log", "https://logs"),), NOW - 1)
    assert (one.polls, one.failed_polls, one.absorbed, one.retries, one.trouble) == (8, 1, 1, 2, 0)
    assert one.phases == phases(("QUEUED", -50), ("RUNNING", -40))
    assert (one.seen, one.changed) == (NOW - 60, NOW - 40)
    assert joined.restart_safe.endswith("1 job would go on in their systems, and be polled afterwards")
    assert [each.task for each in (*joined.calls, *joined.failures)] == [TASK, TASK, TaskName()]


def test_jobs_of_other_versions_and_task_types_stay_apart():
    joined = joined_of({"jobs": [job()]}, {"jobs": [job(version=1), job(task_type="other")]})
    assert len(joined.jobs) == 3


def test_polls_that_fail_at_one_process_and_not_at_another():
    failing = polled(polled=None, phase="", failing_since=NOW - 45, error="no route", place="toy.py:1", trouble=3)
    [one] = joined_of({"jobs": [created()]}, {"jobs": [failing]}).jobs
    assert (one.failing_since, one.error, one.place, one.trouble) == (NOW - 45, "no route", "toy.py:1", 3)
    [one] = joined_of({"jobs": [created()]}, {"jobs": [failing]}, {"jobs": [polled(polled=NOW - 5)]}).jobs
    assert (one.failing_since, one.error, one.phase, one.trouble) == (None, "no route", "RUNNING", 0)
    [one] = joined_of({"jobs": [polled(polled=NOW - 46)]}, {"jobs": [failing]}).jobs
    assert (one.failing_since, one.phase, one.polled, one.trouble) == (NOW - 45, "RUNNING", NOW - 46, 3)


def test_a_job_that_another_process_deletes_is_over():
    gone = polled(polled=None, phase="", polls=0, deleted=NOW - 2, is_final=True)
    joined = joined_of({"jobs": [job()], "restart": Restart(jobs=1)}, {"jobs": [gone]})
    [one] = joined.jobs
    assert (one.deleted, one.is_final, one.phase, one.task) == (NOW - 2, True, "RUNNING", TASK)
    assert joined.restart.jobs == 0


def test_an_orphan_that_another_process_is_asked_for_is_none():
    told = Attention(kind="orphan", severity="warning", text="toy: 1 job created for clients that had gone")
    lonely = created(orphaned=NOW - 400, seen=NOW - 400, error="created for a client that had gone", trouble=2)
    joined = joined_of({"jobs": [lonely], "attention": [told]}, now=NOW)
    assert [each.kind for each in joined.attention] == ["orphan"]
    joined = joined_of({"jobs": [lonely], "attention": [told]}, {"jobs": [polled()]}, now=NOW)
    assert [(each.orphaned, each.error, each.trouble) for each in joined.jobs] == [(None, "", 0)]
    assert joined.attention == []


def test_a_job_has_twenty_phases_at_most():
    changes = [(f"PHASE_{number}", -number) for number in range(30)]
    [one] = joined_of({"jobs": [job(phases=phases(*changes))]}, {"jobs": [polled(phases=phases(("LAST", 1)))]}).jobs
    assert (len(one.phases), one.phases[0].phase, one.phases[-1].phase) == (20, "PHASE_29", "LAST")


def test_a_process_that_does_not_answer_is_shown():
    joined = join(report(), {1: report()}, [process(0, "not answering"), process(1)])
    [attention] = joined.attention
    assert (attention.kind, attention.process) == ("process", 0)
    assert "not answering" in attention.text
    assert [each.state for each in joined.processes] == ["not answering", "serving"]


def test_what_several_processes_need_attention_for_is_told_once():
    def told(text, since):
        return Attention(kind="incident", severity="error", text=text, since=since)

    reports = {0: report(attention=[told("the vendor is down", 9.0)]), 1: report(attention=[told("stuck", None)])}
    reports[2] = report(attention=[told("the vendor is down", 3.0)])
    joined = join(report(), reports, [process(each) for each in range(3)])
    assert [(each.text, each.since, each.process) for each in joined.attention] == [
        ("the vendor is down", 3.0, None),
        ("stuck", None, 1),
    ]


def test_a_supervisor_whose_processes_all_fail():
    joined = join(report(state="starting", is_ready=False), {}, [process(0, "waiting to start again")])
    assert (joined.state, joined.jobs, len(joined.attention)) == ("starting", [], 1)


def test_lists_are_cut_to_what_can_be_sent():
    def encoded(each):
        return encode(StatusReport(each))

    jobs = [job(job=str(number), message="m" * 500, trouble=number % 7) for number in range(1000)]
    long = report(jobs=jobs, calls=[call()] * 100)
    short = shortened(long, 100_000, encoded)
    assert len(encoded(short)) <= 100_000
    assert len(short.jobs) > 50
    assert {each.trouble for each in short.jobs} == {6}
    assert len(short.calls) == min(100, len(short.jobs))
    assert shortened(long, 10_000_000, encoded) is long
    assert shortened(long, 10, encoded).jobs == []
    empty = report()
    assert shortened(empty, 10, encoded) == empty
    assert msgspec.structs.asdict(short)["state"] == "serving"


OPTIONS = ServeOptions(HostSettings(entry_points=False), 2, "asyncio", "info", "json")


def member(number: int, state: str, *not_ready: str) -> SimpleNamespace:
    told = StateReport(state, not not_ready, 1, [], [], list(not_ready))
    return SimpleNamespace(
        number=number, state=state, is_ready=state == "serving" and not not_ready, report=told, pid=1, restarts=0
    )


def test_why_no_process_is_ready():
    supervisor = Supervisor(OPTIONS)
    assert supervisor.not_ready == ["the host is starting"]
    supervisor.state = HostState.SERVING
    supervisor._members = [member(0, "serving", "a lifespan is not open"), member(1, "not answering", "old news")]
    assert supervisor.not_ready == ["process 0: a lifespan is not open", "process 1: not answering"]
    supervisor._members.append(member(2, "serving"))
    assert (supervisor.not_ready, supervisor.is_ready) == ([], True)
    supervisor.state = HostState.DRAINING
    assert supervisor.not_ready == ["the host is draining"]


async def test_a_report_that_cannot_be_made_or_sent_ends_no_process():
    ours, theirs = socket.socketpair()
    control, supervisors = await Control.over(ours), await Control.over(theirs)
    worker = _Worker(Order(0, OPTIONS, []), ours, lambda: None)

    async def broken():
        raise RuntimeError("no report")

    async def not_text():
        return report(jobs=[job(message="\udc80")])

    with capture_logs() as logs:
        worker.host.report = broken
        await worker._tell("status", control)
        assert [line["event"] for line in logs] == ["this process cannot tell what it does"]
        worker.host.report = not_text
        await worker._tell("status", control)
        assert len(logs) == 1
    assert (await supervisors.receive()).report.jobs[0].message == "?"
    await worker._tell("stacks", control)
    assert isinstance(await supervisors.receive(), Stacks)
    await control.aclose()
    await supervisors.aclose()
