"""A client that runs tasks while hosts come and go: python -m drills.submitter KIND TARGET RATE

KIND is grpcio or channel (ours, round robin). About RATE calls a second are made over one channel. Each task is
created, polled seven times in some four seconds, and deleted; one in ten is created twice at once, as by a client that
has lost the answer. A call that fails is counted; a create is then repeated, as a new attempt of the executor would be.
At SIGTERM it begins no more tasks, waits for those that run, and prints what came of all calls.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
from flyteidl2.connector import connector_pb2 as pb
from flyteidl2.connector.service_pb2_grpc import AsyncConnectorServiceStub as GrpcioStub
from flyteidl2.core.identifier_pb2 import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from flyteidl2.core.tasks_pb2 import TaskTemplate
from grpclib.exceptions import GRPCError

from connectrio.idl.flyteidl2 import connector as messages
from connectrio.rpc import Channel, ChannelOptions
from connectrio.rpc.codec import decode
from drills.cluster.names import look_up

# seconds; Propeller's
DEADLINE = 10.0
TASK_TYPE = "journaled"
POLLS, POLL_INTERVAL = 7, 0.6
CALLS_OF_A_TASK = POLLS + 2.1
ATTEMPTS = 6

# method name, request → answer
Call = Callable[[str, Any], Awaitable[Any]]


@asynccontextmanager
async def grpcio(target: str) -> AsyncIterator[Call]:
    """Calls with the stack that flyte-sdk has."""
    options = [("grpc.lb_policy_name", "round_robin"), ("grpc.keepalive_time_ms", 30_000)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        stub = GrpcioStub(channel)
        await channel.channel_ready()
        yield lambda method, request: getattr(stub, method)(request, timeout=DEADLINE)


@asynccontextmanager
async def ours(target: str) -> AsyncIterator[Call]:
    """Calls with connectrio's channel."""
    names = {"CreateTask": "create_task", "GetTask": "get_task", "DeleteTask": "delete_task"}
    scheme, _, rest = target.partition("://")
    if scheme == "dns" and not rest.startswith("/"):  # the name server is named, which our channel has no syntax for
        server, _, name = rest.partition("/")
        target = f"dns:///{name}"
        ask_for_names(server)
    async with Channel(target, options=ChannelOptions(load_balancing="round_robin")) as channel:
        stub = messages.AsyncConnectorServiceStub(channel)

        async def call(method: str, request: Any) -> Any:
            ours = decode(request.SerializeToString(), getattr(messages, type(request).__name__))
            return await getattr(stub, names[method])(ours, timeout=DEADLINE)

        await channel.wait_until_ready()
        yield call


def ask_for_names(server: str) -> None:
    """Let this process resolve names with the name server at that address."""
    host, _, port = server.rpartition(":")
    resolve = socket.getaddrinfo

    def getaddrinfo(name: Any, service: Any, *arguments: Any, **options: Any) -> Any:
        text = name.decode() if isinstance(name, bytes) else name
        if not text.endswith(".test"):
            return resolve(name, service, *arguments, **options)
        found = look_up(text, (host, int(port)))
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no addresses")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, int(service))) for each in found]

    socket.getaddrinfo = getaddrinfo


class Submitter:
    """Runs tasks, and counts.

    :ivar calls: that were made
    :ivar failed: "METHOD CODE" → how many calls
    :ivar errors: one text for each of these
    :ivar slowest: seconds of the longest call
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self.calls = 0
        self.failed: Counter[str] = Counter()
        self.errors: dict[str, str] = {}
        self.slowest = 0.0

    async def run(self, number: int) -> None:
        """Run a task from its creation to its end."""
        name = f"task-{number}"
        creates = [asyncio.create_task(self._create(name)) for _ in range(2 if number % 10 == 3 else 1)]
        created = [answer for answer in await asyncio.gather(*creates) if answer is not None]
        if not created:
            return
        about = {"resource_meta": created[0].resource_meta, "task_category": pb.TaskCategory(name=TASK_TYPE)}
        for _ in range(POLLS):
            await asyncio.sleep(POLL_INTERVAL)
            await self._make("GetTask", pb.GetTaskRequest(**about))
        await self._make("DeleteTask", pb.DeleteTaskRequest(**about))

    async def _create(self, name: str) -> Any:
        execution = WorkflowExecutionIdentifier(project="rolling", domain="test", name=name)
        node = NodeExecutionIdentifier(node_id="n0", execution_id=execution)
        metadata = pb.TaskExecutionMetadata(task_execution_id=TaskExecutionIdentifier(node_execution_id=node))
        template = TaskTemplate(type=TASK_TYPE)
        request = pb.CreateTaskRequest(template=template, output_prefix="/tmp/x", task_execution_metadata=metadata)
        for _ in range(ATTEMPTS):
            answer = await self._make("CreateTask", request)
            if answer is not None:
                return answer
            await asyncio.sleep(1)
        return None

    async def _make(self, method: str, request: Any) -> Any:
        began = time.monotonic()
        self.calls += 1
        try:
            return await self._call(method, request)
        except (grpc.RpcError, GRPCError) as error:
            code = error.code().name if isinstance(error, grpc.RpcError) else error.status.name
            text = error.details() if isinstance(error, grpc.RpcError) else error.message
            self.failed[f"{method} {code}"] += 1
            self.errors.setdefault(f"{method} {code}", str(text)[:300])
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)
        return None


async def main(kind: str, target: str, rate: float) -> None:
    """Connect, run tasks, and print the counts."""
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    async with {"grpcio": grpcio, "channel": ours}[kind](target) as call:
        submitter, began, made = Submitter(call), time.monotonic(), 0
        print(json.dumps({"event": "begun"}), flush=True)
        async with asyncio.TaskGroup() as tasks:
            while not told_to_end.is_set():
                made += 1
                tasks.create_task(submitter.run(made))
                with suppress(TimeoutError):
                    due = began + made * CALLS_OF_A_TASK / rate
                    await asyncio.wait_for(told_to_end.wait(), max(0.0, due - time.monotonic()))
    told = {name: value for name, value in vars(submitter).items() if not name.startswith("_")}
    print(json.dumps({"event": "result", "tasks": made, **told}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
