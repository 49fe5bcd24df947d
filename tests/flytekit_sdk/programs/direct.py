"""Call a hosted connector in a program of one's own, and print what it was given."""

from __future__ import annotations

import sys

import anyio
from mirror import Immediate, Mirror

from connectrio.flytekit import hosted
from connectrio.idl.flyteidl2.core import TaskTemplate


async def main() -> None:
    async_one, sync_one = hosted(Mirror()), hosted(Immediate())
    async with async_one.lifespan(), sync_one.lifespan():
        meta = await async_one.create(TaskTemplate(type="mirror"), "s3://x", {"n": 7, "text": "seven"})
        print(meta.encode().decode())
        meta = await sync_one.create(TaskTemplate(type="immediate"), '{"phase": 3, "outputs": {"a": 1}}')
        state = await sync_one.get(meta)
        await sync_one.delete(meta)
        print(state.phase.name, state.outputs.literals[0].name)


anyio.run(main, backend=sys.argv[1])
