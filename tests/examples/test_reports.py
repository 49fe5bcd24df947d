"""Tests of a connector as its author writes them: docs/how-to/test-a-connector.md shows them."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
from anyio import Event, sleep_forever

from connectrio import HostSettings
from connectrio.testing import GRPCError, Status, Task, hosting
from examples.reports import DesktopVendor, Reports, desktop


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setenv("VENDOR_TOKEN", "xyzzy")
    return Task(inputs={"subject": "sales"}, secrets={"token": "VENDOR_TOKEN"})


async def test_a_report_is_made(task: Task) -> None:
    async with hosting(Reports(desktop)) as host:
        job = await host.create(task)
        state = await job.wait()
        assert state.succeeded, state
        assert state.outputs == {"url": "https://reports.example/sales"}
        await job.delete()
        await job.delete()  # twice is no error
    assert b"xyzzy" not in job.meta


async def test_the_token_is_needed() -> None:
    async with hosting(Reports(desktop)) as host:
        with pytest.raises(GRPCError, match="token") as caught:
            await host.create(Task(inputs={"subject": "sales"}))
        assert caught.value.status is Status.INVALID_ARGUMENT


class SlowVendor(DesktopVendor):
    def __init__(self) -> None:
        super().__init__()
        self.asked = Event()
        self.left = Event()

    async def status(self, id: str) -> tuple[str, str | None]:  # noqa: A002 - the vendor's own word
        self.asked.set()
        try:
            await sleep_forever()
            return "busy", None  # it never answers
        finally:
            self.left.set()


async def test_nobody_asks_the_vendor_for_a_client_that_is_gone(task: Task) -> None:
    vendor = SlowVendor()
    async with hosting(Reports(lambda: nullcontext(vendor))) as host:
        job = await host.create(task)
        await host.vanish(job.get, when=vendor.asked.wait)
        assert vendor.left.is_set()


async def test_a_deadline_passes(task: Task) -> None:
    vendor = SlowVendor()
    settings = HostSettings(poll_absorb=0)
    async with hosting(Reports(lambda: nullcontext(vendor)), settings=settings) as host:
        job = await host.create(task)
        with pytest.raises(GRPCError) as caught:
            await host.attach(job.meta, timeout=0.2).get()
        assert caught.value.status is Status.DEADLINE_EXCEEDED


async def test_an_answer_is_lost(task: Task) -> None:
    vendor = DesktopVendor()
    nightly = replace(task, execution="nightly")
    async with hosting(Reports(lambda: nullcontext(vendor))) as host:
        with host.losing_answers("create"), pytest.raises(GRPCError):
            await host.create(nightly)
        assert (await host.run(nightly)).succeeded
    assert len(vendor.subjects) == 1
