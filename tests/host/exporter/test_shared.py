"""One report for all who ask at once."""

from __future__ import annotations

import anyio
import pytest

from connectrio.host.exporter._shared import SharedReports


class Source:
    """Counts the reports that are made of it."""

    def __init__(self) -> None:
        self.made = 0
        self.fails = False

    async def report(self):
        if self.fails:
            raise ValueError("no report")
        self.made += 1
        number = self.made
        await anyio.sleep(0.01)
        return number

    async def stacks(self):
        return [await self.report()]


async def test_who_asks_at_once_shares_a_report():
    shared = SharedReports(source := Source())
    found = []

    async def ask():
        found.append(await shared.report())

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(ask)
    assert len(found) == 100
    # the first one may have been begun before some of the others asked
    assert source.made <= 2


async def test_no_report_is_older_than_the_question():
    shared = SharedReports(Source())
    assert [await shared.report() for _ in range(3)] == [1, 2, 3]
    assert await shared.stacks() == [4]


async def test_a_report_that_fails_is_made_again():
    shared = SharedReports(source := Source())
    source.fails = True
    for _ in range(2):
        with pytest.raises(ValueError, match="no report"):
            await shared.report()
    source.fails = False
    assert await shared.report() == 1
