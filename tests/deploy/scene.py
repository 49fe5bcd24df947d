"""Hosts whose connectors are in trouble, clients that use them, and a Prometheus that scrapes them."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from anyio.from_thread import start_blocking_portal
from grpclib.exceptions import GRPCError

from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceStub,
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskMetricsRequest,
    GetTaskRequest,
    TaskCategory,
    TaskExecutionMetadata,
)
from connectrio.idl.flyteidl2.core import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    TaskTemplate,
    WorkflowExecutionIdentifier,
)
from connectrio.rpc import Channel
from e2e.programs import HostProgram, eventually
from e2e.test_prometheus import PATIENCE, Prometheus, prometheus

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DASHBOARD = ROOT / "deploy" / "helm" / "connectrio" / "files" / "dashboard.json"
# what `$__rate_interval` stands for: some scrapes
WINDOW = "10s"
# seconds that an executor waits for an answer
DEADLINE = 10
TROUBLES = ("hang", "slow", "block", "wrong", "bug")


def metadata(execution: str) -> TaskExecutionMetadata:
    run = WorkflowExecutionIdentifier(project="sales", domain="production", name=execution)
    node = NodeExecutionIdentifier(node_id="n0", execution_id=run)
    return TaskExecutionMetadata(task_execution_id=TaskExecutionIdentifier(node_execution_id=node))


class Executor:
    """Runs jobs on a host, as Flyte's executor does, but polls more often."""

    def __init__(self, channel: Channel, pause: float) -> None:
        self._stub = AsyncConnectorServiceStub(channel)
        self._pause = pause

    async def run(self, task_type: str, name: str, polls: int) -> None:
        """Create a job, poll it, ask for its metrics, and delete it; give up as the executor does."""
        category = TaskCategory(name=task_type)
        with suppress(GRPCError):
            meta = await self.create(task_type, name)
            for _ in range(polls):
                await anyio.sleep(self._pause)
                with suppress(GRPCError):
                    await self._stub.get_task(
                        GetTaskRequest(resource_meta=meta, task_category=category, output_prefix=f"s3://out/{name}"),
                        timeout=DEADLINE,
                    )
            with suppress(GRPCError):
                await self._stub.get_task_metrics(GetTaskMetricsRequest(resource_meta=meta, task_category=category))
            await self._stub.delete_task(
                DeleteTaskRequest(resource_meta=meta, task_category=category), timeout=DEADLINE
            )

    async def create(self, task_type: str, name: str) -> bytes:
        answer = await self._stub.create_task(
            CreateTaskRequest(
                template=TaskTemplate(type=task_type),
                output_prefix=f"s3://out/{name}",
                task_execution_metadata=metadata(f"{task_type}-{name}"),
            ),
            timeout=DEADLINE,
        )
        return answer.resource_meta


async def trouble(troubles: Path, target: str, kind: str, number: int) -> None:
    """Bring one kind of trouble about, over a connection of its own that ends then."""
    name = f"{kind}-{number}"
    async with Channel(target) as channel, anyio.create_task_group() as tasks:
        executor = Executor(channel, 0.1)
        if kind == "slow":
            tasks.start_soon(executor.create, "warehouse", name)
            while not (troubles / name).exists():  # noqa: ASYNC110 - another process makes it
                await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()  # the client leaves
        else:
            await executor.run("spark" if kind == "hang" else "reports", name, 1 if kind == "hang" else 5)


async def load(troubles: Path, targets: list[str], clients: int, pause: float, polls: int) -> None:
    """Run jobs of all connectors for ever, and one of each kind of trouble at first."""
    numbers = itertools.count()

    async def client(target: str, task_type: str) -> None:
        async with Channel(target) as channel:
            executor = Executor(channel, pause)
            while True:
                number = next(numbers)
                name = f"bug-{number}" if task_type == "reports" and number % 3 == 0 else f"job-{number}"
                # what is down is polled for ever
                await executor.run(task_type, name, sys.maxsize if task_type in ("lake", "pond") else polls)
                await anyio.sleep(pause)

    async with anyio.create_task_group() as tasks:
        for target in targets:
            for task_type in ("well", "spark", "warehouse", "lake", "pond", "webhook", "reports", "nobodys"):
                for _ in range(clients):
                    tasks.start_soon(client, target, task_type)
            for kind in TROUBLES:
                tasks.start_soon(trouble, troubles, target, kind, next(numbers))


@dataclass(frozen=True)
class Scene:
    """What runs.

    :ivar troubles: where files say how the other systems are
    :ivar trouble: brings a kind of trouble about, on the host of that number; returns at once
    """

    hosts: list[HostProgram]
    prometheus: Prometheus
    troubles: Path
    trouble: Callable[[int, str], object]


@contextmanager
def scene(
    directory: Path, *, hosts: int = 1, every: str = "500ms", clients: int = 2, pause: float = 0.2, polls: int = 10
) -> Iterator[Scene]:
    """Run hosts, clients and Prometheus.

    :param every: how often Prometheus scrapes
    :param clients: of each connector and host
    :param pause: seconds between two polls of a job, and between two jobs of a client
    :param polls: of each job
    """
    troubles = directory / "troubles"
    troubles.mkdir()
    settings = {
        "modules": [str(HERE / "troubled.py")], "job_store": f"sqlite://{directory}/jobs.db",
        "get_limit": 2, "delete_limit": 5, "create_limit": 20, "watchdog": 0.5, "poll_retry": 0.3,
    }  # fmt: skip
    programs = [HostProgram("uvloop", env={"TROUBLES": str(troubles)}, **settings) for _ in range(hosts)]
    numbers = itertools.count(1000)
    try:
        targets = [program.ready().target for program in programs]
        urls = [program.url.removeprefix("http://") for program in programs]
        with start_blocking_portal() as portal, prometheus(directory, *urls, every=every) as answers:
            eventually(lambda: answers.target() is not None, PATIENCE)
            loading = portal.start_task_soon(partial(load, troubles, targets, clients, pause, polls))

            def start(host: int, kind: str) -> object:
                return portal.start_task_soon(trouble, troubles, targets[host], kind, next(numbers))

            try:
                yield Scene(programs, answers, troubles, start)
            finally:
                (troubles / "over").touch()
                loading.cancel()
    finally:
        for program in programs:
            program.__exit__(None, None, None)


@dataclass(frozen=True)
class PanelQuery:
    """A query of the dashboard's file, with its variables replaced.

    :ivar expr: for Prometheus
    :ivar raw: as in the file
    """

    panel: str
    unit: str
    expr: str
    raw: str
    legend: str


def replaced(expr: str, window: str = WINDOW) -> str:
    """A query as Grafana sends it where all is chosen."""
    expr = expr.replace("$__rate_interval", window)
    return re.sub(r"\$(job|instance|connector)\b", ".*", expr)


def queries(window: str = WINDOW) -> list[PanelQuery]:
    """Return all queries of the dashboard's panels."""
    return [
        PanelQuery(
            panel["title"], panel["fieldConfig"]["defaults"]["unit"], replaced(target["expr"], window),
            target["expr"], target["legendFormat"],
        )
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]  # fmt: skip
