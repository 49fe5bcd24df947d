import asyncio

from greeter_grpc import GreeterBase
from greeter_pb2 import CountDownRequest, HelloReply, HelloRequest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream


class Greeter(GreeterBase):
    async def SayHello(self, stream: Stream[HelloRequest, HelloReply]) -> None:
        request = await stream.recv_message()
        if not request.name:
            raise GRPCError(Status.INVALID_ARGUMENT, "the name is empty: say whom to greet")
        await stream.send_message(HelloReply(text=f"Hello, {request.name}!"))

    async def CountDown(self, stream: Stream[CountDownRequest, HelloReply]) -> None:
        request = await stream.recv_message()
        for number in range(request.start, 0, -1):
            await stream.send_message(HelloReply(text=f"{number}..."))
            await asyncio.sleep(request.pause)
        await stream.send_message(HelloReply(text=f"Hello, {request.name}!"))
