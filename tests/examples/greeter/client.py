import trio

from connectrio.rpc import Channel, GRPCError
from stubs.greeter.v1 import GreeterStub, HelloRequest


async def main() -> None:
    async with Channel("127.0.0.1:50051") as channel:
        greeter = GreeterStub(channel)
        reply = await greeter.say_hello(HelloRequest(name="Ada"), timeout=10)
        print(reply.text)
        try:
            await greeter.say_hello(HelloRequest(), timeout=10)
        except GRPCError as error:
            print(f"{error.status.name}: {error.message}")


trio.run(main)
