"""The supervisor: starts the processes, shows what they count and how they are, and ends them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import anyio
from anyio.abc import TaskGroup, TaskStatus
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from connectrio.connector.load_failure import LoadFailure
from connectrio.host.exporter import serve_exporter
from connectrio.host.lifecycle import Addresses, HostError, HostState, what_to_act_on
from connectrio.host.listening import ListenError, bind_tcp, can_share_ports
from connectrio.host.settings import HostSettings, anyio_backend
from connectrio.host.signals import watch_signals
from connectrio.logs import get_logger
from connectrio.processes._member import Member
from connectrio.processes.control import Order, Task, write_task
from connectrio.processes.exposition import Merged, snapshot

log = get_logger("connectrio.processes")

__all__ = ["Supervisor", "become_supervisor", "supervise"]

# seconds from the second signal to the end of the supervisor; the processes end or are killed within that
_UNWIND_TIMEOUT = 3.0


def become_supervisor(task: Task) -> NoReturn:
    """Replace this process by one that supervises, under the same process id.

    What this process has imported so far would stay in memory for nothing.

    :raises HostError: not every setting goes with several processes
    """
    check(task.settings, task.processes)
    descriptor = write_task(task)
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: what lies in the working directory does not shadow the standard library; hosts add it when they load
    arguments = [sys.executable, "-P", "-m", "connectrio.cli.process", "supervise", str(descriptor)]
    os.execv(sys.executable, arguments)  # noqa: S606 - this very interpreter


def supervise(task: Task, end_process: Callable[[int], None] | None = None) -> None:
    """Host in several processes until told to stop. Signals do what they do to one process, see `run_host`.

    :param end_process: see `watch_signals`
    :raises SystemExit: at the second signal
    :raises HostError: not every setting goes with several processes, or a process cannot start
    """
    check(task.settings, task.processes)
    backend, options = anyio_backend(task.backend)
    try:
        anyio.run(_run, Supervisor(task), end_process, backend=backend, backend_options=options)
    except BaseExceptionGroup as group:
        raise what_to_act_on(group) from None


async def _run(supervisor: Supervisor, end_process: Callable[[int], None] | None) -> None:
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(watch_signals, supervisor.shutdown, end_process, unwind=_UNWIND_TIMEOUT))
        await supervisor.serve()
        tasks.cancel_scope.cancel()


@dataclass(frozen=True)
class _Ports:
    """The exporter's sockets, and where clients reach the processes."""

    http: list[socket.socket]
    port: int


class Supervisor:
    """Several processes that host the same connectors on one port.

    Run `serve` in a task group of yours; end it with `shutdown`, or by cancelling it. It serves once.

    :param task: the `timeout` of its settings is kept here, for all at once
    """

    def __init__(self, task: Task) -> None:
        self.settings = task.settings
        self._task = task
        self._members: list[Member] = []
        self._shutdown_requested = anyio.Event()
        self._stopped = anyio.Event()
        self.state = HostState.STARTING
        self._merged = Merged()
        self.collectors = CollectorRegistry(auto_describe=False)
        self.collectors.register(self._merged)
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._ready = Gauge("connectrio_processes_ready", "Processes that answer calls", registry=self._own)
        self._restarts = Counter(
            "connectrio_process_restarts_total", "Processes that ended and were started again", registry=self._own
        )

    # what the exporter asks

    @property
    def is_ready(self) -> bool:
        """Whether new work is welcome: at least one process answers calls, and none was told to stop."""
        return self.state is HostState.SERVING and any(member.is_ready for member in self._members)

    @property
    def connectors(self) -> int:
        """How many task types are served, by the process that serves most."""
        return max((member.report.connectors for member in self._members if member.report), default=0)

    @property
    def failures(self) -> Sequence[LoadFailure]:
        """What some process could not load."""
        found = {failure: None for member in self._members if member.report for failure in member.report.failures}
        return [LoadFailure(source, error) for source, error in found]

    @property
    def processes(self) -> list[Mapping[str, Any]]:
        """How each process is."""
        return [
            {
                "process": member.number,
                "pid": member.pid,
                "state": member.state,
                "restarts": member.restarts,
            }
            for member in self._members
        ]

    async def refresh(self) -> None:
        """Ask all processes how they are, and what they have counted."""
        async with anyio.create_task_group() as asking:
            for member in self._members:
                asking.start_soon(member.refresh)
        for member in self._members:
            if member.report is not None:
                self._merged.update(member.number, member.report.metrics)
        self._ready.set(sum(member.is_ready for member in self._members))
        self._merged.update(self, snapshot(self._own))

    # the life cycle

    async def serve(self, *, task_status: TaskStatus[Addresses] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `shutdown` was called and every process has ended, or until cancelled (all stop at once).

        Started with `TaskGroup.start`, this reports the addresses once every process answers calls.

        :raises HostError: a port is taken, or a process cannot start
        """
        try:
            async with self._bound() as ports, anyio.create_task_group() as siblings:
                await siblings.start(serve_exporter, ports.http, self)
                async with anyio.create_task_group() as tasks:
                    self._start_members(ports, tasks)
                    await self._serve(ports, task_status)
                siblings.cancel_scope.cancel()
        finally:
            self.state = HostState.STOPPED
            self._stopped.set()

    async def shutdown(self) -> None:
        """Drain every process, and return when all have ended."""
        self._shutdown_requested.set()
        await self._stopped.wait()

    def _start_members(self, ports: _Ports, tasks: TaskGroup) -> None:
        task = self._task
        settings = replace(self.settings, port=ports.port, timeout=None)
        http = _names(ports.http)
        for number in range(task.processes):
            order = Order(number, task.processes, settings, task.backend, task.log_level, task.log_format, http)
            member = Member(order, lambda number=number: self._ended(number))  # type: ignore[misc]
            self._members.append(member)
            tasks.start_soon(member.run)

    def _ended(self, number: int) -> None:
        self._merged.ended(number)
        if self.state is HostState.SERVING:
            self._restarts.inc()

    async def _serve(self, ports: _Ports, task_status: TaskStatus[Addresses]) -> None:
        if await self._all_serve():
            self.state = HostState.SERVING
            await self._members[0].ask("announce")
            log.info("all processes serve", processes=self._task.processes)
            task_status.started(Addresses(tuple(self._members[0].addresses), tuple(_names(ports.http))))
            with anyio.move_on_after(self.settings.timeout):
                await self._shutdown_requested.wait()
        self.state = HostState.DRAINING
        for member in self._members:
            member.stop()

    async def _all_serve(self) -> bool:
        """Wait for it; False when `shutdown` was called before."""
        all_serve = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_at_shutdown, tasks.cancel_scope)
            for member in self._members:
                await member.serving.wait()
            all_serve = True
            tasks.cancel_scope.cancel()
        return all_serve

    async def _cancel_at_shutdown(self, scope: anyio.CancelScope) -> None:
        await self._shutdown_requested.wait()
        scope.cancel()

    @asynccontextmanager
    async def _bound(self) -> AsyncIterator[_Ports]:
        """The exporter's port, bound, and gRPC's, kept from others.

        :raises HostError: one cannot be had
        """
        settings = self.settings
        with ExitStack() as stack:
            try:
                # alone first: what may be shared could also be shared with a host that was there before
                alone = await bind_tcp(settings.host, settings.port, purpose="gRPC", setting="--port")
                port = int(alone[0].getsockname()[1])
                for each in alone:
                    each.close()
                kept = await bind_tcp(settings.host, port, purpose="gRPC", setting="--port", shared=True, listen=False)
                for each in kept:
                    stack.callback(each.close)
                http = await bind_tcp(
                    settings.host, settings.prometheus_port, purpose="the metrics", setting="--prometheus_port"
                )
                for each in http:
                    stack.callback(each.close)
            except ListenError as error:
                raise HostError(str(error)) from error
            yield _Ports(http, port)


def check(settings: HostSettings, processes: int) -> None:
    """:raises HostError: so many processes cannot host with these settings"""
    if processes < 1:
        raise HostError(f"--processes must be at least 1, got {processes}")
    if not can_share_ports():
        raise HostError("this system does not let processes share a port (SO_REUSEPORT): leave --processes at 1")
    if settings.unix_socket is not None:
        raise HostError(
            "a Unix socket cannot be shared by several processes: leave --unix-socket out, or --processes at 1"
        )


def _names(sockets: list[socket.socket]) -> list[tuple[str, int]]:
    return [each.getsockname()[:2] for each in sockets]
