"""Hosts that share a job store are killed, frozen and started again, and their database too, while 1,000 tasks run.

The hosts are processes, the database is PostgreSQL or a file, and the client gives up like Flyte's executor: one in six
answers to CreateTask is lost, and half of these are asked for again under the same key. Nothing here depends on time:
a host is killed when a part of the tasks has begun, and the next part begins when it was.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from random import Random

import anyio
import pytest

from chaos.propeller import Propeller, Task
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub
from connectrio.rpc import Channel
from connectrio.rpc.options import ChannelOptions
from e2e.programs import HERE, Program, eventually, hold_port
from processes.hosts import LONG, Processes
from service.job_store.servers import QUOTED, postgres_server, why_not

CONNECTORS = Path(__file__).with_name("connectors.py")
TYPES = ("idempotent", "at-most-once", "plain")
TASKS = 1000
AT_ONCE = 48
LOST = 1 / 6
# seconds: short, so that a host that was killed holds nobody up for long
LEASE = 2.0
# of the client. A host that is frozen answers later
TIMEOUT = 5.0
TAKEN_OVER = "a host ended while it created a job; it is created again, and may exist twice in the other system"
LATE = "a job exists twice: this host was stopped while it created the job"
# the client's; one is enough, because the hosts are other processes
pytestmark = pytest.mark.parametrize("anyio_backend", [pytest.param("asyncio", id="asyncio")])


class Replicas:
    """Hosts with a job store in PostgreSQL, each at a port of its own."""

    def __init__(self, stack: ExitStack, server, vendor: Path) -> None:
        self._stack = stack
        self._server = server
        self._environment = {"VENDOR": str(vendor), "PGPASSWORD": server.password}
        self._ports = [stack.enter_context(hold_port()).getsockname()[1] for _ in range(3)]
        self._started: list[Program] = []
        self.pids: set[int] = set()
        self._hosts = [self._start(port) for port in self._ports]
        for host in self._hosts:
            host.wait_for_log("serving", patience=LONG)

    def _start(self, port: int) -> Program:
        command = [
            sys.executable, "-m", "connectrio", "serve", "--host", "127.0.0.1", "--port", str(port),
            "--prometheus-port", "0", "--no-entry-points", "--modules", str(CONNECTORS), "--log-format", "json",
            "--job-store", self._server.plain_url, "--job-store-required", "--job-lease", str(LEASE),
        ]  # fmt: skip
        host = self._stack.enter_context(Program(command, cwd=HERE, env=self._environment))
        self._started.append(host)
        return host

    def channels(self) -> list[Channel]:
        addresses = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return [Channel(f"ipv4:{addresses}", options=ChannelOptions(load_balancing="round_robin"))]

    def harm(self, number: int) -> None:
        """Kill a host and start it again, after the others; freeze one; and kill the database."""
        index = number % 3
        host = self._hosts[index]
        self.pids.add(host.pid)
        if number == 2:
            self._server.kill()
            self._server.start()
        if number == 4:
            host.send(signal.SIGSTOP)
            anyio.from_thread.run(anyio.sleep, 1.5 * LEASE)
            host.send(signal.SIGCONT)
            return
        host.kill()
        host.wait()
        self._hosts[index] = self._start(self._ports[index])
        self._hosts[index].wait_for_log("serving", patience=LONG)

    @property
    def log(self) -> list[dict]:
        return [line for host in self._started for line in host.log]


class TwoProcesses:
    """The processes of one host, with their own job store."""

    def __init__(self, stack: ExitStack, vendor: Path) -> None:
        options = ["--job-lease", str(LEASE), "--job-store-required"]
        program = Processes("asyncio", *options, modules=str(CONNECTORS), env={"VENDOR": str(vendor)})
        self._host = stack.enter_context(program).ready()
        eventually(lambda: self._host.all_serve, LONG)
        self.pids: set[int] = set()

    def channels(self) -> list[Channel]:
        # the kernel gives each to one of the processes
        return [Channel(self._host.target) for _ in range(8)]

    def harm(self, number: int) -> None:
        """Kill a process; the supervisor starts it again."""
        pid = self._host.pids[number % 2]
        self.pids.add(pid)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: pid not in self._host.pids and self._host.all_serve, LONG)

    @property
    def log(self) -> list[dict]:
        return self._host.log


class AnyOf:
    """A stub that sends each call over one of several channels."""

    def __init__(self, stubs, random) -> None:
        self._stubs, self._random = stubs, random

    def __getattr__(self, name):
        return getattr(self._random.choice(self._stubs), name)


async def run_tasks(hosts, harms: int) -> list[Task]:
    """Run tasks of all types, in parts; harm the hosts when a part has begun."""
    random = Random(20261129)
    tasks = [Task(f"run-{number}", TYPES[number % 3]) for number in range(TASKS)]
    parts = [tasks[number * TASKS // (harms + 1) : (number + 1) * TASKS // (harms + 1)] for number in range(harms + 1)]
    places = anyio.CapacityLimiter(AT_ONCE)
    async with AsyncExitStack() as stack:
        stubs = [AsyncConnectorServiceStub(await stack.enter_async_context(channel)) for channel in hosts.channels()]
        propeller = Propeller(
            AnyOf(stubs, random), random, lost=LOST, max_attempts=200, timeout=TIMEOUT, poll_interval=0.02, pause=0.1
        )

        async def see_through(task: Task, begun: anyio.Event) -> None:
            async with places:
                begun.set()
                await propeller.run(task)

        async with anyio.create_task_group() as group:
            for number, part in enumerate(parts):
                begun = {task.name: anyio.Event() for task in part}
                for task in part:
                    group.start_soon(see_through, task, begun[task.name])
                if number < harms:
                    await begun[part[len(part) // 2].name].wait()
                    await anyio.to_thread.run_sync(partial(hosts.harm, number))
    return tasks


def check(tasks: list[Task], hosts, vendor: Path) -> dict[str, int]:
    """Check that no task has two jobs, or only within the window; return what happened, in numbers."""
    jobs: dict[str, list[list[str]]] = {}
    for file in vendor.iterdir():
        owner, *rest = file.name.split(".")
        jobs.setdefault(owner, []).append(rest)
    twice = {task.name: task for task in tasks if len(jobs.get(task.name, ())) > 1}
    assert [task.name for task in twice.values() if task.task_type != "plain"] == []
    # a duplicate of the others: its host was killed or frozen in the middle, or the log names its key
    doubts = [line for line in hosts.log if line["event"].startswith((TAKEN_OVER, LATE))]
    named = {line[name] for line in doubts for name in ("key", "earlier_key") if name in line}
    for name in twice:
        assert any(int(pid) in hosts.pids or key in named for key, pid, _ in jobs[name]), (name, jobs[name])
    # a task is lost only where nobody knows whether its job exists, and the connector wants no second one
    lost = [task for task in tasks if task.is_lost]
    for task in lost:
        assert task.task_type == "at-most-once"
        assert "FAILED_PRECONDITION: a host has ended while it created this job" in task.create_errors[-1]
    assert all(len(jobs.get(task.name, ())) == 1 for task in tasks if not task.is_lost and task.name not in twice)
    failures = Counter(error.partition(":")[0] for task in tasks for error in task.create_errors)
    return {
        "twice": len(twice), "lost": len(lost), "attempts": sum(task.attempts for task in tasks),
        "replaced": len(hosts.pids), **failures,
    }  # fmt: skip


async def test_two_processes_that_are_killed(tmp_path):
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    with ExitStack() as stack:
        hosts = await anyio.to_thread.run_sync(TwoProcesses, stack, vendor)
        tasks = await run_tasks(hosts, harms=3)
        print(check(tasks, hosts, vendor))
        assert len(hosts.pids) == 3


async def test_three_replicas_that_are_killed_and_their_database(tmp_path):
    if reason := why_not():
        pytest.skip(reason)
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    with postgres_server() as server, ExitStack() as stack:
        hosts = await anyio.to_thread.run_sync(Replicas, stack, server, vendor)
        tasks = await run_tasks(hosts, harms=5)
        print(check(tasks, hosts, vendor))
        assert QUOTED not in str(hosts.log)
