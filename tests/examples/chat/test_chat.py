from collections.abc import AsyncIterator

import anyio
import pytest

from connectrio.rpc import Server
from connectrio.rpc.testing import memory_channel
from service import Chat
from stubs.chat.v1 import ChatStub, Line

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def chat() -> AsyncIterator[ChatStub]:
    async with memory_channel(Server([Chat()])) as channel:
        yield ChatStub(channel)


async def test_what_one_says_the_other_hears(chat: ChatStub) -> None:
    ada_says, from_ada = anyio.create_memory_object_stream[Line](1)
    bob_says, from_bob = anyio.create_memory_object_stream[Line](1)
    with ada_says, from_ada, bob_says, from_bob:
        ada, bob = chat.join(from_ada), chat.join(from_bob)
        assert (await anext(ada)).text == "1 in the room"
        assert (await anext(bob)).text == "2 in the room"
        ada_says.send_nowait(Line(author="Ada", text="Hello, Bob!"))
        assert await anext(bob) == Line(author="Ada", text="Hello, Bob!")
        # who says no more leaves
        ada_says.close()
        assert [line async for line in ada] == []
        bob_says.close()
        assert [line async for line in bob] == []
