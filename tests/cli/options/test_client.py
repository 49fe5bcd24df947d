"""What a command prints does not show the secrets that it sent, whatever the host answers."""

from __future__ import annotations

import pytest

from connectrio.cli.options.client import Client
from connectrio.client.jobs import LogReader
from connectrio.idl.flyteidl2.connector import (
    CreateTaskRequest,
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskMetricsResponse,
    GetTaskResponse,
    Resource,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import Connection, ExecutionMetricResult
from connectrio.rpc import GRPCError, Status


class Telling:
    """A host that tells all that it knows: the stub of its service."""

    def __init__(self, error=None):
        self.error = error

    def _answer(self, answer):
        if self.error is not None:
            raise self.error
        return answer

    async def get_task(self, request, *, timeout):
        return self._answer(GetTaskResponse(resource=Resource(message="for hunter2")))

    async def get_task_metrics(self, request, *, timeout, metadata):
        return self._answer(GetTaskMetricsResponse(results=[ExecutionMetricResult(metric="hunter2")]))

    async def create_task(self, request, *, timeout):
        return self._answer(None)

    delete_task = create_task

    async def get_task_logs(self, request, *, metadata):
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=["key: hunter2"]))
        self._answer(None)


@pytest.fixture
def jobs(monkeypatch):
    """Returns the calls to such a host, as a command has them."""

    def make(secrets, error=None):
        monkeypatch.setattr("connectrio.cli.options.client.AsyncConnectorServiceStub", lambda _: Telling(error))
        connection = None if secrets is None else Connection(secrets=secrets)
        return Client().jobs(None, TaskCategory(name="toy"), connection)

    return make


async def test_answers(jobs):
    found = jobs({"token": "hunter2"})
    assert (await found.get(b"")).message == "for [secret token]"
    assert [line.message async for line in LogReader(found, b"").read()] == ["key: [secret token]"]
    assert [result.metric for result in await found.metrics(b"")] == ["[secret token]"]


@pytest.mark.parametrize("secrets", [None, {}])
async def test_a_command_without_secrets(jobs, secrets):
    assert (await jobs(secrets).get(b"")).message == "for hunter2"
    with pytest.raises(GRPCError, match="no hunter2"):
        await jobs(secrets, GRPCError(Status.INTERNAL, "no hunter2")).get(b"")


async def test_errors(jobs):
    found = jobs({"token": "hunter2"}, GRPCError(Status.UNAUTHENTICATED, "no hunter2"))
    calls = [found.create(CreateTaskRequest()), found.get(b""), found.delete(b""), found.metrics(b"")]
    for call in (*calls, last_piece(found)):
        with pytest.raises(GRPCError, match=r"no \[secret token\]") as caught:
            await call
        assert caught.value.status is Status.UNAUTHENTICATED


async def last_piece(jobs):
    async for _ in jobs.logs(b""):
        pass
