"""Clients that call while hosts start and stop: python -m drills.caller KIND TARGET CONNECTIONS RATE

KIND is grpcio or channel (ours). It makes RATE calls a second over so many connections, most of them quick and one in
ten of a tenth of a second, until it gets SIGTERM, and then prints what came of them.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, cycle

import grpc
from flyteidl2.connector.service_pb2_grpc import AsyncConnectorServiceStub as GrpcioStub

from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub, GetTaskRequest
from connectrio.rpc import Channel
from connectrio.rpc.codec import decode
from drills.orders import order

DEADLINE = 60.0
QUICK, SLOW = order("quick"), order("sleep", 0.1)

Call = Callable[[bool], Awaitable[object]]


@asynccontextmanager
async def grpcio(target: str) -> AsyncIterator[Call]:
    """A connection of grpcio, as the executor's."""
    async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = GrpcioStub(channel)
        await channel.channel_ready()
        yield lambda slow: stub.GetTask(SLOW if slow else QUICK, timeout=DEADLINE)


@asynccontextmanager
async def ours(target: str) -> AsyncIterator[Call]:
    """A connection of connectrio's channel."""
    quick, slow_one = (decode(request.SerializeToString(), GetTaskRequest) for request in (QUICK, SLOW))
    async with Channel(target) as channel:
        stub = AsyncConnectorServiceStub(channel)
        await stub.get_task(quick, timeout=DEADLINE)
        yield lambda slow: stub.get_task(slow_one if slow else quick, timeout=DEADLINE)


class Caller:
    """Makes calls, and counts them.

    :ivar outcomes: how many ended how
    :ivar slowest: the time in seconds that the longest took
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0

    async def call(self, call: Call, slow: bool) -> None:
        """Make one call."""
        began = time.monotonic()
        try:
            await call(slow)
            outcome = "OK"
        except Exception as error:  # noqa: BLE001 - whatever a client's stack raises is a call that failed
            outcome = str(error).partition("debug_error_string")[0][:200]
        self.outcomes[outcome] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)


async def main(kind: str, target: str, connections: int, rate: float) -> None:
    """Connect, call, and print the counts."""
    connect, caller, told_to_end = {"grpcio": grpcio, "channel": ours}[kind], Caller(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    async with AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(connect(target)) for _ in range(connections)]
        began = time.monotonic()
        print(json.dumps({"event": "begun", "at": began}), flush=True)
        async with asyncio.TaskGroup() as tasks:
            for number, call in zip(count(), cycle(calls), strict=False):
                if told_to_end.is_set():
                    break
                tasks.create_task(caller.call(call, number % 10 == 0))
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
    took = time.monotonic() - began
    told = {"outcomes": caller.outcomes, "slowest_seconds": caller.slowest, "rate": caller.outcomes.total() / took}
    print(json.dumps({"event": "result", **told}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3], *map(int, sys.argv[3:4]), *map(float, sys.argv[4:])))
