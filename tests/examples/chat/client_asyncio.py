"""Talks in the room: python client.py NAME, then a line for each thing to say. Ctrl-D leaves."""

import asyncio
import sys
from collections.abc import AsyncIterator

import anyio

from connectrio.rpc import Channel
from stubs.chat.v1 import ChatStub, Line


async def typed_lines(author: str) -> AsyncIterator[Line]:
    async for text in anyio.wrap_file(sys.stdin):
        yield Line(author=author, text=text.rstrip("\n"))


async def main() -> None:
    async with Channel("127.0.0.1:50051") as channel:
        async for line in ChatStub(channel).join(typed_lines(sys.argv[1])):
            print(f"{line.author}: {line.text}", flush=True)


asyncio.run(main())
