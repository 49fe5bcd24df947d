import asyncio
import signal

import grpc
from greeter_pb2 import HelloReply
from greeter_pb2_grpc import GreeterServicer, add_GreeterServicer_to_server


class Greeter(GreeterServicer):
    async def SayHello(self, request, context):
        if not request.name:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the name is empty: say whom to greet")
        return HelloReply(text=f"Hello, {request.name}!")

    async def CountDown(self, request, context):
        for number in range(request.start, 0, -1):
            yield HelloReply(text=f"{number}...")
            await asyncio.sleep(request.pause)
        yield HelloReply(text=f"Hello, {request.name}!")


async def main():
    server = grpc.aio.server()
    add_GreeterServicer_to_server(Greeter(), server)
    server.add_insecure_port("127.0.0.1:50051")
    await server.start()
    print("serving on 127.0.0.1:50051", flush=True)
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    await stop.wait()
    await server.stop(grace=10)


asyncio.run(main())
