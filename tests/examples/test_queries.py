"""The connector of queries.py, with a vendor in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from connectrio.testing import Task, hosting
from examples.queries import Snowball


class Memory:
    """A vendor that knows a job by its id."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.submitted: list[str | None] = []

    async def submit(self, statement: str, token: str, *, job_id: str | None) -> str:
        self.submitted.append(job_id)
        known_as = job_id or f"q-{len(self.submitted)}"
        self.states[known_as] = "success"
        return known_as

    async def list(self, ids: Sequence[str], token: str) -> Mapping[str, str]:
        return {each: self.states[each] for each in ids if each in self.states}

    async def cancel(self, job_id: str, token: str) -> None:
        self.states[job_id] = "failed"


async def test_a_query_runs_and_its_id_is_the_key_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENDOR_TOKEN", "xyzzy")
    vendor = Memory()
    task = Task(inputs={"statement": "select 1"}, secrets={"token": "VENDOR_TOKEN"}, execution="nightly")
    async with hosting(Snowball(vendor)) as host:
        job = await host.create(task)
        assert (await job.wait()).succeeded
        [key] = vendor.submitted
        assert key is not None
        assert key.startswith("cr-")
        await job.delete()
    assert vendor.states == {key: "failed"}
