"""The process of each query: what it may use, what ends it, and what its end does to the job and to the host."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import structlog
from anyio import to_thread
from grpclib.const import Status
from structlog.testing import capture_logs

from connectors.duckdb_tasks import (
    ENDLESS,
    create,
    delete,
    doomed_host,
    end,
    eventually,
    home_of,
    opened,
    run,
    state,
    task,
    thread_freed,
    until,
    wait_for,
)
from connectrio import Phase
from connectrio.connectors.duckdb import QueueFullError, TaskError, _jobs, _session
from connectrio.connectors.duckdb._program import Request

# a signal without a name
REAL_TIME = 40

linux = pytest.mark.skipif(sys.platform != "linux", reason="it needs Linux's /proc")


@pytest.fixture
async def connector(tmp_path):
    async with opened(home_of(tmp_path), max_running=1) as connector:
        yield connector


def process_of(connector, job):
    """Return the process of a running query."""
    return connector._open.jobs._live[job.job_id]._session._process


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started for queries."""
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    # not those that are still a copy of the host
    return [int(child) for child in chain(*lists) if b"_program.py" in Path(f"/proc/{child}/cmdline").read_bytes()]


def files_of(pid: int) -> dict[int, str]:
    """Return what each descriptor of a process is."""
    return {int(path.name): str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM, REAL_TIME])
async def test_a_process_that_dies_costs_its_job_alone(connector, tmp_path, number):
    job = await create(connector, tmp_path, ENDLESS)
    await until(connector, job, Phase.RUNNING)

    async def started() -> bool:
        return process_of(connector, job) is not None

    await eventually(started)
    process = process_of(connector, job)
    name = "signal 40" if number == REAL_TIME else signal.Signals(number).name
    with capture_logs() as lines:
        process.send_signal(number)
        resource = await end(connector, job)
        await thread_freed(connector)
    assert resource.phase is Phase.RETRYABLE_FAILED
    assert resource.message.startswith(f"the process that ran the query was killed by {name}")
    (line,) = [line for line in lines if line["event"] == "a DuckDB query was cut short"]
    assert line["log_level"] == "warning"
    assert line["job"] == job.job_id
    assert line["error"] == resource.message
    assert line["pid"] == process.pid
    assert line["signal"] == name
    assert line["seconds"] > 0
    assert (await run(connector, tmp_path, "SELECT 1")).phase is Phase.SUCCEEDED


async def test_an_expression_that_overflows_the_stack_costs_its_job_alone(tmp_path):
    async with opened(home_of(tmp_path), unsafe_sql=True) as connector:
        sql = f"SET max_expression_depth = 10000000; FROM query('SELECT {'1+' * 500_000}1')"
        resource = await run(connector, tmp_path, sql)
        assert resource.phase is Phase.RETRYABLE_FAILED
        assert "SIGSEGV" in resource.message
        assert (await run(connector, tmp_path, "SELECT 1")).phase is Phase.SUCCEEDED


@linux
async def test_memory_that_duckdb_does_not_count_is_limited_too(tmp_path):
    async with opened(home_of(tmp_path), memory_limit=64 * 2**20) as connector:
        resource = await run(connector, tmp_path, "SELECT length(repeat('x', 3000000000))")
        assert resource.phase is Phase.RETRYABLE_FAILED
        assert (await run(connector, tmp_path, "SELECT length(repeat('x', 30000000))")).phase is Phase.SUCCEEDED


async def test_a_query_that_waits_for_ever_gives_its_place_back(connector, tmp_path):
    os.mkfifo(tmp_path / "fifo.csv")
    job = await create(connector, tmp_path / "out", f"FROM read_csv('{tmp_path}/fifo.csv')")
    await until(connector, job, Phase.RUNNING)
    await delete(connector, job)
    assert (await state(connector, job)).phase is Phase.ABORTED
    await thread_freed(connector)
    assert (await run(connector, tmp_path, "SELECT 1")).phase is Phase.SUCCEEDED


@pytest.mark.parametrize(("timeout", "time_limit"), [(0.5, 3600), (3600, 0.5), (None, 0.5)])
async def test_a_query_ends_at_the_lower_of_both_time_limits(tmp_path, timeout, time_limit):
    async with opened(home_of(tmp_path), time_limit=time_limit) as connector:
        job = await connector.create(task(ENDLESS, timeout and {"timeout": timeout}), str(tmp_path))
        with capture_logs() as lines:
            resource = await end(connector, job)
            await thread_freed(connector)
        (line,) = [line for line in lines if line["event"] == "a DuckDB query was cut short"]
        assert (line["job"], line["error"], line["signal"]) == (job.job_id, resource.message, "SIGKILL")
        assert resource.phase is Phase.FAILED
        assert resource.message.startswith("the query was ended because it ran for more than 0.5 s: see `timeout`")


async def test_a_query_that_keeps_its_time_limit_succeeds(connector, tmp_path):
    assert (await run(connector, tmp_path, "SELECT 1", custom={"timeout": 3600})).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("timeout", [0, -1, "10", True, float("nan"), float("inf"), [1]])
async def test_a_time_limit_that_is_none_is_refused(connector, tmp_path, timeout):
    with pytest.raises(TaskError, match=r"has timeout=.* it must be a number of seconds, more than 0"):
        await create(connector, tmp_path, "SELECT 1", custom={"timeout": timeout})


@linux
async def test_a_process_has_nothing_of_its_host(tmp_path, monkeypatch):
    monkeypatch.setenv("VENDOR_TOKEN", "hunter2")
    read, write = os.pipe()
    os.set_inheritable(read, True)
    try:
        async with opened(home_of(tmp_path), unsafe_sql=True) as connector:
            resource = await run(connector, tmp_path / "out", "FROM read_blob('/proc/self/environ')")
            assert resource.phase is Phase.SUCCEEDED, resource.message
            [row] = pq.read_table(resource.outputs["result"].uri).to_pylist()
            names = {entry.partition(b"=")[0].decode() for entry in row["content"].split(b"\0") if entry}
            assert names <= {*_session._VARIABLES, "PYTHONPATH"}

            job = await create(connector, tmp_path / "out", ENDLESS)
            await until(connector, job, Phase.RUNNING)
            await eventually(partial(to_thread.run_sync, children_of, os.getpid()))
            [child] = children_of(os.getpid())
            files = files_of(child)
            assert files_of(os.getpid())[read] not in files.values()
            assert not any(name.startswith(("socket:", "anon_inode:")) for name in files.values())
    finally:
        os.close(read)
        os.close(write)


@linux
async def test_no_process_outlives_its_host(tmp_path, anyio_backend):
    async with doomed_host(anyio_backend, home_of(tmp_path), tmp_path / "out", ENDLESS) as (host, _):
        await eventually(partial(to_thread.run_sync, children_of, host.pid))
        [child] = children_of(host.pid)
        assert is_alive(child)
        host.kill()
        host.wait()

        async def gone() -> bool:
            return not is_alive(child)

        await eventually(gone)


def test_a_process_ends_when_its_input_does(tmp_path):
    request = Request(
        statement=ENDLESS,
        inputs={},
        refused={},
        database=":memory:",
        spill=None,
        memory_limit="1GiB",
        allowed=[],
        file=str(tmp_path / "result"),
        wanted=False,
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(_session._COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        process.stdin.write(pickle.dumps(request))
        process.stdin.flush()
        assert b"progress" in process.stdout.readline()
        process.stdin.close()
        assert process.wait() == -signal.SIGKILL


@linux
async def test_no_process_outlives_the_lifespan(tmp_path):
    async with opened(home_of(tmp_path)) as connector:
        job = await create(connector, tmp_path, ENDLESS)
        await until(connector, job, Phase.RUNNING)
        await eventually(partial(to_thread.run_sync, children_of, os.getpid()))
    assert children_of(os.getpid()) == []


async def test_queries_beyond_the_queue_are_refused(tmp_path, monkeypatch):
    async with opened(home_of(tmp_path), max_running=1, max_queued=2) as connector:
        running = await create(connector, tmp_path / "0", ENDLESS)
        await until(connector, running, Phase.RUNNING)
        waiting = [await create(connector, tmp_path / name, "SELECT 1") for name in "12"]
        with pytest.raises(QueueFullError, match=r"2 DuckDB queries .*CONNECTRIO_DUCKDB_MAX_QUEUED") as refusal:
            await create(connector, tmp_path / "3", "SELECT 1")
        assert refusal.value.status is Status.RESOURCE_EXHAUSTED
        jobs = await to_thread.run_sync(partial(os.listdir, home_of(tmp_path) / "jobs"))
        assert len(jobs) == 3
        await delete(connector, waiting[0])
        monkeypatch.setattr(_jobs, "MAX_QUEUED_BYTES", 5000)
        with pytest.raises(QueueFullError, match="At most 2 "):
            await create(connector, tmp_path / "3", "SELECT $x", {"x": "x" * 5000})
        third = await create(connector, tmp_path / "3", "SELECT 1")
        await delete(connector, running)
        for job in (waiting[1], third):
            assert (await end(connector, job)).phase is Phase.SUCCEEDED
        await create(connector, tmp_path / "4", "SELECT $x", {"x": "x" * 50_000})  # it is alone


PROGRAMS = {
    "pass": "ended with exit code 0",
    "raise SystemExit(3)": "ended with exit code 3",
    "print('{')": "ended with exit code 0",
    'print(\'{"state": "SUPER"}\')': "ended with exit code 0",
    "print('[' * 10**6)": "ended with exit code 0",
    "import os, time; os.close(1); time.sleep(3600)": "closed its output and did not end",
}


@pytest.mark.parametrize(("program", "how"), PROGRAMS.items())
async def test_a_process_that_makes_no_sense_costs_its_job_alone(connector, tmp_path, monkeypatch, program, how):
    monkeypatch.setattr(_session, "END_SECONDS", 0.5 if "sleep" in program else 60)
    with monkeypatch.context() as patch:
        patch.setattr(_session, "_COMMAND", (sys.executable, "-c", program))
        resource = await run(connector, tmp_path, "SELECT 1")
    assert resource.phase is Phase.RETRYABLE_FAILED
    assert resource.message.startswith(f"the process that ran the query {how}")
    assert (await run(connector, tmp_path, "SELECT 1")).phase is Phase.SUCCEEDED


async def test_a_process_that_cannot_be_started_costs_its_job_alone(connector, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_session, "_COMMAND", (str(tmp_path / "nothing"),))
        resource = await run(connector, tmp_path, "SELECT 1")
    assert resource.phase is Phase.RETRYABLE_FAILED
    assert "No such file or directory" in resource.message
    assert (await run(connector, tmp_path, "SELECT 1")).phase is Phase.SUCCEEDED


async def test_a_bug_in_the_program_is_logged_with_its_traceback(connector, tmp_path, monkeypatch):
    program = 'print(\'{"state": "RETRYABLE_FAILED", "message": "m", "bug": "KeyError"}\')'
    monkeypatch.setattr(_session, "_COMMAND", (sys.executable, "-c", program))
    with structlog.testing.capture_logs() as logs:
        resource = await run(connector, tmp_path, "SELECT 1")
    assert (resource.phase, resource.message) == (Phase.RETRYABLE_FAILED, "m")
    assert [(entry["log_level"], entry["exception"]) for entry in logs] == [("error", "KeyError")]


async def test_a_large_request_reaches_the_process(connector, tmp_path):
    resource = await run(connector, tmp_path, "SELECT length($x) AS n", {"x": "x" * 5_000_000})
    assert pq.read_table(resource.outputs["result"].uri).to_pylist() == [{"n": 5_000_000}]


async def test_a_database_whose_query_was_killed_has_what_was_committed(connector, tmp_path):
    custom = {"database": f"{tmp_path}/x.db"}
    sql = f"CREATE TABLE t AS SELECT 1 AS one; BEGIN; INSERT INTO t VALUES (2); CREATE TABLE endless AS {ENDLESS}"
    job = await create(connector, tmp_path, sql, custom=custom)

    await wait_for(connector, job, lambda resource: resource.custom_info.get("progress", 0) >= 75)
    await delete(connector, job)
    resource = await run(connector, tmp_path, "FROM t", custom=custom)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    assert pq.read_table(resource.outputs["result"].uri).to_pylist() == [{"one": 1}]
