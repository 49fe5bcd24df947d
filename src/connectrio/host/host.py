"""The host: one root task group that holds the exporter, the connectors' lifespans and the gRPC server.

The life of a host, which `HostState` names:

    STARTING   connectors load, ports are bound, lifespans open; the exporter answers, /readyz 503
    SERVING    health SERVING, /readyz 200
    DRAINING   health NOT_SERVING, /readyz 503; the listeners close after `drain_delay`, calls in flight finish within
               `grace`, what is left is answered UNAVAILABLE
    STOPPED    the lifespans are closed
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import Listener, TaskStatus
from prometheus_client import CollectorRegistry

from connectrio.connector.choice import ConnectorChoice
from connectrio.connector.failures import LoadFailure
from connectrio.connector.registry import ConnectorRegistry, Registry
from connectrio.diagnostics import text_of
from connectrio.host.held import HeldSockets
from connectrio.host.lifecycle import Addresses, HostError, HostState, ProcessOfSeveral, completes_before
from connectrio.host.lifespans import Lifespans
from connectrio.host.loading import (
    host_built_in,
    host_registered,
    load_entry_points,
    load_modules,
    report_choice,
)
from connectrio.host.metrics import CertificateMetrics, HostMetrics, ReadyMetric, ServerMetrics
from connectrio.host.ports import HostPorts, bind_ports
from connectrio.host.settings import HostSettings
from connectrio.host.watchdog import Watchdog
from connectrio.logs import get_logger, keep_logging
from connectrio.rpc import Server
from connectrio.rpc.health import Health, ServingStatus
from connectrio.rpc.reflection import Reflection, bundled_descriptors, service_names
from connectrio.rpc.sockets import own_sockets
from connectrio.service.async_connector import AsyncConnectorService
from connectrio.service.connector_metadata import ConnectorMetadataService, not_ready_metadata, registry_metadata
from connectrio.service.flyte1.agents import AgentMetadataService, AsyncAgentService
from connectrio.service.flyte1.sync_agent import SyncAgentService
from connectrio.service.metrics import Metrics
from connectrio.telemetry.account import Account
from connectrio.telemetry.report import HostReport, StackReport

if TYPE_CHECKING:
    from connectrio.host.report import HostParts
    from connectrio.rpc.tls import ServerTLS
    from connectrio.service.shared_creates import SharedCreates
    from connectrio.tracing import Tracing

log = get_logger("connectrio.host.host")

__all__ = ["Addresses", "Host", "HostError", "HostState"]

_HEALTH_NAMES = (
    "",
    "flyteidl.service.AgentMetadataService",
    "flyteidl.service.AsyncAgentService",
    "flyteidl.service.SyncAgentService",
    "flyteidl2.connector.AsyncConnectorService",
    "flyteidl2.connector.ConnectorMetadataService",
    "grpc.health.v1.Health",
)
_WHY = {
    HostState.STARTING: "the host is starting",
    HostState.DRAINING: "the host is draining: it was told to stop, and finishes the calls in flight",
    HostState.STOPPED: "the host has stopped",
}
# seconds; threads of cancelled calls cannot be stopped, and still use their connectors, which close next
_WORKERS_TIMEOUT = 2.0
# connectors that are named in one reason
_MOST_NAMES = 5


class Host:
    """Hosts the connectors of a registry over gRPC, and the exporter over HTTP.

    Run `serve` in a task group of yours; end it with `shutdown`, or by cancelling it. A host serves once.

    :param settings: see `HostSettings`
    :param registry: the connectors to host; by default the registry of the process, into which the installed entry
        points are loaded. To a registry given here, only `settings.modules` add connectors
    :param listeners: used in place of the settings' ports and sockets; then there is no exporter. The addresses of the
        host are theirs
    :param one_of: this host is one of several that share the port; then it has no exporter of its own
    :param held: listening sockets that another process has opened for the settings' ports, as systemd does
    """

    def __init__(
        self,
        settings: HostSettings | None = None,
        *,
        registry: Registry | None = None,
        listeners: Sequence[Listener[Any]] | None = None,
        one_of: ProcessOfSeveral | None = None,
        held: HeldSockets | None = None,
    ) -> None:
        self.settings = settings or HostSettings()
        self._listeners = listeners
        self._held = held
        self.one_of = one_of
        self.registry = registry if registry is not None else ConnectorRegistry.default
        self._is_process_wide = registry is None
        self.state = HostState.STARTING
        self.metrics = Metrics()
        self.health = Health(details=lambda: [*registry_metadata(self.registry), *not_ready_metadata(self.not_ready)])
        self.watchdog: Watchdog | None = None
        self._reflection: Reflection | None = None
        self.account = Account()
        self.started = self.account.clock()
        self.service: AsyncConnectorService | None = None
        self.server: Server | None = None
        self.addresses: Addresses | None = None
        self.tls: dict[str, ServerTLS] = {}
        self._tracing: Tracing | None = None
        self._grace = self.settings.grace
        self._shutdown_requested = anyio.Event()
        self._lifespans = Lifespans(
            self.registry,
            self.settings,
            self.metrics,
            processes=one_of.processes if one_of else 1,
            changed=self._update_health,
        )
        self._stopped = anyio.Event()
        self._grpc_sockets: list[socket.socket] = []
        self._exporting: anyio.CancelScope | None = None
        # on the clock of time.monotonic; None before the first call can come
        self._served_since: float | None = None

    # the exporter's source

    @property
    def is_ready(self) -> bool:
        """Whether the host accepts new work."""
        return not self.not_ready

    @property
    def not_ready(self) -> list[str]:
        """Why the host accepts no new work, a sentence for each reason. Everyone may see these, so they tell no texts
        of errors."""
        reasons = []
        outages = list(self.registry.outages.items())  # a scrape's thread asks too, while lifespans open
        if self.state is not HostState.SERVING:
            opening = [f"{task_type} ({version})" for (task_type, version), _ in outages]
            is_starting = self.state is HostState.STARTING and opening
            reasons.append(
                f"{_WHY[self.state]}: it opens the lifespan of {', '.join(opening[:_MOST_NAMES])}, within"
                f" {self.settings.lifespan_timeout:g} s (lifespan_timeout)"
                if is_starting
                else _WHY[self.state]
            )
        if self.registry.broken is not None:
            reasons.append(f"{self.registry.broken.source} cannot be loaded; the log and the status page say why")
        culprit = None if self.watchdog is None else self.watchdog.culprit
        if culprit is not None:
            reasons.append(f"{culprit.method} blocks the event loop at {culprit.line}{culprit.whom}")
        if not self._has_required:
            reasons += [
                f"require_lifespans is set, and that of {task_type} ({version}) is not open: {outage.kind}; the host"
                " tries again, the log and the status page say why"
                for (task_type, version), outage in outages
            ]
        return reasons

    @property
    def is_listening(self) -> bool:
        """Whether it takes new connections for gRPC."""
        return any(each.fileno() >= 0 for each in self._grpc_sockets)

    @property
    def _has_required(self) -> bool:
        return not (self.settings.require_lifespans and self.registry.outages)

    @property
    def failures(self) -> Sequence[LoadFailure]:
        """The connectors that could not be loaded, or whose lifespan is not open, or has failed to close."""
        return self.registry.all_failures()

    @property
    def connectors(self) -> int:
        """The number of task types that are served."""
        return len(self.registry.registered())

    @property
    def collectors(self) -> CollectorRegistry:
        """The metrics."""
        return self.metrics.registry

    @property
    def processes(self) -> Sequence[Mapping[str, Any]]:
        """Empty: a host is a single process; see `connectrio.processes` for several."""
        return ()

    async def refresh(self) -> None:
        """Read the files for TLS again if they have changed; the properties above are always up to date."""
        for each in self.tls.values():
            each.refresh()

    async def report(self) -> HostReport:
        """Return what this host knows of itself, its calls and its jobs."""
        from connectrio.host.report import report_host  # not before somebody asks

        await self.refresh()
        return await report_host(self._parts())

    async def stacks(self) -> list[StackReport]:
        """Return where the tasks and the threads of this process are."""
        from connectrio.host.report import report_stacks

        return await report_stacks(self._parts())

    def _parts(self) -> HostParts:
        from connectrio.host.report import HostParts

        return HostParts(
            settings=self.settings,
            registry=self.registry,
            account=self.account,
            state=self.state,
            not_ready=self.not_ready,
            started=self.started,
            addresses=self.addresses,
            service=self.service,
            server=self.server,
            tls=self.tls,
            watchdog=self.watchdog,
        )

    # the life cycle

    async def serve(self, *, task_status: TaskStatus[Addresses] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `shutdown` was called and everything has ended, or until cancelled (everything stops at once).

        Started with `TaskGroup.start`, this reports the addresses once calls are answered. If it is shut down before
        that, it returns without reporting them.

        :raises HostError: a port is taken, a module cannot be loaded, or tracing cannot be set up
        """
        try:
            self._load()
            self.metrics.registry.register(HostMetrics(lambda: self.state, lambda: len(self.registry.failures)))
            self.metrics.registry.register(ReadyMetric(lambda: self.is_ready))
            async with AsyncExitStack() as stack:
                if self.settings.tracing:
                    self._tracing = _start_tracing()
                    stack.push_async_callback(self._tracing.stop)
                shared = await _share_creates(self.settings, self.metrics, stack)
                bind = partial(
                    bind_ports, self.settings, stack, listeners=self._listeners, one_of=self.one_of, held=self._held
                )
                # the kernel gives connections to one of several as soon as it listens, so it binds when it can serve
                ports = None if self.one_of else await bind()
                async with anyio.create_task_group() as exporting:
                    if ports and ports.http:
                        await exporting.start(self._export, ports)
                    self._keep_logging()
                    async with anyio.create_task_group() as holding:
                        if await completes_before(self._shutdown_requested, partial(self._lifespans.open, holding)):
                            await self._serve_connectors(ports or await bind(), shared, task_status)
                        self._lifespans.close()
                    if holding.cancel_scope.cancelled_caught:
                        self._lifespans.report_unclosed()
                    exporting.cancel_scope.cancel()
        finally:
            self.state = HostState.STOPPED
            if self._served_since is not None:
                log.info("stopped", seconds=round(time.monotonic() - self._served_since, 3))
            self._stopped.set()

    async def _export(self, ports: HostPorts, *, task_status: TaskStatus[Any]) -> None:
        """Run the exporter until cancelled, or until a successor has its port."""
        from connectrio.host.exporter import serve_exporter  # not before a host has one

        with anyio.CancelScope() as self._exporting:
            await serve_exporter(ports.http, self, self.settings, context=ports.http_context, task_status=task_status)

    async def shutdown(self, grace: float | None = None) -> None:
        """Drain, and return when the host has stopped. Calling it again waits for the same end.

        :param grace: seconds, in place of `settings.grace`
        """
        if grace is not None:
            self._grace = grace
        self._shutdown_requested.set()
        await self._stopped.wait()

    def show_stuck(self) -> None:
        """Log which worker threads are stuck in calls that nobody waits for any more, and where."""
        stuck = [] if self.service is None else list(self.service.workers.stuck())
        log.info("the stuck worker threads follow", count=len(stuck))
        for name, seconds, stack in stuck:
            log.warning("a worker thread is stuck", method=name, seconds=round(seconds, 3), stack=stack)

    def _load(self) -> None:
        self.registry.choice = ConnectorChoice(self.settings.prefer, self.settings.exclude)
        if self._is_process_wide:
            host_registered(self.registry)
        # before the entry points: what a module imports of an installed package counts as named by the user
        load_modules(self.registry, self.settings.modules)
        if self._is_process_wide and self.settings.entry_points:
            load_entry_points(self.registry)
        host_built_in(self.registry)
        report_choice(self.registry)
        served = {each.connector.task_type_name for each in self.registry.registered()}
        for task_type in self.settings.policies.task_types:
            if task_type not in served:
                from difflib import get_close_matches  # most hosts have none

                near = get_close_matches(task_type, served, n=1)
                log.warning(
                    "connector_options names a task type that no connector serves; its options have no effect",
                    task_type=task_type,
                    **({"nearest": near[0]} if near else {}),
                )

    def _keep_logging(self) -> None:
        keep_logging({type(each.connector).__module__.partition(".")[0] for each in self.registry.registered()})

    async def _serve_connectors(
        self, ports: HostPorts, shared: SharedCreates | None, task_status: TaskStatus[Addresses]
    ) -> None:
        """Run the gRPC server and the exporter, from the first call to the last."""
        self._keep_logging()  # lifespans may have set up logging, too
        for danger in self.settings.dangers(ports.addresses):
            log.warning(danger)
        trace = None if self._tracing is None else self._tracing.method_span
        connectors = AsyncConnectorService(
            self.registry, self.settings, metrics=self.metrics, account=self.account, trace=trace, shared=shared
        )
        server = self._make_server(connectors)
        self.service, self.server, self.addresses = connectors, server, ports.addresses
        self.metrics.registry.register(ServerMetrics(server))
        shown = {"gRPC": ports.tls, "exporter": ports.http_tls if ports.http else None}
        self.tls = {port: tls for port, tls in shown.items() if tls is not None}
        if self.tls:
            self.metrics.registry.register(CertificateMetrics(self.tls))
        async with anyio.create_task_group() as siblings:
            self._grpc_sockets = [each for listener in ports.grpc for each in own_sockets(listener)]
            await siblings.start(server.serve, ports.grpc)
            self.state = HostState.SERVING
            self._served_since = time.monotonic()
            self._update_health()
            self.watchdog = Watchdog(
                self.settings.watchdog,
                metrics=self.metrics,
                registry=self.registry,
                sockets=ports.http,
                context=ports.http_context,
                names_tasks=self.settings.page and self.settings.page_token_file is None,
            )
            siblings.start_soon(self.watchdog.run)
            siblings.start_soon(self.account.run)
            await siblings.start(connectors.known_jobs.run)
            task_status.started(ports.addresses)
            if ports.predecessor is not None:
                await ports.predecessor.succeed()
            try:
                with anyio.move_on_after(self.settings.timeout):
                    await self._shutdown_requested.wait()
                await self._drain(ports, server, connectors)
            finally:
                # when this is cancelled, creates that are shielded from their callers' cancellation end as well
                connectors.creates.end_by(anyio.current_time())
            with anyio.move_on_after(_WORKERS_TIMEOUT):
                await connectors.workers.wait_idle()
            siblings.cancel_scope.cancel()

    def _update_health(self) -> None:
        if self.state is HostState.SERVING:
            is_well = self._has_required and self.registry.broken is None
            status = ServingStatus.SERVING if is_well else ServingStatus.NOT_SERVING
            for name in _HEALTH_NAMES:
                self.health.set(name, status)

    def _make_server(self, connectors: AsyncConnectorService) -> Server:
        servicers = (
            connectors,
            ConnectorMetadataService(self.registry),
            AsyncAgentService(connectors),
            SyncAgentService(connectors),
            AgentMetadataService(self.registry),
            self.health,
        )
        on_call = None if self._tracing is None else self._tracing.on_call
        make = partial(Server, options=self.settings, on_connection_end=self.metrics.connection_ended, on_call=on_call)
        if not self.settings.reflection:
            return make(servicers)
        self._reflection = Reflection(service_names(servicers), bundled_descriptors)
        return make((*servicers, self._reflection))

    async def _drain(self, ports: HostPorts, server: Server, connectors: AsyncConnectorService) -> None:
        log.info("draining", calls=server.active_calls, grace_seconds=self._grace)
        self.state = HostState.DRAINING
        self.health.drain()
        self._lifespans.drain()
        await self._accept_meanwhile(ports)
        server.stop_accepting()
        self.health.end_watches()
        if self._reflection is not None:
            self._reflection.end_streams()
        connectors.creates.end_by(anyio.current_time() + self._grace)
        connectors.known_jobs.stop()
        await server.shutdown(self._grace)
        log.info("drained")

    async def _accept_meanwhile(self, ports: HostPorts) -> None:
        """Wait for `drain_delay`, or until a successor has the ports and serves."""
        if not self.settings.drain_delay or self._listeners is not None or self.one_of is not None:
            await anyio.sleep(self.settings.drain_delay)
            return
        from connectrio.host.handover import hand_over  # not before a host drains

        tcp = [each for each in self._grpc_sockets if each.family in (socket.AF_INET, socket.AF_INET6)]
        if await hand_over(tcp, ports.http, self.settings.drain_delay) is None:
            return
        # probes and scrapes are the successor's from now on
        if self.watchdog is not None:
            self.watchdog.stop_answering()
        if self._exporting is not None:
            self._exporting.cancel()


async def _share_creates(settings: HostSettings, metrics: Metrics, stack: AsyncExitStack) -> SharedCreates | None:
    """Open the job store, if there is one, until `stack` ends. If its database does not answer, it goes on trying.

    :raises HostError: it is required and not given, or the client of its database is not installed
    """
    if settings.job_store is None:
        if settings.job_store_required:
            raise HostError("job_store_required is of no use without job_store: give the URL of the database")
        return None
    try:
        from connectrio.service.shared_creates import share_creates  # not before a host has a store

        return await stack.enter_async_context(share_creates(settings, metrics.registry))
    except ImportError as error:
        raise HostError(f"job_store needs psycopg ({error}); run: pip install 'connectrio[postgres]'") from error


def _start_tracing() -> Tracing:
    """Set tracing up.

    :raises HostError: OpenTelemetry is not installed, or one of its variables is wrong
    """
    try:
        from connectrio.tracing import Tracing  # not before a host traces

        return Tracing()
    except ImportError as error:
        raise HostError(f"tracing needs OpenTelemetry ({error}); run: pip install 'connectrio[otel]'") from error
    except Exception as error:
        # any: OpenTelemetry and its plug-ins raise what they like about their variables
        raise HostError(f"tracing cannot be set up: {text_of(error)}; see the OTEL_ variables") from error
