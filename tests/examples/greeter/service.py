from collections.abc import AsyncIterator

import anyio

from connectrio.rpc import GRPCError, Status
from stubs.greeter.v1 import CountDownRequest, GreeterBase, HelloReply, HelloRequest


class Greeter(GreeterBase):
    async def say_hello(self, message: HelloRequest) -> HelloReply:
        if not message.name:
            raise GRPCError(Status.INVALID_ARGUMENT, "the name is empty: say whom to greet")
        return HelloReply(text=f"Hello, {message.name}!")

    async def count_down(self, message: CountDownRequest) -> AsyncIterator[HelloReply]:
        try:
            for number in range(message.start, 0, -1):
                yield HelloReply(text=f"{number}...")
                await anyio.sleep(message.pause)
            yield HelloReply(text=f"Hello, {message.name}!")
        finally:
            print("count_down has ended", flush=True)
