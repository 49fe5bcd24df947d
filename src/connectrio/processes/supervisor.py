"""The supervisor: starts and stops the processes, and shows the metrics and the state of all of them."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
import msgspec
from anyio.abc import TaskGroup
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from connectrio._version import __version__
from connectrio.connector.failures import LoadFailure
from connectrio.host.exporter import serve_exporter
from connectrio.host.held import HeldSockets
from connectrio.host.lifecycle import Addresses, HostState, completes_before
from connectrio.host.metrics import READY, CertificateMetrics, ReadyMetric
from connectrio.host.ports import bind_tcp, exporter_tls, local_addresses
from connectrio.host.settings import HostSettings
from connectrio.host.signals import run_until_signalled
from connectrio.host.systemd import held_sockets, reporting
from connectrio.logs import get_logger
from connectrio.logs.metrics import DroppedLines
from connectrio.processes._member import Member
from connectrio.processes.control import Described, Order, ServeOptions
from connectrio.processes.exposition import Merged, snapshot
from connectrio.processes.launch import check
from connectrio.processes.reports import join
from connectrio.rpc.sockets import stop_listening
from connectrio.telemetry.attention import needs_attention
from connectrio.telemetry.report import CertificateReport, HostReport, ProcessReport, StackReport

if TYPE_CHECKING:
    from connectrio.rpc.tls import ServerTLS

log = get_logger("connectrio.processes")

Conduct = Callable[["Supervisor"], Awaitable[None]]

__all__ = ["Conduct", "Supervisor", "supervise"]

# seconds from the second signal to the end of the supervisor; the processes end or are killed within that
_UNWIND_TIMEOUT = 3.0


def supervise(
    options: ServeOptions, end_process: Callable[[int], None] | None = None, conduct: Conduct | None = None
) -> None:
    """Host in several processes until told to stop. Signals have the same effect as on one process, see `run_host`.

    :param end_process: see `run_until_signalled`
    :param conduct: see `Supervisor`
    :raises SystemExit: at the second signal
    :raises HostError: a setting does not work with several processes, or a process cannot start
    """
    check(options.settings, options.processes)
    supervisor = Supervisor(options, conduct, held_sockets(options.settings))
    run_until_signalled(
        partial(reporting, supervisor.serve, supervisor),
        supervisor.shutdown,
        backend=options.backend,
        show_stuck=supervisor.show_stuck,
        end_process=end_process,
        unwind=_UNWIND_TIMEOUT,
    )


class Supervisor:
    """Several processes that host the same connectors on one port.

    Run `serve` in a task group of yours; end it with `shutdown`, or by cancelling it. It serves once.

    :param options: the supervisor applies the `timeout` of its settings to all processes at once
    :param conduct: starts processes with `replace`, the first ones and others in their place. It is cancelled when the
        supervisor shuts down, which then drains the processes; so it does when this returns. By default, it starts and
        announces the first ones
    :param held: listening sockets that another process has opened for the settings' ports. The processes share those
        for gRPC
    """

    def __init__(self, options: ServeOptions, conduct: Conduct | None = None, held: HeldSockets | None = None) -> None:
        self.settings = options.settings
        self._options = options
        self._held = held or HeldSockets()
        self._conduct = conduct or Supervisor._start_and_announce
        # set while `serve` runs: the tasks of the processes, and what is common to their orders
        self._tasks: TaskGroup | None = None
        self._order: Callable[[int, LoadFailure | None], Order] | None = None
        self._numbers = count()
        # where it and its processes are reached; None before the ports are bound
        self.addresses: Addresses | None = None
        # those that wait for their order
        self._spares: list[Member] = []
        # those that were replaced, and drain
        self._leaving: list[Member] = []
        self._members: list[Member] = []
        self._shutdown_requested = anyio.Event()
        self._stopped = anyio.Event()
        self.state = HostState.STARTING
        self._started = time.time()
        self._merged = Merged()
        self.collectors = CollectorRegistry(auto_describe=False)
        self.collectors.register(self._merged)
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._own.register(DroppedLines())
        self._tls: dict[str, ServerTLS] = {}
        self._own.register(ReadyMetric(lambda: self.is_ready))
        self._ready = Gauge("connectrio_processes_ready", "Processes that answer calls", registry=self._own)
        self._restarts = Counter(
            "connectrio_process_restarts_total", "Processes that ended and were started again", registry=self._own
        )

    # the exporter's source

    @property
    def is_ready(self) -> bool:
        """Whether at least one process accepts new work, and none was told to stop."""
        return self.state is HostState.SERVING and any(member.is_ready for member in self._members)

    @property
    def connectors(self) -> int | None:
        """The number of task types that are served, by the process that serves most; None before one serves."""
        return max((member.report.connectors for member in self._members if member.report), default=None)

    @property
    def failures(self) -> Sequence[LoadFailure]:
        """The connectors that some process could not load."""
        return list(
            dict.fromkeys(failure for member in self._members if member.report for failure in member.report.failures)
        )

    @property
    def processes(self) -> list[Mapping[str, Any]]:
        """The state of each process."""
        return [
            {
                "process": member.number,
                "pid": member.pid,
                "state": member.state,
                "restarts": member.restarts,
            }
            for member in self._everyone
        ]

    @property
    def _everyone(self) -> list[Member]:
        return [*self._leaving, *self._members]

    @property
    def not_ready(self) -> list[str]:
        """Why none of the processes accepts new work; empty if one does."""
        if self.is_ready:
            return []
        if self.state is not HostState.SERVING:
            return [f"the host is {self.state}"]
        reasons = []
        for member in self._members:
            told = member.report.not_ready if member.report is not None and member.state == "serving" else []
            reasons += [f"process {member.number}: {reason}" for reason in told or [member.state]]
        return reasons

    async def report(self) -> HostReport:
        """Return what the status page and /api show, of all processes."""
        reports: dict[int, HostReport] = {}

        async def ask(member: Member) -> None:
            status = await member.status()
            if status is not None:
                reports[member.number] = status.report

        async with anyio.create_task_group() as asking:
            asking.start_soon(self.refresh)
            for member in self._everyone:
                asking.start_soon(ask, member)
        processes = [
            ProcessReport(process=each.number, pid=each.pid, state=each.state, restarts=each.restarts)
            for each in self._everyone
        ]
        return join(self._own_report(), dict(sorted(reports.items())), processes)

    async def stacks(self) -> list[StackReport]:
        """Return where the tasks and threads of all processes are, each with the number of its process."""
        found: dict[int, list[StackReport]] = {}

        async def ask(member: Member) -> None:
            answer = await member.stacks()
            if answer is not None:
                found[member.number] = answer.stacks

        async with anyio.create_task_group() as asking:
            for member in self._everyone:
                asking.start_soon(ask, member)
        return [msgspec.structs.replace(stack, process=number) for number in sorted(found) for stack in found[number]]

    def _own_report(self) -> HostReport:
        report = HostReport(
            state=str(self.state),
            is_ready=self.is_ready,
            not_ready=self.not_ready,
            version=__version__,
            python=platform.python_version(),
            backend=self._options.backend,
            pid=os.getpid(),
            host=platform.node(),
            now=time.time(),
            started=self._started,
            restart_safe="",
            settings={},
            grpc=[],
            lag=0.0,
            threads_busy=0,
            threads_limit=0,
            dropped_lines=0,
            lines_dropped_at=None,
            attention=[],
            connectors=[],
            load_failures=[],
            jobs=[],
            calls=[],
            failures=[],
            incidents=[],
            threads=[],
            connections=[],
            certificates=[
                CertificateReport(port=port, file=str(tls.certfile), expires=tls.expires_at)
                for port, tls in self._tls.items()
            ],
            processes=[],
        )
        report.attention.extend(needs_attention(report))
        return report

    async def refresh(self) -> None:
        """Ask all processes for their state and their metrics; read the files for TLS again if they have changed."""
        for each in self._tls.values():
            each.refresh()
        async with anyio.create_task_group() as asking:
            for member in self._everyone:
                asking.start_soon(member.refresh)
        for member in self._everyone:
            if not member.answers:
                self._merged.silent(member.number)
            elif member.report is not None:
                # whether the port is ready is not the sum of what processes last said
                families = [family for family in member.report.metrics if family.name != READY]
                self._merged.update(member.number, families)
        self._ready.set(sum(member.is_ready for member in self._members))
        self._merged.update(self, snapshot(self._own))

    # the life cycle

    async def serve(self) -> None:
        """Serve until `shutdown` was called and every process has ended, or until cancelled (all stop at once).

        :raises HostError: a port is taken, or a process cannot start
        """
        tls = exporter_tls(self.settings)
        context = None
        if tls is not None:
            context, self._tls = tls.context, {"exporter": tls}
            self._own.register(CertificateMetrics(self._tls))
        try:
            with ExitStack() as stack:
                reserved, http = await self._bind(stack)
                self.addresses = Addresses(
                    local_addresses(reserved),
                    local_addresses(http),
                    has_tls=self.settings.tls_cert is not None,
                    has_http_tls=self.settings.prometheus_tls,
                )
                # copies, because uvloop closes in the processes what is closed in other children
                held = [stack.enter_context(each.dup()).fileno() for each in self._held.grpc]
                job_store = stack.enter_context(_job_store(self.settings))
                async with anyio.create_task_group() as siblings:
                    await siblings.start(partial(serve_exporter, http, self, self.settings, context=context))
                    await self._serve_members(self.addresses, job_store, held)
                    siblings.cancel_scope.cancel()
        finally:
            self.state = HostState.STOPPED
            self._stopped.set()

    async def shutdown(self) -> None:
        """Drain every process, and return when all have ended."""
        self._shutdown_requested.set()
        await self._stopped.wait()

    def show_stuck(self) -> None:
        """Let every process log which of its worker threads are stuck."""
        for member in self._everyone:
            member.show_stuck()

    def prepare(self) -> None:
        """Start the processes of the next `replace`, which import the host, and wait for what to host."""
        if self._tasks is None or self._order is None:
            raise RuntimeError("the supervisor does not serve")
        for _ in range(self._options.processes):
            member = Member(self._order(next(self._numbers), None), on_end=self._ended, waits=True)
            self._spares.append(member)
            self._tasks.start_soon(self._run, member)

    async def replace(self, broken: LoadFailure | None = None) -> None:
        """Start processes. When all of them serve, those of before drain, and end. New connections reach only the new
        ones when this returns.

        If this is cancelled or fails before, those of before go on.

        :param broken: host without the modules, which cannot be loaded for this reason, see `Registry.broken`
        :raises HostError: a process cannot start
        """
        if self._tasks is None or self._order is None:
            raise RuntimeError("the supervisor does not serve")
        if not self._spares:
            self.prepare()
        new, self._spares = self._spares, []
        self._members = self._members or new
        for member in new:
            member.begin(self._order(member.number, broken))
        try:
            await _until_all_serve(new)
        except BaseException:
            if self._members is not new or not self._shutdown_requested.is_set():  # the end drains those that it finds
                for member in new:
                    member.give_up()
                self._members = [member for member in self._members if member not in new]
            raise
        if self.state is HostState.STARTING:
            self.state = HostState.SERVING
        if self._members is not new:
            await self._put_in_place(new)

    async def _put_in_place(self, new: list[Member]) -> None:
        """Drain the processes of before, and wait until new connections reach only the new ones."""
        old, self._members = self._members, new
        self._leaving += old
        for member in old:
            member.stop()
        for member in old:
            await member.has_left_the_port()

    async def describe(self) -> Described | None:
        """Return what the first process serves, for its author; None if it does not answer in time."""
        return await self._members[0].describe()

    async def _bind(self, stack: ExitStack) -> tuple[list[socket.socket], list[socket.socket]]:
        """Return sockets that reserve the gRPC port until `stack` ends, and those of the exporter.

        :raises HostError: a port cannot be bound
        """
        settings = self.settings
        reserved = self._held.grpc or await self._reserve()
        for each in reserved:
            stack.callback(each.close)
        http = self._held.http or await bind_tcp(
            settings.host, settings.prometheus_port, purpose="the metrics", setting="--prometheus-port"
        )
        for each in http:
            stack.callback(stop_listening, each)
        return reserved, http

    async def _reserve(self) -> list[socket.socket]:
        """Return sockets with the gRPC port, which the processes can share.

        :raises HostError: it cannot be bound
        """
        settings = self.settings
        # not shared at first: a shared port could also be shared with a host that runs already
        alone = await bind_tcp(settings.host, settings.port, purpose="gRPC", setting="--port")
        port = int(alone[0].getsockname()[1])
        for each in alone:
            stop_listening(each)
        return await bind_tcp(settings.host, port, purpose="gRPC", setting="--port", shared=True, listen=False)

    async def _serve_members(self, addresses: Addresses, job_store: str | None, held: list[int]) -> None:
        """Run the processes, from their start to their end."""
        settings = replace(self.settings, port=addresses.port, timeout=None, job_store=job_store)
        options = msgspec.structs.replace(self._options, settings=settings)
        bare = msgspec.structs.replace(options, settings=replace(settings, modules=[]))
        http = list(addresses.http)
        self._order = lambda number, broken: Order(number, bare if broken else options, http, broken, held)
        async with anyio.create_task_group() as self._tasks:
            await completes_before(self._shutdown_requested, partial(self._conduct, self))
            self.state = HostState.DRAINING
            for member in [*self._members, *self._spares]:
                member.stop()

    async def _start_and_announce(self) -> None:
        await self.replace()
        await self._members[0].ask("announce")
        log.info("all processes serve", processes=self._options.processes)
        with anyio.move_on_after(self.settings.timeout):
            await anyio.sleep_forever()

    async def _run(self, member: Member) -> None:
        await member.run()
        if member in self._leaving:
            self._leaving.remove(member)

    def _ended(self, member: Member) -> None:
        self._merged.ended(member.number)
        if self.state is HostState.SERVING and not member.is_stopping:
            self._restarts.inc()


async def _until_all_serve(members: list[Member]) -> None:
    """Wait until all processes serve.

    :raises HostError: one cannot
    """

    async def wait(member: Member) -> None:
        await member.settled.wait()
        if member.failure is not None:
            waiting.cancel_scope.cancel()

    async with anyio.create_task_group() as waiting:
        for member in members:
            waiting.start_soon(wait, member)
    for member in members:
        if member.failure is not None:
            raise member.failure


@contextmanager
def _job_store(settings: HostSettings) -> Iterator[str | None]:
    """Return the `job_store` of all processes: by default a file in a temporary directory of its own, removed at the
    end; None if jobs are not remembered, or no such directory can be made.
    """
    if settings.job_store is not None or settings.create_memory == 0:
        yield settings.job_store
        return
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(TemporaryDirectory(prefix="connectrio-", ignore_cleanup_errors=True))
        except OSError as error:
            log.warning(
                "the processes share no job store, so a job that two of them are asked for is created twice",
                reason=str(error),
            )
            yield None
            return
        yield f"sqlite://{quote(str(Path(directory).resolve() / 'jobs.db'))}"
