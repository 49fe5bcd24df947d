"""An executor with mixed work, in a process of its own: python -m drills.executor NAME TARGET RATE PREFIX

It starts RATE tasks a second over one connection of grpcio, polls each once a second until it is over, and repeats what
fails as Flyte's executor does. Most tasks are jobs of the failing vendor: one in four reads its log meanwhile, one in
ten is deleted while it runs. One task in twenty is a query for DuckDB. At SIGTERM it starts no more, waits for those
that run, and prints what became of each kind. Its tasks' names begin with NAME, and the results of queries go below
PREFIX.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc
from flyteidl2.connector.connector_pb2 import (
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskLogsRequest,
    GetTaskRequest,
    TaskCategory,
    TaskExecutionMetadata,
)
from flyteidl2.connector.service_pb2_grpc import AsyncConnectorServiceStub
from flyteidl2.core.execution_pb2 import TaskExecution
from flyteidl2.core.identifier_pb2 import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from flyteidl2.core.tasks_pb2 import TaskTemplate

from e2e.duckdb_task import query

TIMEOUT = 10.0
POLL_INTERVAL = 1.0
# errors of one task after which it is lost
MAX_ERRORS = 5
LOG_LINES = 20

RUNNING = {TaskExecution.UNDEFINED, TaskExecution.QUEUED, TaskExecution.INITIALIZING, TaskExecution.RUNNING}
STATEMENT = "SELECT sum(i) AS total FROM range(200000) AS numbers(i)"


class TaskLostError(Exception):
    """The task has failed too often."""


class Executor:
    """Runs tasks.

    :ivar outcomes: of tasks, as "kind: phase" or "kind: lost: error"; and "log: ok", or what was wrong with it
    :ivar errors: the calls that failed, by method and status; each was repeated
    """

    def __init__(self, name: str, stub: AsyncConnectorServiceStub, prefix: str) -> None:
        self._name = name
        self._prefix = prefix
        self._stub = stub
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    async def run(self, number: int) -> None:
        """Run a task to its end."""
        kind = "query" if number % 20 == 7 else "deleted" if number % 10 == 3 else "job"
        try:
            self.outcomes[f"{kind}: {await self._task(kind, f'{self._name}-{number}', logs=number % 4 == 0)}"] += 1
        except TaskLostError as error:
            self.outcomes[f"{kind}: lost: {error}"] += 1

    async def _task(self, kind: str, name: str, *, logs: bool) -> str:
        failures: list[str] = []
        created = await self._repeat(failures, self._stub.CreateTask, self._request(kind, name))
        category = TaskCategory(name="duckdb" if kind == "query" else "vended")
        about = {"resource_meta": created.resource_meta, "task_category": category}
        async with asyncio.TaskGroup() as tasks:
            if kind == "job" and logs:
                tasks.create_task(self._read_log(GetTaskLogsRequest(**about)))
            if kind == "deleted":
                await asyncio.sleep(POLL_INTERVAL / 2)
                await self._repeat(failures, self._stub.DeleteTask, DeleteTaskRequest(**about))
            phase = TaskExecution.UNDEFINED
            while phase in RUNNING:
                await asyncio.sleep(POLL_INTERVAL)
                polled = await self._repeat(failures, self._stub.GetTask, GetTaskRequest(**about))
                phase = polled.resource.phase
        return TaskExecution.Phase.Name(phase)

    async def _repeat(self, failures: list[str], method: Any, request: Any) -> Any:
        while True:
            try:
                return await method(request, timeout=TIMEOUT)
            except grpc.RpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")
                self.errors[f"{type(request).__name__}: {error.code().name}"] += 1
                if len(failures) > MAX_ERRORS:
                    raise TaskLostError(failures[-1]) from error
            await asyncio.sleep(POLL_INTERVAL)

    async def _read_log(self, request: GetTaskLogsRequest) -> None:
        try:
            lines = [answer async for answer in self._stub.GetTaskLogs(request, timeout=TIMEOUT)]
        except grpc.RpcError as error:
            self.outcomes[f"log: {error.code().name}: {error.details()}"] += 1
        else:
            self.outcomes["log: ok" if len(lines) == LOG_LINES else f"log: {len(lines)} lines"] += 1

    def _request(self, kind: str, name: str) -> CreateTaskRequest:
        execution = WorkflowExecutionIdentifier(project="soak", domain="test", name=name)
        node = NodeExecutionIdentifier(node_id="n0", execution_id=execution)
        metadata = TaskExecutionMetadata(task_execution_id=TaskExecutionIdentifier(node_execution_id=node))
        template = TaskTemplate(type="vended")
        if kind == "query":
            template = query(STATEMENT, "")["template"]
        prefix = f"{self._prefix}/{name}"
        return CreateTaskRequest(template=template, output_prefix=prefix, task_execution_metadata=metadata)


async def main(name: str, target: str, rate: float, prefix: str) -> None:
    """Run tasks, and print the counts."""
    told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_end.set)
    async with grpc.aio.insecure_channel(target) as channel:
        await channel.channel_ready()
        print(json.dumps({"event": "running"}), flush=True)
        executor = Executor(name, AsyncConnectorServiceStub(channel), prefix)
        began, made = time.monotonic(), 0
        async with asyncio.TaskGroup() as tasks:
            while not told_to_end.is_set():
                tasks.create_task(executor.run(made))
                made += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(told_to_end.wait(), max(0.0, began + made / rate - time.monotonic()))
    told = {"tasks": made, "outcomes": executor.outcomes, "errors": executor.errors}
    print(json.dumps({"event": "result", **told}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]))
