import asyncio

from greeter_grpc import GreeterStub
from greeter_pb2 import CountDownRequest, HelloRequest

from connectrio.rpc import Channel


async def main():
    async with Channel("127.0.0.1:50051") as channel:
        greeter = GreeterStub(channel)
        reply = await greeter.SayHello(HelloRequest(name="Ada"), timeout=10)
        print(reply.text)
        async with greeter.CountDown.open(timeout=10) as stream:
            await stream.send_message(CountDownRequest(name="Ada", start=2), end=True)
            async for reply in stream:
                print(reply.text)


asyncio.run(main())
