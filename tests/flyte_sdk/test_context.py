"""Lines of a hosted connector have the fields of its call, wherever in its loops and threads it writes them."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial

import anyio
import structlog

from connectrio.flyte._loop_pool import PATIENCE
from connectrio.logs import configure_logging
from flyte_sdk.harness import Base, connector, hosting
from service.harness import attempt


async def test_each_line_of_a_call_has_its_fields(capsys):
    async def create(self, task_template, output_prefix, **kwargs):
        log = structlog.get_logger("author")
        log.info("in the coroutine")
        await asyncio.create_task(asyncio.to_thread(log.info, "in a thread"))
        await asyncio.get_running_loop().run_in_executor(None, log.info, "in the executor")
        asyncio.get_running_loop().call_soon(log.info, "in a callback")
        time.sleep(4 * PATIENCE)  # blocks the loop, so that other calls go to further ones
        log.info("afterwards")
        return await Base.create(self, task_template, output_prefix)

    configure_logging("info", "json")
    async with hosting(connector(create=create)) as service, anyio.create_task_group() as calls:
        for number in range(3):
            task = attempt(execution=f"ex{number}")
            calls.start_soon(partial(service.create, task_execution_metadata=task))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    found = sorted((line["event"], line["execution"]) for line in lines if line.get("logger") == "author")
    events = ["afterwards", "in a callback", "in a thread", "in the coroutine", "in the executor"]
    assert found == [(event, f"ex{number}") for event in events for number in range(3)]
