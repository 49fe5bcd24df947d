"""The reports of a job: state, log, metrics."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from anyio import to_thread
from blockbuster import blockbuster_ctx

from connectors.duckdb_tasks import (
    ENDLESS,
    create,
    delete,
    end,
    eventually,
    home_of,
    log_pages,
    log_text,
    opened,
    run,
    state,
    until,
    wait_for,
)
from connectrio import Phase
from connectrio.connector.failures import UnknownJobError
from connectrio.connectors.duckdb import DuckDBJob
from connectrio.idl.flyteidl2.connector import GetTaskMetricsResponse
from connectrio.idl.flyteidl2.logs.dataplane import LogLineOriginator

METRICS = [
    "rows_read",
    "rows_produced",
    "result_bytes",
    "elapsed_seconds",
    "cpu_seconds",
    "peak_memory_bytes",
    "peak_spilled_bytes",
]


@pytest.fixture
async def connector(tmp_path):
    async with opened(home_of(tmp_path), max_running=1) as connector:
        yield connector


def values(response: GetTaskMetricsResponse) -> dict:
    """Return the value of each metric."""
    return {result.metric: result.data.to_dict()["value"] for result in response.results}


async def test_custom_info_of_a_finished_query(connector, tmp_path):
    sql = "SELECT range AS i, 'x' AS s, [1.5] AS l FROM range(1000)"
    before = datetime.now(UTC)
    job = await create(connector, tmp_path, sql)
    info = dict((await end(connector, job)).custom_info)
    times = [datetime.fromisoformat(info.pop(name)) for name in ("queued_at", "started_at", "finished_at")]
    assert before <= times[0] <= times[1] <= times[2] <= datetime.now(UTC)
    assert info.pop("seconds") == (times[2] - times[1]).total_seconds()
    assert info == {
        "job_id": job.job_id,
        "database": ":memory:",
        "statement_digest": sha256(sql.encode()).hexdigest()[:32],
        "rows": 1000,
        "columns": [
            {"name": "i", "type": "BIGINT"},
            {"name": "s", "type": "VARCHAR"},
            {"name": "l", "type": "DECIMAL(2,1)[]"},
        ],
        "result": f"{tmp_path}/result.parquet",
    }


async def test_custom_info_of_a_running_query_grows(connector, tmp_path):
    job = await create(connector, tmp_path, ENDLESS)
    first = await until(connector, job, Phase.RUNNING)
    assert {"finished_at", "rows", "columns", "result"}.isdisjoint(first.custom_info)
    seconds = first.custom_info["seconds"]
    await wait_for(connector, job, lambda resource: resource.custom_info["seconds"] > seconds)
    await delete(connector, job)


async def test_messages(connector, tmp_path):
    assert (await run(connector, tmp_path, "SELECT 1")).message.startswith("1 row, ")
    result = await run(connector, tmp_path, "FROM range(3)")
    assert (
        result.message == f"3 rows, {(tmp_path / 'result.parquet').stat().st_size} bytes in {tmp_path}/result.parquet"
    )
    assert (await run(connector, tmp_path, "CREATE TABLE t AS FROM range(3)", outputs=())).message == "3 rows changed"
    assert (await run(connector, tmp_path, "SET TimeZone = 'UTC'", outputs=())).message == "done"


async def test_the_log_tells_the_life_of_a_query(connector, tmp_path):
    sql = "SELECT $secret AS s"
    before = datetime.now(UTC)
    job = await create(connector, tmp_path, sql, {"secret": "hunter2"})
    await until(connector, job, Phase.SUCCEEDED)
    lines, token = await log_pages(connector, job)
    assert token == ""
    digest = sha256(sql.encode()).hexdigest()[:32]
    queued, started, finished = (line.message for line in lines)
    assert queued == f"queued: statement {digest} on :memory:"
    assert re.fullmatch(rf"started after \d+\.\d s in the queue: statement {digest}", started)
    assert finished.startswith("finished after ")
    assert finished.endswith(
        f" s: 1 row, {(tmp_path / 'result.parquet').stat().st_size} bytes in {tmp_path}/result.parquet"
    )
    times = [line.timestamp.to_datetime() for line in lines]
    moments = [before, *times, datetime.now(UTC)]
    assert moments == sorted(moments)
    assert {line.originator for line in lines} == {LogLineOriginator.SYSTEM}
    stored = b"".join(path.read_bytes() for path in (home_of(tmp_path)).rglob("*") if path.is_file())
    assert b"hunter2" not in stored


async def test_the_log_has_an_error_line_by_line(connector, tmp_path):
    job = await create(connector, tmp_path, "SELECT 1 +\n'x'::INTEGER")
    message = (await until(connector, job, Phase.FAILED)).message
    log = await log_text(connector, job)
    assert log[2].startswith("failed after ")
    assert log[2].endswith(message.splitlines()[0])
    assert log[3:] == [line for line in message.splitlines()[1:] if line]


async def test_the_log_has_progress_in_steps(connector, tmp_path):
    job = await create(connector, tmp_path, ENDLESS)

    async def noted() -> bool:
        return any("progress" in line for line in await log_text(connector, job))

    await eventually(noted)
    await delete(connector, job)
    progress = [line for line in await log_text(connector, job) if "progress" in line]
    assert all(line.startswith("progress: ") and line.endswith(" %") for line in progress)
    assert len(progress) <= 10


async def test_the_log_of_a_running_query_ends_with_a_token_to_go_on_from(connector, tmp_path):
    job = await create(connector, tmp_path, ENDLESS)
    await until(connector, job, Phase.RUNNING)
    lines, token = await log_pages(connector, job)
    assert token == str(len(lines))
    await delete(connector, job)
    later, rest_token = await log_pages(connector, job, token)
    assert later[-1].message.startswith("aborted after ")
    assert rest_token == ""
    assert (await log_pages(connector, job))[0] == lines + later


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_pages_make_up_the_log(connector, tmp_path, size):
    job = await create(connector, tmp_path, "SELECT 1")
    await until(connector, job, Phase.SUCCEEDED)
    pages, token = [], None
    while token != "":
        page, token = await log_pages(connector, job, token or "", size)
        assert len(page) <= size
        pages += page
    assert [line.message for line in pages] == await log_text(connector, job)


async def test_long_logs_come_in_several_messages(connector, tmp_path):
    job = await create(connector, tmp_path, "SELECT error(repeat('line\n', 500))")
    await until(connector, job, Phase.FAILED)
    sizes = [len(response.body.lines) async for response in connector.get_logs(job) if response.body]
    assert sum(sizes) > 500
    assert max(sizes) <= 100


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "٣", " 1"])
async def test_a_token_that_is_none_is_an_error(connector, tmp_path, token):
    job = await create(connector, tmp_path, "SELECT 1")
    with pytest.raises(ValueError, match="is not a token of a DuckDB job's log"):
        await log_pages(connector, job, token)


async def test_a_token_beyond_the_end_gives_no_lines(connector, tmp_path):
    job = await create(connector, tmp_path, "SELECT 1")
    await until(connector, job, Phase.SUCCEEDED)
    assert await log_pages(connector, job, "9" * 30, 2**64 - 1) == ([], "")


async def test_metrics_of_a_finished_query(connector, tmp_path):
    source = (await run(connector, tmp_path / "in", "FROM range(100000)")).outputs["result"]
    sql = "CREATE TABLE t AS FROM read_parquet($df); SELECT DISTINCT range % 10 AS d FROM t"
    job = await create(connector, tmp_path, sql, {"df": source})
    info = (await until(connector, job, Phase.SUCCEEDED)).custom_info
    metrics = values(connector.get_metrics(job))
    assert list(metrics) == METRICS
    assert metrics["rows_read"] == 200000
    assert metrics["rows_produced"] == 10
    assert metrics["result_bytes"] == (tmp_path / "result.parquet").stat().st_size
    assert metrics["elapsed_seconds"] == info["seconds"]
    assert metrics["cpu_seconds"] > 0
    assert metrics["peak_memory_bytes"] > 100000
    assert metrics["peak_spilled_bytes"] == 0


async def test_memory_that_is_spilled_is_seen_and_gone_afterwards(tmp_path):
    sql = "SELECT count(*) FROM (FROM range(5000000) ORDER BY hash(range) LIMIT 4999999)"
    async with opened(home_of(tmp_path), memory_limit=40 * 10**6) as connector:
        job = await create(connector, tmp_path, sql)
        resource = await end(connector, job)
        assert resource.phase is Phase.SUCCEEDED, resource.message
        assert values(connector.get_metrics(job))["peak_spilled_bytes"] > 0
    assert not (home_of(tmp_path) / "jobs" / job.job_id / "spill").exists()


async def test_metrics_of_a_running_query_are_those_known_so_far(connector, tmp_path):
    job = await create(connector, tmp_path, ENDLESS)
    await until(connector, job, Phase.RUNNING)
    metrics = values(connector.get_metrics(job))
    assert metrics.pop("elapsed_seconds") > 0
    assert set(metrics.values()) == {None}
    await delete(connector, job)


async def test_metrics_of_a_query_that_turns_profiling_off(tmp_path):
    async with opened(home_of(tmp_path), unsafe_sql=True) as connector:
        job = await create(connector, tmp_path, "PRAGMA disable_profiling; FROM range(3)")
        await until(connector, job, Phase.SUCCEEDED)
        assert values(connector.get_metrics(job))["rows_produced"] == 3


async def test_metrics_are_selected_by_name(connector, tmp_path):
    job = await create(connector, tmp_path, "FROM range(3)")
    await until(connector, job, Phase.SUCCEEDED)
    response = connector.get_metrics(job, queries=["rows_produced", "elapsed_seconds"])
    assert [result.metric for result in response.results] == ["rows_produced", "elapsed_seconds"]
    assert response.results[0].data.to_dict() == {"value": 3, "unit": "rows"}
    with pytest.raises(ValueError, match="no metric 'rows'; there are: rows_read, rows_produced"):
        connector.get_metrics(job, queries=["rows_produced", "rows"])


async def test_a_job_that_nobody_knows_is_an_error_that_says_so(connector, tmp_path):
    unknown = DuckDBJob("0" * 32)
    for ask in (
        lambda: state(connector, unknown),
        lambda: to_thread.run_sync(connector.get_metrics, unknown),
        lambda: log_pages(connector, unknown),
    ):
        with pytest.raises(UnknownJobError, match=f"there is no DuckDB job {unknown.job_id} under {home_of(tmp_path)}"):
            await ask()


async def test_nothing_blocks_the_event_loop(tmp_path):
    with blockbuster_ctx():
        async with opened(home_of(tmp_path), keep=timedelta(days=1)) as connector:
            job = await create(connector, tmp_path, ENDLESS)
            await until(connector, job, Phase.RUNNING)
            await log_text(connector, job)
            await delete(connector, job)
            assert (await run(connector, tmp_path, "SELECT 1 AS one")).phase is Phase.SUCCEEDED
