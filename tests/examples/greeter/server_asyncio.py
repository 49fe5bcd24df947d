import asyncio
import signal

import anyio

from connectrio.rpc import Reflection, Server
from service import Greeter


async def main() -> None:
    servicers = [Greeter()]
    server = Server([*servicers, Reflection.of(servicers)])
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=50051)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(listener))
            print("serving on 127.0.0.1:50051", flush=True)
            async for _ in signals:
                await server.shutdown(grace=10)
                break
    print("stopped")


asyncio.run(main())
