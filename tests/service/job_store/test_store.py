"""The store on a real PostgreSQL server that fails, refuses, hangs and restarts."""

from __future__ import annotations

import signal
import threading
from contextlib import asynccontextmanager

import anyio
import psycopg
import pytest
from structlog.testing import capture_logs

from connectrio.service.job_identity import JobIdentity
from connectrio.service.job_store import jobs, store
from connectrio.service.job_store.jobs import Answered, Claim
from connectrio.service.job_store.store import JobStore, JobStoreAwayError
from service.harness import PATIENCE
from service.job_store.servers import PASSWORD, QUOTED

AWAY, BACK = "the job store does not answer", "the job store answers again"
# what is shown of a URL with the password
MASKED = "postgresql://tester:***@127.0.0.1"


def identity(number: int = 0) -> JobIdentity:
    return JobIdentity(key=f"cr-{number}", task=f"t-{number}", attempt=0, declares_outputs=False)


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch):
    """A slow machine is no database that is away."""
    monkeypatch.setattr(store, "_TIMEOUT", PATIENCE)


@asynccontextmanager
async def opened(url):
    found = JobStore(url, lease=3600.0, memory=3600.0)
    await found.open()
    try:
        yield found
    finally:
        await found.aclose()


async def claim(found, number=0):
    return (await found.claim(identity(number), retakes=True, with_earlier=True))[0]


async def eventually(condition) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - threads set no event
            await anyio.sleep(0.01)


@pytest.fixture
def server(postgres):
    postgres.execute("DROP TABLE IF EXISTS connectrio_jobs, connectrio_schema")
    return postgres


async def test_many_at_once_share_few_connections(server):
    async with opened(server.url) as found:
        answers = []

        async def create(number):
            mine = await claim(found, number)
            assert await found.begin(mine, mine.key)
            answers.append(await found.finish(mine, b"%d" % number, "fresh"))

        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(create, number)
        assert sorted(answers, key=int) == [b"%d" % number for number in range(60)]
        [(connections,)] = server.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'connectrio'")
        assert connections <= 5
    threads = [thread for thread in threading.enumerate() if thread.name == "connectrio job store"]
    assert threads == []


async def test_a_server_that_was_restarted_is_used_again(server):
    """All connections are lost, and nobody is told: the next call makes a new one."""
    async with opened(server.url) as found:
        mine = await claim(found)
        await found.finish(mine, b"meta", "fresh")
        server.kill()
        server.start()
        with capture_logs() as logs:
            assert await claim(found) == Answered(b"meta")
        assert AWAY not in [line["event"] for line in logs]


async def test_a_server_that_hangs_holds_nobody_up(server, monkeypatch):
    async with opened(server.url) as found:
        mine = await claim(found)
        monkeypatch.setattr(store, "_TIMEOUT", 0.5)
        server.signal(signal.SIGSTOP)
        try:
            with capture_logs() as logs:
                with pytest.raises(JobStoreAwayError, match=r"no answer within 0.5 s"):
                    await claim(found, 1)
                monkeypatch.setattr(store, "_TIMEOUT", PATIENCE)
                # from now on nobody waits, as would be seen here
                with pytest.raises(JobStoreAwayError, match=r"no answer within 0.5 s"):
                    await claim(found, 2)
                assert not found.is_up
        finally:
            server.signal(signal.SIGCONT)
        await eventually(lambda: found.is_up)
        assert await found.begin(mine, mine.key)
        assert [line["store"].rpartition(":")[0] for line in logs if line["event"] == AWAY] == [MASKED]


async def test_a_server_that_is_down_at_the_start(server, monkeypatch):
    server.stop()
    try:
        with capture_logs() as logs:
            monkeypatch.setattr(store, "_TIMEOUT", 0.5)
            async with opened(server.url) as found:
                assert not found.is_up
                monkeypatch.setattr(store, "_TIMEOUT", PATIENCE)
                with pytest.raises(JobStoreAwayError, match="onnection refused"):
                    await claim(found)
                server.start()
                await eventually(lambda: found.is_up)
                assert isinstance(await claim(found), Claim)
    finally:
        server.stop()
        server.start()
    assert [line["event"] for line in logs if line["event"] in (AWAY, BACK)] == [AWAY, BACK]


async def test_the_password_is_in_no_line(server, monkeypatch):
    monkeypatch.setattr(store, "_TIMEOUT", 5.0)
    wrong = server.url.replace(QUOTED, f"{QUOTED}X")
    with capture_logs() as logs:
        async with opened(wrong) as found:
            assert "password authentication failed" in found.why_away
        monkeypatch.setattr(store, "_TIMEOUT", 0.5)
        async with opened(server.url.replace("/postgres", "/nowhere?x=%zz")) as found:
            assert not found.is_up
    assert len([line for line in logs if line["event"] == AWAY]) == 2
    assert PASSWORD not in str(logs)
    assert QUOTED not in str(logs)


@pytest.mark.parametrize("by", ["variable", "password file", "service"])
async def test_the_password_comes_by_libpqs_means(server, monkeypatch, tmp_path, by):
    url = server.plain_url
    port = url.rpartition(":")[2].partition("/")[0]
    if by == "variable":
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
    elif by == "password file":
        secret = tmp_path / "pgpass"
        secret.write_text(f"*:*:*:tester:{PASSWORD}\n")
        secret.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(secret))
    else:
        services = tmp_path / "services"
        services.write_text(f"[jobs]\nhost=127.0.0.1\nport={port}\nuser=tester\ndbname=postgres\npassword={PASSWORD}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(services))
        url = "postgresql://?service=jobs"
    async with opened(url) as found:
        assert found.is_up, found.why_away
        assert isinstance(await claim(found), Claim)


async def test_a_user_who_may_not_create_tables(server, monkeypatch):
    """The tables are there, as the documents say."""
    server.execute("DROP ROLE IF EXISTS poor")
    with psycopg.connect(server.url, autocommit=True) as connection:
        for statement in jobs.SCHEMA:
            connection.execute(statement.replace("{bytes}", "BYTEA"))
        connection.execute("INSERT INTO connectrio_schema VALUES (1)")
    server.execute("CREATE ROLE poor LOGIN PASSWORD 'x'")
    try:
        poor = server.plain_url.replace("tester@", "poor:x@")
        server.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON connectrio_jobs, connectrio_schema TO poor")
        async with opened(poor) as found:
            assert found.is_up, found.why_away
            mine = await claim(found)
            assert await found.finish(mine, b"meta", "fresh") == b"meta"
        server.execute("DROP TABLE connectrio_jobs, connectrio_schema")
        monkeypatch.setattr(store, "_TIMEOUT", 5.0)
        async with opened(poor) as found:
            assert "permission denied for schema public" in found.why_away
    finally:
        server.execute("DROP OWNED BY poor")
        server.execute("DROP ROLE poor")
