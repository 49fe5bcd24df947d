"""Jobs from the queue to their end: limits, deletion, restarts, killed hosts, several hosts."""

from __future__ import annotations

import threading
import weakref
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import pyarrow.parquet as pq
import pytest
import structlog
from anyio import to_thread

from connectors.duckdb_tasks import (
    ENDLESS,
    STREAM,
    create,
    delete,
    doomed_host,
    end,
    eventually,
    home_of,
    log_pages,
    log_text,
    opened,
    run,
    state,
    thread_freed,
    until,
    wait_for,
)
from connectrio import Phase
from connectrio.connector.base import ResourceMetaError
from connectrio.connector.failures import UnknownJobError
from connectrio.connectors.duckdb import DuckDBConnector, DuckDBJob, DuckDBSettings, _jobs
from connectrio.connectors.duckdb._connector import _Submission
from connectrio.connectors.duckdb._session import Session
from connectrio.connectors.duckdb._store import JobStore

UNKNOWN = DuckDBJob("0" * 32)

# seconds; only ends a test that fails
PATIENCE = 30


def jobs_of(home: Path) -> list[DuckDBJob]:
    """Return every job in a store."""
    return [DuckDBJob(path.parent.name) for path in (home / "jobs").glob("*/record.json")]


async def create_one(connector, job):
    return await create(connector, "/nowhere", "SELECT 1")


@pytest.fixture
def home(tmp_path):
    return home_of(tmp_path)


async def test_create_returns_while_the_query_runs(home, tmp_path):
    async with opened(home) as connector:
        job = await create(connector, tmp_path, ENDLESS)
        assert (await state(connector, job)).phase in (Phase.QUEUED, Phase.RUNNING)
        assert DuckDBJob.decode(job.encode()) == job
        resource = await until(connector, job, Phase.RUNNING)
        assert resource.outputs is None
        await delete(connector, job)


async def test_progress_is_seen_while_the_query_runs_and_never_printed(home, tmp_path, capfd):
    async with opened(home) as connector:
        job = await create(connector, tmp_path, f"SET progress_bar_time = 0; {ENDLESS}")
        resource = await wait_for(connector, job, lambda resource: resource.custom_info.get("progress", 0) > 1)
        assert resource.phase is Phase.RUNNING
        assert resource.custom_info["progress"] <= 100
        await delete(connector, job)
        assert "progress" not in (await state(connector, job)).custom_info
    assert capfd.readouterr() == ("", "")


async def test_progress_is_that_of_all_statements(home, tmp_path):
    async with opened(home) as connector:
        job = await create(connector, tmp_path, f"SELECT 1; SELECT 2; SELECT 3; {ENDLESS}")
        resource = await wait_for(connector, job, lambda resource: resource.custom_info.get("progress", 0) > 75)
        assert resource.phase is Phase.RUNNING
        assert resource.custom_info["progress"] < 100
        await delete(connector, job)


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS,
        STREAM,
        f"CREATE TABLE t AS {ENDLESS}",
        f"SELECT 1; {ENDLESS}; SELECT 2",
        f"EXPLAIN ANALYZE {ENDLESS}",
        "FROM range(1000000000) ORDER BY hash(range)",
    ],
)
async def test_delete_interrupts_whatever_runs(home, tmp_path, sql):
    async with opened(home) as connector:
        job = await create(connector, tmp_path / "out", sql)
        await until(connector, job, Phase.RUNNING)
        await delete(connector, job)
        assert (await state(connector, job)).phase is Phase.ABORTED
        await thread_freed(connector)
        assert not list((tmp_path / "out").glob("*"))
        assert not list((tmp_path / "out").glob(".*"))
        assert (await state(connector, job)).message == "the query was deleted before it had ended"


async def test_an_interrupt_between_two_statements_is_not_lost(home, tmp_path):
    script = "; ".join([*["SELECT 1"] * 20000, ENDLESS])
    async with opened(home) as connector:
        job = await create(connector, tmp_path, script)
        await until(connector, job, Phase.RUNNING)
        await delete(connector, job)
        await thread_freed(connector)


async def test_delete_again_of_an_ended_and_of_an_unknown_job_does_nothing(home, tmp_path):
    async with opened(home) as connector:
        done = await create(connector, tmp_path, "SELECT 1 AS one")
        await until(connector, done, Phase.SUCCEEDED)
        gone = await create(connector, tmp_path / "gone", ENDLESS)
        for job in (done, gone, gone, UNKNOWN):
            await delete(connector, job)
        assert (await state(connector, done)).phase is Phase.SUCCEEDED
        assert (await state(connector, gone)).phase is Phase.ABORTED
        with pytest.raises(UnknownJobError):
            await state(connector, UNKNOWN)


async def test_queries_beyond_the_limit_wait_and_say_so(home, tmp_path):
    async with opened(home, max_running=1) as connector:
        first, second, third = [await create(connector, tmp_path / name, ENDLESS) for name in "abc"]
        await until(connector, first, Phase.RUNNING)
        for job, place in ((second, "next in line"), (third, "behind 1 more")):
            resource = await state(connector, job)
            assert resource.phase is Phase.QUEUED
            assert resource.message.startswith(f"queued, {place}: ")
            assert "at most 1 at once (CONNECTRIO_DUCKDB_MAX_RUNNING)" in resource.message
            assert "started_at" not in resource.custom_info

        await delete(connector, second)
        assert (await state(connector, second)).phase is Phase.ABORTED
        await delete(connector, first)
        await until(connector, third, Phase.RUNNING)
        await delete(connector, third)
        assert not any("started" in line for line in await log_text(connector, second))


@pytest.mark.parametrize("custom", [None, {"database": "x.db"}], ids=["a slot", "a database file"])
async def test_a_query_deleted_in_the_queue_leaves_it_with_its_memory(home, tmp_path, monkeypatch, custom):
    tasks = []

    class Submission(_Submission):
        def __init__(self, task):
            tasks.append(weakref.ref(task))
            super().__init__(task)

    monkeypatch.setattr("connectrio.connectors.duckdb._connector._Submission", Submission)
    if custom is not None:
        custom = {"database": str(tmp_path / "x.db")}
    async with opened(home, max_running=1 if custom is None else 2) as connector:
        running = await create(connector, tmp_path / "a", ENDLESS, custom=custom)
        await until(connector, running, Phase.RUNNING)
        waiting = await create(connector, tmp_path / "b", f"SELECT 1 -- {'x' * 10_000}", custom=custom)
        live = connector._open.jobs._live
        session = live[waiting.job_id]._session
        assert len(session._request) > 10_000

        async def is_forgotten() -> bool:  # the thread that recorded it forgets it a little later
            return tasks[1]() is None

        await eventually(is_forgotten)
        await delete(connector, waiting)
        assert session._request == b""

        async def has_left() -> bool:
            return list(live) == [running.job_id]

        await eventually(has_left)
        assert (await state(connector, running)).phase is Phase.RUNNING
        assert (await state(connector, waiting)).phase is Phase.ABORTED
        await delete(connector, running)
        assert (await run(connector, tmp_path / "c", "SELECT 1", custom=custom)).phase is Phase.SUCCEEDED


async def test_as_many_queries_as_allowed_run_at_once(home, tmp_path):
    async with opened(home, max_running=3) as connector:
        jobs = [await create(connector, tmp_path / str(number), ENDLESS) for number in range(4)]
        for job in jobs[:3]:
            await until(connector, job, Phase.RUNNING)
        assert (await state(connector, jobs[3])).phase is Phase.QUEUED
        for job in jobs:
            await delete(connector, job)


@asynccontextmanager
async def occupied_host_threads():
    """Leave the host one worker thread."""
    limiter = to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    try:
        yield
    finally:
        limiter.total_tokens = before


async def test_queries_take_none_of_the_hosts_threads(home, tmp_path):
    async with opened(home, max_running=2) as connector, occupied_host_threads():
        jobs = [await create(connector, tmp_path / name, ENDLESS) for name in "abc"]
        for job in jobs[:2]:
            await until(connector, job, Phase.RUNNING)
        for job in jobs:
            await delete(connector, job)


async def test_the_event_loop_goes_on_while_queries_run(home, tmp_path):
    async with opened(home) as connector:
        job = await create(connector, tmp_path, ENDLESS)
        await until(connector, job, Phase.RUNNING)
        with anyio.fail_after(PATIENCE):  # a query that held Python's lock would hold it for minutes
            for _ in range(100):
                await anyio.sleep(0.001)
        await delete(connector, job)


async def test_a_query_outlives_the_call_that_created_it(home, tmp_path):
    async with opened(home) as connector:
        async with anyio.create_task_group() as call:
            job = await create(connector, tmp_path, "SELECT count(*) AS n FROM range(50000000)")
            call.cancel_scope.cancel()
        assert (await end(connector, job)).phase is Phase.SUCCEEDED


@contextmanager
def paused_add(monkeypatch):
    """Hold every job before it is recorded. Yield an event that is set then, and one that lets it go on."""
    entered, go_on = threading.Event(), threading.Event()
    add = JobStore.add

    def paused(*args):
        entered.set()
        assert go_on.wait(PATIENCE)
        add(*args)

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "add", paused)
        try:
            yield entered, go_on
        finally:
            go_on.set()


async def test_a_cancelled_create_leaves_no_job_that_would_run(home, tmp_path, monkeypatch):
    async with opened(home) as connector:
        with paused_add(monkeypatch) as (entered, go_on):
            async with anyio.create_task_group() as calls:
                calls.start_soon(create, connector, tmp_path / "out", ENDLESS)
                await to_thread.run_sync(entered.wait)
                calls.cancel_scope.cancel()
            go_on.set()
        await eventually(partial(to_thread.run_sync, jobs_of, home))
        [job] = jobs_of(home)
        assert (await end(connector, job)).phase is Phase.ABORTED
        assert not (tmp_path / "out").exists()


class CancellingEvent:
    """An event that cancels its waiters' scope when it is set."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._event, self._scope = anyio.Event(), scope
        self.wait = self._event.wait

    def set(self) -> None:
        self._event.set()
        self._scope.cancel()


async def test_a_create_cancelled_at_the_last_moment_returns_its_job_or_leaves_none(home, tmp_path, monkeypatch):
    returned = []

    async def call():
        returned.append(await create(connector, tmp_path / "out", ENDLESS))

    class Submission(_Submission):
        def __init__(self, task):
            super().__init__(task)
            self.recorded = CancellingEvent(calls.cancel_scope)

    monkeypatch.setattr("connectrio.connectors.duckdb._connector._Submission", Submission)
    async with opened(home) as connector:
        async with anyio.create_task_group() as calls:
            calls.start_soon(call)
        assert returned in ([], jobs_of(home))
        if returned:
            await until(connector, returned[0], Phase.RUNNING)
            await delete(connector, returned[0])
        await until(connector, jobs_of(home)[0], Phase.ABORTED)
        await thread_freed(connector)


async def test_a_bug_fails_the_job_and_not_the_host(home, tmp_path, monkeypatch):
    def broken(*args):
        raise KeyError("bug")

    async with opened(home) as connector:
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr(Session, "run", broken)
            resource = await run(connector, tmp_path, "SELECT 1")
        assert (resource.phase, resource.message) == (
            Phase.RETRYABLE_FAILED,
            "error in the DuckDB connector: KeyError: 'bug'",
        )
        assert [entry["log_level"] for entry in logs] == ["error"]
        assert (await run(connector, tmp_path, "SELECT 1")).phase is Phase.SUCCEEDED


async def test_a_job_that_cannot_be_recorded_is_an_error_and_leaves_nothing(home, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    async with opened(home) as connector:
        with monkeypatch.context() as patch:
            patch.setattr(JobStore, "save", full)
            with pytest.raises(OSError, match="No space left"):
                await create(connector, tmp_path, "SELECT 1")
        assert jobs_of(home) == []
        assert (await run(connector, tmp_path, "SELECT 1")).phase is Phase.SUCCEEDED


async def test_a_query_whose_end_cannot_be_recorded_is_still_reported_by_its_host(home, tmp_path, monkeypatch):
    async with opened(home) as connector:
        job = await create(connector, tmp_path, ENDLESS)
        await until(connector, job, Phase.RUNNING)
        with monkeypatch.context() as patch:
            patch.setattr(JobStore, "save", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
            await delete(connector, job)
            await thread_freed(connector)
        assert (await state(connector, job)).phase is Phase.ABORTED


async def test_results_are_still_there_after_a_restart(home, tmp_path):
    async with opened(home) as connector:
        job = await create(connector, tmp_path, "SELECT 1 AS one, 'ü' AS text")
        before = await until(connector, job, Phase.SUCCEEDED)
        lines = await log_pages(connector, job)
        metrics = connector.get_metrics(job)
    async with opened(home) as connector:
        assert await state(connector, job) == before
        assert await log_pages(connector, job) == lines
        assert connector.get_metrics(job) == metrics
        assert pq.read_table(before.outputs["result"].uri).to_pylist() == [{"one": 1, "text": "ü"}]


async def test_stopping_the_host_interrupts_and_records_it(home, tmp_path, monkeypatch):
    monkeypatch.setattr(_jobs, "STOP_SECONDS", PATIENCE)
    async with opened(home, max_running=1) as connector:
        running, queued = [await create(connector, tmp_path / name, ENDLESS) for name in "ab"]
        await until(connector, running, Phase.RUNNING)
        [job, _] = connector._open.jobs._jobs().values()
        assert job.running
    assert not job.running  # so it was not abandoned
    async with opened(home) as connector:
        for job in (running, queued):
            resource = await state(connector, job)
            assert resource.phase is Phase.RETRYABLE_FAILED
            assert resource.message.startswith("the host was stopped before the query had ended")
            assert resource.outputs is None
    assert not list(tmp_path.glob("[ab]/*"))


async def test_a_cancelled_host_stops_in_order_as_well(home, tmp_path):
    async with anyio.create_task_group() as host, opened(home) as connector:
        job = await create(connector, tmp_path, ENDLESS)
        await until(connector, job, Phase.RUNNING)
        host.cancel_scope.cancel()
        await anyio.sleep_forever()
    assert not list((home / "hosts").iterdir())
    async with opened(home) as connector:
        assert (await state(connector, job)).message.startswith("the host was stopped")


@pytest.mark.parametrize("sql", [STREAM, ENDLESS])
async def test_a_query_whose_host_was_killed_is_to_be_tried_again(home, tmp_path, anyio_backend, sql):
    prefix = tmp_path / "out"
    async with doomed_host(anyio_backend, home, prefix, sql) as (process, job):
        process.kill()
        process.wait()
        assert list(prefix.glob(".*.tmp"))
        async with opened(home) as connector:
            resource = await state(connector, job)
            assert resource.phase is Phase.RETRYABLE_FAILED
            assert str(process.pid) in resource.message
            assert "died before the query ended" in resource.message
            assert (await log_text(connector, job))[-1] == resource.message
            assert not list(prefix.iterdir())
            assert len(list((home / "hosts").iterdir())) == 1
            await delete(connector, job)
            assert (await state(connector, job)).phase is Phase.RETRYABLE_FAILED


async def test_a_host_that_lives_on_notices_that_another_died(home, tmp_path, anyio_backend):
    doomed = doomed_host(anyio_backend, home, tmp_path / "out", ENDLESS)
    async with opened(home) as connector, doomed as (process, job):
        assert (await state(connector, job)).phase is Phase.RUNNING
        process.kill()
        process.wait()
        assert (await state(connector, job)).phase is Phase.RETRYABLE_FAILED


async def test_hosts_that_share_a_store_leave_each_others_jobs_alone_and_answer_for_them(home, tmp_path):
    async with opened(home) as one, opened(home) as other:
        job = await create(one, tmp_path, ENDLESS)
        await until(one, job, Phase.RUNNING)
        assert (await state(other, job)).phase is Phase.RUNNING
        async with opened(home):
            assert (await state(one, job)).phase is Phase.RUNNING
        assert (await state(other, job)).phase is Phase.RUNNING
        assert (await log_text(other, job)) == (await log_text(one, job))
        await delete(one, job)
        assert (await state(other, job)).phase is Phase.ABORTED


async def test_a_delete_may_reach_another_host_than_the_one_that_runs_the_query(home, tmp_path):
    async with opened(home) as one, opened(home) as other:
        job = await create(one, tmp_path, ENDLESS)
        await until(one, job, Phase.RUNNING)
        await delete(other, job)
        await until(other, job, Phase.ABORTED)
        await thread_freed(one)
        assert (await state(one, job)).phase is Phase.ABORTED


async def test_old_jobs_are_forgotten_and_their_results_kept(home, tmp_path):
    async with opened(home) as connector:
        job = await create(connector, tmp_path, "SELECT 1 AS one")
        await until(connector, job, Phase.SUCCEEDED)
    async with opened(home, keep=timedelta(microseconds=1)) as connector:
        with pytest.raises(UnknownJobError, match=f"no DuckDB job {job.job_id} under {home}"):
            await state(connector, job)
        with pytest.raises(UnknownJobError):
            await log_pages(connector, job)
    assert pq.read_table(tmp_path / "result.parquet").num_rows == 1


@pytest.mark.parametrize("ask", [create_one, state, delete, log_pages], ids=lambda ask: ask.__name__)
async def test_a_connector_that_is_not_open_says_so(home, ask):
    connector = DuckDBConnector(DuckDBSettings(home=home))
    with pytest.raises(RuntimeError, match=r"not open.*connector\.lifespan\(\)"):
        await ask(connector, UNKNOWN)
    assert not home.exists()


async def test_a_connector_opens_again_but_not_twice(home, tmp_path):
    connector = DuckDBConnector(DuckDBSettings(home=home, allow=(tmp_path,)))
    for _ in range(2):
        async with connector.lifespan():
            with pytest.raises(RuntimeError, match="open already"):
                async with connector.lifespan():
                    pass
            assert (await run(connector, tmp_path, "SELECT 1")).phase is Phase.SUCCEEDED


async def test_a_store_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot keep its jobs in .*/file/x-home: .*; set CONNECTRIO_DUCKDB_HOME"):
        async with opened(tmp_path / "file" / "x-home"):
            pass


async def test_settings_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CONNECTRIO_DUCKDB_HOME", str(tmp_path / "here"))
    async with DuckDBConnector().lifespan():
        assert (tmp_path / "here" / "jobs").is_dir()


@pytest.mark.parametrize(
    "job_id", ["../../etc/passwd", "..", "", "0" * 31, "0" * 33, "g" * 32, "0" * 32 + "\n", "A" * 32, "٣" * 32]
)
def test_an_id_that_is_none_of_ours_is_refused(job_id):
    with pytest.raises(ValueError, match="is not the id of a DuckDB job"):
        DuckDBJob(job_id)
    with pytest.raises(ResourceMetaError, match="is not the id of a DuckDB job"):
        DuckDBJob.decode(b'{"job_id": "%s"}' % job_id.encode().replace(b"\n", b"\\n"))
