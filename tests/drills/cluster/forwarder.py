"""Connections that are passed on: python -m drills.cluster.forwarder HOST PORT FILE

It stands for kube-proxy, and for a sidecar. Each new connection goes to one of the addresses in FILE, a JSON list, as
it is then, taken at random; later changes of the file do not touch it. At SIGTERM it ends at once, and so do all
connections.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass on bytes until the end of either side."""
    try:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()


async def main(host: str, port: int, file: Path) -> None:
    """Forward until SIGTERM."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        addresses = json.loads(file.read_text())  # noqa: ASYNC240 - a small file, in memory
        try:
            address, _, to = random.choice(addresses).rpartition(":")  # an empty list: nobody is there
            behind, sink = await asyncio.open_connection(address, int(to))
        except (OSError, IndexError):
            writer.transport.abort()
            return
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pump(reader, sink))
                tasks.create_task(pump(behind, writer))

    server = await asyncio.start_server(forward, host, port)
    print(json.dumps({"event": "serving"}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
