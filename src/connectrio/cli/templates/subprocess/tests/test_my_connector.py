"""The connector in a host, with real processes. Each test runs on asyncio and on trio."""

import os
import signal
from pathlib import Path

import pytest
from anyio import sleep
from connectrio import Phase
from connectrio.conformance import check_connector
from connectrio.testing import GRPCError, Status, Task, hosting

from my_connector import MyConnector

TASK = Task(inputs={"steps": 3})
# both of its processes ignore SIGTERM
STUBBORN = ("sh", "-c", "trap '' TERM; sleep 3600 & echo ready; wait")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MY_CONNECTOR_HOME", str(tmp_path))
    return tmp_path


async def test_a_program_from_start_to_end() -> None:
    async with hosting(MyConnector()) as host:
        job = await host.create(TASK)
        state = await job.wait()
        assert state.succeeded, state
        assert state.outputs == {"steps": 3}
        assert await job.logs() == ["step 1", "step 2", "step 3"]


async def test_a_log_page_by_page() -> None:
    async with hosting(MyConnector()) as host:
        job = await host.create(TASK)
        await job.wait()
        page = await job.log_page(lines=2)
        assert [line.message for line in page.lines] == ["step 1", "step 2"]
        rest = await job.log_page(page.token)
    assert ([line.message for line in rest.lines], rest.token) == (["step 3"], "")


async def test_a_program_that_fails() -> None:
    async with hosting(MyConnector(("sh", "-c", "exit 7"))) as host:
        state = await host.run(TASK)
    assert (state.phase, state.message) == (Phase.FAILED, "the program ended with exit code 7")


async def test_cancelling_ends_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("my_connector.PATIENCE", 0.1)
    async with hosting(MyConnector(STUBBORN)) as host:
        job = await host.create(TASK)
        while not await job.logs():
            await sleep(0.01)
        await job.delete()
        await job.delete()  # twice is no error
        assert (await job.get()).phase is Phase.ABORTED


async def test_the_next_host_finds_the_job() -> None:
    async with hosting(MyConnector()) as host:
        job = await host.create(TASK)
    async with hosting(MyConnector()) as host:
        assert (await host.attach(job.meta).wait()).succeeded


async def test_a_process_that_was_killed(home: Path) -> None:
    async with hosting(MyConnector(STUBBORN)) as host:
        job = await host.create(TASK)
        [group] = home.glob("*/group")
        os.killpg(int(group.read_text()), signal.SIGKILL)
        state = await job.wait()
    assert state.phase is Phase.RETRYABLE_FAILED


@pytest.mark.parametrize("name", ["other", "", "..", "../other"])
async def test_an_unknown_job(name: str, home: Path) -> None:
    (home.parent / "log").touch()
    async with hosting(MyConnector()) as host:
        with pytest.raises(GRPCError, match=f"no job '{name}'") as caught:
            await host.attach(b'{"id":"%s"}' % name.encode()).get()
    assert caught.value.status is Status.NOT_FOUND


async def test_it_keeps_the_rules() -> None:
    report = await check_connector(MyConnector(), TASK.request("my_task"))
    assert report.findings == []
