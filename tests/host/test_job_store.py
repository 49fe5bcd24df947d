"""A host with a job store."""

from __future__ import annotations

import sys

import anyio
import pytest

from connectrio.connector.registry import Registry
from connectrio.host.host import Host
from connectrio.host.lifecycle import HostError
from connectrio.host.settings import HostSettings
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub, CreateTaskRequest
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.rpc import Channel
from service.harness import Base, Job, attempt, connector


async def created(settings, jobs) -> bytes:
    """Start a host, let it create a job, and stop it."""

    async def create(_self, **kwargs):
        jobs.append(str(len(jobs)))
        return Job(jobs[-1])

    registry = Registry()
    registry.register(connector(Base, create=create))
    host = Host(settings, registry=registry)
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        async with Channel(addresses.target) as channel:
            request = CreateTaskRequest(template=TaskTemplate(type="tiny"), task_execution_metadata=attempt())
            answer = await AsyncConnectorServiceStub(channel).create_task(request)
        await host.shutdown()
    return answer.resource_meta


async def test_a_job_is_created_once_across_restarts(tmp_path):
    settings = HostSettings(
        host="127.0.0.1", port=0, prometheus_port=0, job_store=f"sqlite://{tmp_path}/jobs.db", job_store_required=True
    )
    jobs: list[str] = []
    assert await created(settings, jobs) == await created(settings, jobs) == Job("0").encode()
    assert jobs == ["0"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"job_store_required": True}, "job_store_required is of no use without job_store"),
        ({"job_store": "postgresql://db"}, r"job_store needs psycopg .*pip install 'connectrio\[postgres\]'"),
    ],
)
async def test_a_store_that_cannot_be(monkeypatch, settings, message):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "connectrio.service.job_store.postgres", raising=False)
    host = Host(HostSettings(host="127.0.0.1", port=0, prometheus_port=0, **settings), registry=Registry())
    with pytest.raises(HostError, match=message):
        await host.serve()
