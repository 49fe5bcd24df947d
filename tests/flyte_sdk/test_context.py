"""Lines of a hosted connector have the fields of its call, wherever in its loops and threads it writes them."""

from __future__ import annotations

import asyncio
import json
import time

import anyio
import structlog

from connectrio.flyte._loop_pool import PATIENCE
from connectrio.logs import configure_logging, line_fields
from flyte_sdk.harness import META, Base, connector, hosting


async def test_each_line_of_a_call_has_its_fields(capsys):
    async def get(self, resource_meta, **kwargs):
        log = structlog.get_logger("author")
        log.info("in the coroutine")
        await asyncio.create_task(asyncio.to_thread(log.info, "in a thread"))
        await asyncio.get_running_loop().run_in_executor(None, log.info, "in the executor")
        asyncio.get_running_loop().call_soon(log.info, "in a callback")
        time.sleep(4 * PATIENCE)  # blocks the loop, so that other calls go to further ones
        log.info("afterwards")
        return await Base.get(self, resource_meta)

    configure_logging("info", "json")
    async with hosting(connector(get=get)) as service:

        async def call(name):
            line_fields.set(lambda: {"execution": name})
            await service.call("get", resource_meta=META)

        async with anyio.create_task_group() as calls:
            for number in range(3):
                calls.start_soon(call, f"ex{number}")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    found = sorted((line["event"], line["execution"]) for line in lines if line.get("logger") == "author")
    events = ["afterwards", "in a callback", "in a thread", "in the coroutine", "in the executor"]
    assert found == [(event, f"ex{number}") for event in events for number in range(3)]
