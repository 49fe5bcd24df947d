"""A client that behaves, in a process of its own: python -m drills.good_client TARGET RATE [AUTHORITY]

It makes RATE calls a second over one connection, with the stack of the real client, and prints a JSON line for each
that has ended. AUTHORITY is the PEM file by which it knows a host that serves TLS.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
from flyteidl2.connector.service_pb2_grpc import AsyncConnectorServiceStub

from drills.orders import order

# seconds; far more than a call takes on a busy machine
DEADLINE = 60.0


async def call(stub: AsyncConnectorServiceStub) -> None:
    """Make a call, and print its result."""
    began = time.monotonic()
    try:
        response = await stub.GetTask(order(), timeout=DEADLINE)
        outcome = response.resource.message
    except grpc.RpcError as error:
        outcome = f"{error.code().name}: {error.details()}"
    seconds = time.monotonic() - began
    print(json.dumps({"event": "call", "at": began, "seconds": seconds, "outcome": outcome}), flush=True)


def known(authority: str) -> grpc.ChannelCredentials:
    """Return the credentials with which a client trusts a host."""
    return grpc.ssl_channel_credentials(Path(authority).read_bytes())


async def main(target: str, rate: float, authority: str | None = None) -> None:
    """Call until killed. Each call begins on schedule, even if earlier ones have not ended."""
    credentials = None if authority is None else known(authority)
    make = grpc.aio.insecure_channel if credentials is None else grpc.aio.secure_channel
    async with make(target, *filter(None, [credentials])) as channel:
        stub = AsyncConnectorServiceStub(channel)
        await channel.channel_ready()
        began, made, calls = time.monotonic(), 0, set()
        while True:
            calls.add(task := asyncio.create_task(call(stub)))
            task.add_done_callback(calls.discard)
            made += 1
            await asyncio.sleep(max(0.0, began + made / rate - time.monotonic()))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:]))
