from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from stubs.chat.v1 import ChatBase, Line

# lines that a member may be behind; then it misses some, and the others do not wait
BACKLOG = 100


class Chat(ChatBase):
    def __init__(self) -> None:
        self._members: set[MemoryObjectSendStream[Line]] = set()

    async def join(self, messages: AsyncIterator[Line]) -> AsyncIterator[Line]:
        inbox, heard = anyio.create_memory_object_stream[Line](BACKLOG)
        with inbox, heard:
            self._members.add(inbox)
            try:
                yield Line(author="room", text=f"{len(self._members)} in the room")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._listen, messages, inbox)
                    async for line in heard:
                        yield line
            finally:
                self._members.remove(inbox)

    async def _listen(self, messages: AsyncIterator[Line], inbox: MemoryObjectSendStream[Line]) -> None:
        """Pass on what a member says, until it says no more. Then end its replies."""
        with inbox:
            async for line in messages:
                for other in self._members - {inbox}:
                    with suppress(anyio.WouldBlock, anyio.BrokenResourceError):
                        other.send_nowait(line)
