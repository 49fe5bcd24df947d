"""The connector in a host, against the fake API. Each test runs on asyncio and on trio."""

import httpx
import pytest
from connectrio.conformance import check_connector
from connectrio.testing import GRPCError, Status, Task, hosting
from fake_service import FakeService

from my_connector import MyConnector


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def connector(service: FakeService) -> MyConnector:
    return MyConnector(httpx.MockTransport(service))


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setenv("MY_CONNECTOR_TOKEN", "a-secret")
    return Task(inputs={"report": "sales"}, secrets={"api_token": "MY_CONNECTOR_TOKEN"})


async def test_a_job_from_start_to_end(connector: MyConnector, task: Task) -> None:
    async with hosting(connector) as host:
        job = await host.create(task)
        state = await job.wait()
        assert state.succeeded, state
        assert state.outputs == {"url": "https://api.example/sales.pdf"}
        assert [link.uri for link in state.log_links] == ["https://api.example/job-0"]
        host.secrets_for_logs = False  # Flyte sends none for logs
        assert await job.logs() == ["making sales"]


async def test_a_job_is_cancelled(connector: MyConnector, service: FakeService, task: Task) -> None:
    async with hosting(connector) as host:
        job = await host.create(task)
        await job.delete()
        await job.delete()  # twice is no error
    assert [each["state"] for each in service.jobs.values()] == ["cancelled"]


async def test_a_busy_api(connector: MyConnector, service: FakeService, task: Task) -> None:
    async with hosting(connector) as host:
        job = await host.create(task)
        service.busy = 2
        assert (await job.wait()).succeeded  # the host tries again, and Flyte sees no error
    assert service.busy == 0


async def test_inputs_that_the_api_refuses(connector: MyConnector, task: Task) -> None:
    async with hosting(connector) as host:
        state = await host.run(Task(secrets=task.secrets))
    assert state.message == "the API refuses the task's inputs: which report?"


async def test_an_unknown_job(connector: MyConnector, task: Task) -> None:
    async with hosting(connector) as host:
        with pytest.raises(GRPCError, match="no job 'other'") as caught:
            await host.attach(b'{"id":"other"}', task).get()
    assert caught.value.status is Status.NOT_FOUND


async def test_it_keeps_the_rules(connector: MyConnector, task: Task) -> None:
    report = await check_connector(connector, task.request("my_task"))
    assert report.findings == []
