import asyncio

import grpc
from greeter_pb2 import HelloRequest
from greeter_pb2_grpc import GreeterStub


async def main():
    async with grpc.aio.insecure_channel("127.0.0.1:50051") as channel:
        greeter = GreeterStub(channel)
        reply = await greeter.SayHello(HelloRequest(name="Ada"), timeout=10)
        print(reply.text)
        try:
            await greeter.SayHello(HelloRequest(), timeout=10)
        except grpc.aio.AioRpcError as error:
            print(f"{error.code().name}: {error.details()}")


asyncio.run(main())
