"""The clock that these tests run by."""

from __future__ import annotations

import anyio

from rpc.kit.virtual_time import in_virtual_time


@in_virtual_time
async def test_a_year_passes():
    began = anyio.current_time()
    await anyio.sleep(365 * 86400)
    assert 0 <= anyio.current_time() - began - 365 * 86400 < 1


@in_virtual_time
async def test_deadlines_come_in_order():
    passed = []

    async def wait(seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await anyio.sleep_forever()
        passed.append(seconds)

    async with anyio.create_task_group() as tasks:
        for seconds in 300, 100, 200:
            tasks.start_soon(wait, seconds)
    assert passed == [100, 200, 300]
