import signal

import anyio
import trio

from connectrio.rpc import Reflection, Server
from service import Chat


async def main() -> None:
    servicers = [Chat()]
    server = Server([*servicers, Reflection.of(servicers)])
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=50051)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, listener)
            print("serving on 127.0.0.1:50051", flush=True)
            async for _ in signals:
                await server.shutdown(grace=10)
                break
    print("stopped")


trio.run(main)
