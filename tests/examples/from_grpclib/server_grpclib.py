import asyncio

from grpclib.server import Server
from grpclib.utils import graceful_exit

from service import Greeter


async def main():
    server = Server([Greeter()])
    with graceful_exit([server]):
        await server.start("127.0.0.1", 50051)
        print("serving on 127.0.0.1:50051", flush=True)
        await server.wait_closed()


asyncio.run(main())
