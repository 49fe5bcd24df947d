from collections.abc import AsyncIterator

import pytest

from connectrio.rpc import GRPCError, Server, Status
from connectrio.rpc.testing import memory_channel
from service import Greeter
from stubs.greeter.v1 import CountDownRequest, GreeterStub, HelloRequest

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def greeter() -> AsyncIterator[GreeterStub]:
    async with memory_channel(Server([Greeter()])) as channel:
        yield GreeterStub(channel)


async def test_it_greets(greeter: GreeterStub) -> None:
    reply = await greeter.say_hello(HelloRequest(name="Ada"))
    assert reply.text == "Hello, Ada!"


async def test_it_counts_down(greeter: GreeterStub) -> None:
    replies = [reply.text async for reply in greeter.count_down(CountDownRequest(name="Ada", start=2))]
    assert replies == ["2...", "1...", "Hello, Ada!"]


async def test_it_wants_a_name(greeter: GreeterStub) -> None:
    with pytest.raises(GRPCError) as caught:
        await greeter.say_hello(HelloRequest())
    assert caught.value.status is Status.INVALID_ARGUMENT
