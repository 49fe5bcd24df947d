"""What a host tells of itself: live calls with the line where they wait, jobs, failures, incidents, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from grpclib import GRPCError
from msgspec import structs

from connectrio import AsyncConnector, Phase, Registry, Resource, TaskLog
from connectrio.diagnostics import count_dropped_lines
from connectrio.host.host import Host
from connectrio.host.settings import HostSettings
from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceStub,
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskRequest,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.rpc import Channel
from connectrio.telemetry.attention import Block, needs_attention
from connectrio.telemetry.report import Attention, HostReport, PhaseChange
from host.reports import NOW, job
from host.reports import report as made_report
from service.harness import META, Job, attempt

PATIENCE = 30.0
KEY = "cr-"


class Tiny(AsyncConnector[Job]):
    """Does what the test wants."""

    name = "Tiny"
    task_type_name = "tiny"
    metadata_type = Job

    def __init__(self) -> None:
        self.resource = Resource(Phase.RUNNING, message="at work", log_links=[TaskLog(name="ui", uri="https://a/b")])
        self.error: BaseException | None = None
        self.go_on = anyio.Event()
        self.waits = False

    async def create(self, **kwargs):
        return Job("7")

    async def get(self, **kwargs):
        if self.waits:
            await self.go_on.wait()  # here it waits
        if self.error is not None:
            raise self.error
        return self.resource

    async def delete(self, **kwargs):
        return None


class Threads(Tiny):
    name = "Threads"
    task_type_name = "threads"

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.entered = threading.Event()

    def get(self, **kwargs):
        self.entered.set()
        self.released.wait(PATIENCE)  # here the thread waits
        return self.resource


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(text))


@asynccontextmanager
async def hosting(*connectors, **settings):
    registry = Registry()
    for each in connectors:
        registry.register(each)
    local = {"host": "127.0.0.1", "port": 0, "prometheus_port": 0, "watchdog": 3600, "poll_retry": 0}
    host = Host(HostSettings(**{**local, **settings}), registry=registry)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(host.serve)
            async with Channel(addresses.target) as channel, anyio.create_task_group() as clients:
                yield host, AsyncConnectorServiceStub(channel), clients
            await host.shutdown()


def request(task_type="tiny"):
    return GetTaskRequest(resource_meta=META, task_category=TaskCategory(name=task_type))


def creation(task_type="tiny", number=0):
    return CreateTaskRequest(
        template=TaskTemplate(type=task_type),
        task_execution_metadata=attempt(number, node="n3", execution="nightly"),
        output_prefix="s3://bucket/nightly/n3",
    )


async def test_a_quiet_host():
    async with hosting(Tiny()) as (host, _, _):
        report = await host.report()
        assert (report.state, report.is_ready, report.not_ready, report.attention) == ("serving", True, [], [])
        assert report.settings["watchdog"] == "3600"
        assert report.restart_safe == "no call is in flight"
        [tiny] = report.connectors
        assert (tiny.task_type, tiny.source, tiny.active, tiny.calls, tiny.p95) == (
            "tiny",
            f"module {__name__}",
            0,
            0,
            None,
        )
        assert tiny.code == f"{__file__}:{line_of('def __init__(self) -> None:')}"
        assert len(tiny.minutes) == 30


async def test_a_job_from_its_create_to_its_end():
    tiny = Tiny()
    async with hosting(tiny) as (host, stub, _):
        await stub.create_task(creation())
        await stub.get_task(request())
        [job] = (await host.report()).jobs
        assert (job.task.project, job.task.domain, job.task.execution) == ("p", "d", "nightly")
        assert (job.task.node, job.task.attempt, job.origin) == ("n3", 0, "fresh")
        assert job.key.startswith("cr-")
        assert (job.phase, job.message, job.links) == ("RUNNING", "at work", (("ui", "https://a/b"),))
        assert (job.polls, job.is_final, job.trouble) == (1, False, 0)
        tiny.resource = Resource(Phase.SUCCEEDED)
        await stub.get_task(request())
        [job] = (report := await host.report()).jobs
        assert [change.phase for change in job.phases] == ["RUNNING", "SUCCEEDED"]
        assert isinstance(job.phases[0], PhaseChange)
        assert job.is_final
        [connector] = report.connectors
        assert (connector.calls, connector.failures, connector.jobs) == (3, 0, {"SUCCEEDED": 1})
        assert connector.minutes[-1].calls + connector.minutes[-2].calls == 3


async def test_a_deleted_job():
    async with hosting(Tiny()) as (host, stub, _):
        await stub.create_task(creation())
        await stub.delete_task(DeleteTaskRequest(resource_meta=META, task_category=TaskCategory(name="tiny")))
        [job] = (await host.report()).jobs
        assert job.is_final
        assert job.deleted is not None


async def test_a_job_that_another_replica_has_created():
    async with hosting(Tiny()) as (host, stub, _):
        poll = request()
        poll.output_prefix = "s3://bucket/p-d-run/n0/data/0"
        await stub.get_task(poll)
        [job] = (await host.report()).jobs
        assert (job.task.execution, job.task.output_prefix) == ("", "s3://bucket/p-d-run/n0/data/0")


async def until(host: Host, is_so: Callable[[HostReport], object]) -> HostReport:
    """The first report of which something is so."""
    while not is_so(report := await host.report()):  # noqa: ASYNC110 - nothing else tells of it
        await anyio.sleep(0.01)
    return report


def has_call(stage: str) -> Callable[[HostReport], object]:
    return lambda report: report.calls and report.calls[0].stage == stage


async def test_where_a_call_waits():
    tiny = Tiny()
    async with hosting(tiny) as (host, stub, _):
        await stub.create_task(creation())
        tiny.waits = True
        async with anyio.create_task_group() as polls:
            polls.start_soon(stub.get_task, request())
            report = await until(host, has_call("connector"))
            [call] = report.calls
            assert call.waits == f"{__file__}:{line_of('# here it waits')} in Tiny.get"
            assert (call.operation, call.task.execution, call.peer[:10]) == ("get", "nightly", "127.0.0.1:")
            assert call.method == "/flyteidl2.connector.AsyncConnectorService/GetTask"
            assert report.restart_safe.startswith("1 call in flight would have 25 s to finish (grace)")
            [connection] = report.connections
            assert (connection.peer, connection.kind, connection.calls) == (call.peer, "tcp", 1)
            stack = next(stack for stack in await host.stacks() if stack.what.startswith("get tiny nightly n3"))
            assert any("Tiny.get: await self.go_on.wait()  # here it waits" in frame for frame in stack.frames)
            tiny.go_on.set()
        await until(host, lambda report: not report.calls)


async def test_where_a_thread_waits_and_what_goes_on_when_nobody_waits():
    threads = Threads()
    place = f"{__file__}:{line_of('# here the thread waits')} in Threads.get"
    async with hosting(threads) as (host, stub, tasks):
        await stub.create_task(creation("threads"))
        scope = anyio.CancelScope()

        async def poll():
            with scope:
                await stub.get_task(request("threads"))

        tasks.start_soon(poll)
        report = await until(host, lambda report: threads.entered.is_set() and has_call("thread")(report))
        assert report.calls[0].waits == place
        [thread] = report.threads
        assert (thread.runs, thread.stuck_seconds) == ("Threads.get", None)
        assert any(line.startswith(place) for line in thread.stack)
        assert (report.threads_busy, report.attention) == (1, [])
        scope.cancel()
        report = await until(host, lambda report: report.threads and report.threads[0].stuck_seconds is not None)
        [attention] = report.attention
        assert (attention.kind, attention.task_type) == ("stuck", "threads")
        assert "1 worker thread hangs in Threads.get, for example nightly, the longest for" in attention.text
        assert report.threads[0].task.execution == "nightly"
        stacks = [each for each in await host.stacks() if each.name == "Threads.get"]
        assert [each.what.startswith("nightly, stuck, its call ended ") for each in stacks] == [True]
        threads.released.set()
        await until(host, lambda report: not report.threads)


async def test_a_vendor_that_fails_is_an_incident():
    tiny = Tiny()
    async with hosting(tiny) as (host, stub, _):
        await stub.create_task(creation())
        tiny.error = ConnectionError("no route to the warehouse")
        assert (await stub.get_task(request())).resource.phase is Phase.RUNNING
        report = await host.report()
        [incident] = report.incidents
        assert (incident.kind, incident.failures, incident.absorbed, incident.jobs) == ("connection", 1, 1, 1)
        assert incident.task.execution == "nightly"
        place = f"{__file__}:{line_of('raise self.error')} in Tiny.get"
        assert incident.place == place
        [failure] = report.failures
        assert (failure.kind, failure.absorbed, failure.status, failure.place) == ("vendor", True, "INTERNAL", place)
        [job] = report.jobs
        assert (job.failed_polls, job.absorbed, job.trouble) == (1, 1, 3)
        assert job.error.endswith("no route to the warehouse.")
        [attention] = report.attention
        assert (attention.kind, attention.severity) == ("incident", "error")
        assert f"(connection): 1 failed call of get, 1 job, for example nightly, at {place}: " in attention.text
        assert "with error: no route to the warehouse" in attention.text
        assert job.answered_until == pytest.approx(job.failing_since + host.settings.poll_absorb)
        tiny.error = None
        await stub.get_task(request())
        assert (await host.report()).jobs[0].answered_until is None


async def test_an_open_circuit_breaker_needs_attention():
    tiny = Tiny()
    options = ["tiny.breaker_failures=1", "tiny.breaker_pause=3600"]
    async with hosting(tiny, connector_options=options, poll_retry=0) as (host, stub, _):
        await stub.create_task(creation())
        await stub.get_task(request())
        assert (await host.report()).attention == []
        tiny.error = ConnectionError("no route to the warehouse")
        await stub.get_task(request())
        [incident, breaker] = (await host.report()).attention
        assert (incident.kind, breaker.kind, breaker.severity) == ("incident", "breaker", "error")
        assert breaker.text == "tiny: the circuit breaker is open, so the other system gets no calls"


@pytest.mark.parametrize(
    ("required", "meanwhile"), [(False, "creates jobs by its own memory"), (True, "creates are refused")]
)
async def test_a_job_store_that_is_away_needs_attention(tmp_path, required, meanwhile):
    store = f"sqlite://{tmp_path}/no such folder/jobs.db"
    async with hosting(Tiny(), job_store=store, job_store_required=required) as (host, *_):
        [attention] = (await host.report()).attention
        assert (attention.kind, attention.severity) == ("job store", "error")
        assert attention.text.startswith("the job store does not answer: OperationalError: unable to open")
        assert meanwhile in attention.what_to_do
        assert 0 <= time.time() - attention.since < PATIENCE


async def test_a_job_store_that_answers_needs_no_attention(tmp_path):
    async with hosting(Tiny(), job_store=f"sqlite://{tmp_path}/jobs.db") as (host, *_):
        assert (await host.report()).attention == []


async def test_errors_of_polls_that_reach_the_client():
    tiny = Tiny()
    async with hosting(tiny, poll_absorb=0) as (host, stub, _):
        await stub.create_task(creation())
        tiny.error = ConnectionError("no route to the warehouse")
        with pytest.raises(GRPCError):
            await stub.get_task(request())
        [job] = (await host.report()).jobs
        assert (job.failing_since is None, job.answered_until) == (False, None)


async def test_a_bug_of_the_connector():
    tiny = Tiny()
    async with hosting(tiny) as (host, stub, _):
        tiny.error = ValueError("boom")
        for _ in range(3):
            with pytest.raises(GRPCError):
                await stub.get_task(request())
        report = await host.report()
        [failure] = report.failures
        assert (failure.kind, failure.similar) == ("connector", 2)
        [attention] = report.attention
        assert f"{__file__}:{line_of('raise self.error')} in Tiny.get" in attention.text
        assert f"a bug in the connector: 3 failed calls of get, at {__file__}" in attention.text
        assert report.incidents == []


async def test_why_it_is_not_ready():
    class Broken(Tiny):
        @asynccontextmanager
        async def lifespan(self):
            raise ConnectionError("no warehouse")
            yield

    async with hosting(Broken(), require_lifespans=True) as (host, _, _):
        report = await host.report()
        assert not report.is_ready
        [reason] = report.not_ready
        assert "require_lifespans" in reason
        assert "ConnectionError" in reason
        assert [each.kind for each in report.attention] == ["outage"]
        assert "no warehouse" in report.connectors[0].outage


async def test_a_blocked_event_loop_is_remembered():
    async with hosting(Tiny()) as (host, _, _):
        host.watchdog.blocks.append(Block("Tiny.get", "tiny.py:7 in get", "tiny", time.time(), 3.2))
        [attention] = (await host.report()).attention
        assert attention.kind == "blocked"
        assert "Tiny.get has blocked the event loop, and with it all calls, for 3.2 s, at tiny.py:7" in attention.text


async def test_an_old_block_needs_no_attention():
    async with hosting(Tiny()) as (host, _, _):
        report = await host.report()
        old = Block("Tiny.get", "tiny.py:7 in get", "tiny", report.now - 601, 3.2)
        assert needs_attention(report, [old]) == []


def test_orphans_need_attention_after_five_minutes():
    def found(seconds: float) -> list[Attention]:
        jobs = [job(orphaned=NOW - seconds), job(job="2", orphaned=NOW - seconds + 100), job(job="3")]
        return needs_attention(made_report(jobs=jobs))

    assert found(299) == []
    [attention] = found(300)
    assert (attention.kind, attention.severity, attention.since) == ("orphan", "warning", NOW - 300)
    assert attention.text.startswith("toy: 1 job created for clients that had gone; nobody has asked for it since")
    assert found(400)[0].text.startswith("toy: 2 jobs created")


async def test_lines_that_could_not_be_written():
    async with hosting(Tiny()) as (host, _, _):
        assert (await host.report()).attention == []
        count_dropped_lines(3)
        report = await host.report()
        [attention] = report.attention
        assert (attention.kind, attention.severity) == ("log", "warning")
        assert needs_attention(structs.replace(report, now=report.now + 601)) == []


async def test_made_up_task_types_do_not_push_failures_out():
    tiny = Tiny()
    tiny.error = ValueError("a bug")
    async with hosting(tiny) as (host, stub, _):
        for task_type in ("tiny", *(f"made-up-{number}" for number in range(200))):
            with pytest.raises(GRPCError):
                await stub.get_task(request(task_type))
        made_up, bug = (await host.report()).failures
        assert (made_up.task_type, made_up.kind, made_up.similar) == ("made-up-199", "request", 199)
        assert (bug.task_type, bug.kind) == ("tiny", "connector")


async def test_calls_go_on_while_a_long_report_is_made():
    async with hosting(Tiny()) as (host, _, tasks):
        for number in range(10_000):
            host.account.jobs.obtain(("tiny", 0, number.to_bytes(32)), "Tiny")
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(count)
        report = await host.report()
        # 10,000 jobs take more than 10 ms on any machine, and a turn is one
        assert turns > 10
        assert len(report.jobs) == 10_000
        assert report.connectors[0].jobs == {"UNKNOWN": 10_000}
        tasks.cancel_scope.cancel()


async def test_a_poll_that_its_client_gives_up_is_no_success():
    tiny = Tiny()
    async with hosting(tiny) as (host, stub, tasks):
        await stub.create_task(creation())
        tiny.waits = True
        scope = anyio.CancelScope()

        async def poll():
            with scope:
                await stub.get_task(request())

        tasks.start_soon(poll)
        await until(host, has_call("connector"))
        scope.cancel()
        report = await until(host, lambda report: not report.calls)
        [failure] = report.failures
        place = f"{__file__}:{line_of('# here it waits')} in Tiny.get"
        assert (failure.kind, failure.status, failure.place) == ("client", "CANCELLED", place)
        assert failure.error.startswith("no answer to get tiny task: its client left after ")
        [job] = report.jobs
        assert (job.polls, job.failed_polls, job.trouble, job.place) == (1, 1, 3, place)


async def test_retries_are_counted():
    tiny = Tiny()
    async with hosting(tiny, poll_retry=PATIENCE) as (host, stub, tasks):
        await stub.create_task(creation())
        tiny.error = ConnectionError("no route")
        tasks.start_soon(stub.get_task, request())
        report = await until(host, lambda report: report.calls and report.calls[0].retries)
        tiny.error = None
        await until(host, lambda report: not report.calls)
        report = await host.report()
        [job], [connector] = report.jobs, report.connectors
        assert job.retries == connector.retries >= 1
        assert (job.failed_polls, report.failures) == (0, [])


async def test_a_call_that_waited_for_a_slot_is_not_the_vendors_fault():
    tiny = Tiny()
    async with hosting(tiny, max_calls_per_connector=1, get_limit=6) as (host, stub, clients):
        await stub.create_task(creation())
        tiny.waits = True
        clients.start_soon(stub.get_task, request())
        await until(host, lambda report: len(report.calls) == 1)
        # its time is up before the first one gives its slot back; the answer comes shortly before, by a share of it
        clients.start_soon(partial(stub.get_task, request(), timeout=3))
        report = await until(host, lambda report: not report.calls and report.jobs[0].failed_polls == 2)
        kinds = {(each.kind, each.place.endswith("in Tiny.get")) for each in report.failures}
        assert kinds == {("vendor", True), ("host", False)}
        assert [each.failures for each in report.incidents] == [1]
        assert report.jobs[0].absorbed == 2


async def test_since_when_and_why_is_told_of_each_task():
    tiny = Tiny()
    async with hosting(tiny) as (host, stub, _):
        await stub.create_task(creation())
        tiny.error = ValueError("boom")
        for _ in range(2):
            with pytest.raises(GRPCError):
                await stub.get_task(request())
        report = await host.report()
        [failure], [job], [attention] = report.failures, report.jobs, report.attention
        assert (failure.similar, job.cause) == (1, "connector")
        assert failure.first < failure.at
        assert attention.since == failure.first
