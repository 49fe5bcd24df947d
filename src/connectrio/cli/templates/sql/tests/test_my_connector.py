"""The connector in a host, with SQLite. Each test runs on asyncio and on trio."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from connectrio import Phase
from connectrio.conformance import check_connector
from connectrio.testing import GRPCError, Status, Task, hosting

from my_connector import MyConnector

ENDLESS = Task(sql="WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MY_CONNECTOR_DATABASE", str(tmp_path / "test.db"))
    return tmp_path / "test.db"


async def test_the_first_row_is_the_outputs() -> None:
    async with hosting(MyConnector()) as host:
        state = await host.run(Task(sql="SELECT :n * 2 AS twice, 'text' AS word", inputs={"n": 21}))
    assert state.succeeded, state
    assert state.outputs == {"twice": 42, "word": "text"}


async def test_a_change_is_committed(database: Path) -> None:
    async with hosting(MyConnector()) as host:
        assert (await host.run(Task(sql="CREATE TABLE made AS SELECT 1 AS n"))).succeeded
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT n FROM made").fetchall() == [(1,)]


async def test_sql_that_is_wrong() -> None:
    async with hosting(MyConnector()) as host:
        state = await host.run(Task(sql="SELECT * FROM nowhere"))
    assert (state.phase, state.message) == (Phase.FAILED, "no such table: nowhere")


async def test_a_query_is_cancelled() -> None:
    async with hosting(MyConnector()) as host:
        job = await host.create(ENDLESS)
        assert (await job.get()).phase is Phase.RUNNING
        await job.delete()
        await job.delete()  # twice is no error
        assert (await job.get()).phase is Phase.ABORTED


async def test_a_host_that_stops_lets_flyte_try_again() -> None:
    async with hosting(MyConnector()) as host:
        job = await host.create(ENDLESS)
    async with hosting(MyConnector()) as host:
        assert (await host.attach(job.meta).get()).phase is Phase.RETRYABLE_FAILED


async def test_a_host_that_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosting(MyConnector()) as host:
        job = await host.create(ENDLESS)
        monkeypatch.setattr("my_connector.LOST_AFTER", -60)
        assert (await job.get()).phase is Phase.RETRYABLE_FAILED


async def test_an_unknown_query() -> None:
    async with hosting(MyConnector()) as host:
        with pytest.raises(GRPCError, match="no query 'other'") as caught:
            await host.attach(b'{"id":"other"}').get()
    assert caught.value.status is Status.NOT_FOUND


async def test_it_keeps_the_rules() -> None:
    task = Task(sql="SELECT :n * 2 AS twice", inputs={"n": 21})
    report = await check_connector(MyConnector(), task.request("my_task"))
    assert report.findings == []
