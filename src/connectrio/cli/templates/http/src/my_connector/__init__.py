"""Runs jobs of an HTTP API as Flyte tasks of type `my_task`.

The API is the one of `tests/fake_service.py`: replace the paths, the fields and the states by those of yours.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
from connectrio import (
    AsyncConnector,
    ConnectorRegistry,
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    LogLine,
    PermanentFailure,
    Phase,
    PhaseMap,
    Resource,
    ResourceMeta,
    TaskLog,
    TaskTemplate,
    UnknownJobError,
    current_call,
)

# the API's word for each state; it may bring a new one, which then counts as RUNNING
PHASES = PhaseMap(
    {
        "queued": Phase.QUEUED,
        "running": Phase.RUNNING,
        "done": Phase.SUCCEEDED,
        "failed": Phase.FAILED,
        "cancelled": Phase.ABORTED,
    },
    system="the API",
)


@dataclass
class Job(ResourceMeta):
    """What finds a job again. Flyte writes it to its log, so it holds no secret."""

    id: str


class MyConnector(AsyncConnector[Job]):
    """Runs the jobs of an HTTP API.

    Its answers 429 and 503 need no code here: the host calls again, when their Retry-After says so.

    :param transport: answers in the place of the network, for tests
    """

    name = "My Connector"
    task_type_name = "my_task"
    create_is_idempotent = True  # the API gives the same job to the same Idempotency-Key

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        super().__init__()
        self._transport = transport

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Keep connections to the API while the host serves."""
        url = os.environ.get("MY_CONNECTOR_URL", "https://api.example")
        async with httpx.AsyncClient(base_url=url, transport=self._transport, timeout=20) as self._api:
            yield

    async def create(
        self, task_template: TaskTemplate, output_prefix: str, inputs: dict[str, Any], *, api_token: str, **kwargs: Any
    ) -> Job:
        """Start a job, once for each key."""
        headers = {**_credentials(api_token), "Idempotency-Key": current_call().key or str(uuid4())}
        answer = await self._api.post("/jobs", json={"report": inputs.get("report")}, headers=headers)
        if answer.status_code == 422:  # another attempt would fail as well
            raise PermanentFailure(f"the API refuses the task's inputs: {answer.text}")
        return Job(answer.raise_for_status().json()["id"])

    async def get(self, resource_meta: Job, *, api_token: str, **kwargs: Any) -> Resource:
        """Report the state of a job, with a link to its page."""
        answer = await self._api.get(f"/jobs/{resource_meta.id}", headers=_credentials(api_token))
        if answer.status_code == 404:
            raise UnknownJobError(f"the API has no job {resource_meta.id!r}")
        job = answer.raise_for_status().json()
        links = [TaskLog(uri=job["page"], name="Job")]
        return Resource(PHASES[job["state"]], job.get("message"), links, outputs=job.get("outputs"))

    async def delete(self, resource_meta: Job, *, api_token: str, **kwargs: Any) -> None:
        """Cancel a job; one that has ended or is unknown is left as it is."""
        answer = await self._api.delete(f"/jobs/{resource_meta.id}", headers=_credentials(api_token))
        if answer.status_code != 404:
            answer.raise_for_status()

    async def get_logs(self, resource_meta: Job, token: str = "", **kwargs: Any) -> AsyncIterator[GetTaskLogsResponse]:
        """Yield the lines of a job's log from the place that `token` names."""
        headers = _credentials(os.environ.get("MY_CONNECTOR_TOKEN", ""))
        answer = await self._api.get(f"/jobs/{resource_meta.id}/log", params={"from": token}, headers=headers)
        page = answer.raise_for_status().json()
        yield GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token=page["next"]))
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=[LogLine(message=each) for each in page["lines"]]))


def _credentials(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


ConnectorRegistry.register(MyConnector())
