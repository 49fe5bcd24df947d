import trio

from connectrio.rpc import Channel, GRPCError
from stubs.greeter.v1 import CountDownRequest, GreeterStub


async def main() -> None:
    async with Channel("127.0.0.1:50051") as channel:
        greeter = GreeterStub(channel)

        async for reply in greeter.count_down(CountDownRequest(name="Ada", start=3, pause=0.1)):
            print(reply.text)

        hours = CountDownRequest(name="Ada", start=3, pause=3600)
        try:
            async for _ in greeter.count_down(hours, timeout=0.5):
                pass
        except GRPCError as error:
            print(f"{error.status.name}: the server took more than half a second")

        with trio.CancelScope() as scope:
            async for reply in greeter.count_down(hours):
                print(reply.text)
                scope.cancel()
        print("that is enough")


trio.run(main)
