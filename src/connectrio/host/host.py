"""The host: one root task group that holds the connectors' lifespans, the gRPC server and the exporter.

The life of a host, which `HostState` names:

    STARTING   connectors load, ports are bound, lifespans open
    SERVING    health SERVING, /readyz 200
    DRAINING   health NOT_SERVING, /readyz 503; the listeners close after `drain_delay`, calls in flight finish within
               `grace`, what is left is answered UNAVAILABLE
    STOPPED    the lifespans are closed
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ssl import TLSVersion
from typing import Any

import anyio
from anyio.abc import Listener, SocketListener, TaskGroup, TaskStatus
from prometheus_client import CollectorRegistry

from connectrio.connector.context import process_count, worker_limit
from connectrio.connector.load_failure import LoadFailure
from connectrio.connector.registry import ConnectorRegistry, RegisteredConnector, Registry
from connectrio.host.lifecycle import Addresses, HostError, HostState, ProcessOfSeveral
from connectrio.host.listening import ListenError, bind_tcp
from connectrio.host.loading import ModuleLoadError, host_registered, load_entry_points, load_modules
from connectrio.host.settings import HostSettings
from connectrio.host.watchdog import Culprit, Watchdog
from connectrio.logs import get_logger
from connectrio.rpc import Server
from connectrio.rpc._server.server import Servicer
from connectrio.rpc.health import Health, ServingStatus
from connectrio.rpc.reflection import Reflection, bundled_descriptors, service_names
from connectrio.rpc.sockets import UnixSocketError, listen_unix
from connectrio.rpc.tls import ServerTLS, TLSFilesError
from connectrio.service import (
    Admission,
    AgentMetadataService,
    AsyncAgentService,
    AsyncConnectorService,
    ConnectorMetadataService,
    IdempotentCreates,
    InputReader,
    Metrics,
    OperationLimits,
    PollShield,
    SyncAgentService,
    Workers,
    failure_metadata,
)

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
# seconds; a lifespan that hangs while it closes must not keep a drained host from ending
_LIFESPAN_CLOSE_TIMEOUT = 10.0
# seconds; threads whose calls were cancelled still use their connectors, which close next. They cannot be stopped
_WORKERS_TIMEOUT = 2.0


class Host:
    """Hosts the connectors of a registry, over gRPC, with an exporter beside it.

    Run `serve` in a task group of yours; end it with `shutdown`, or by cancelling it. A host serves once.

    :param settings: see `HostSettings`
    :param registry: whose connectors are hosted; by default the process's own, into which the installed entry points
        are loaded. A registry given here holds what you registered, and what `settings.modules` register
    :param listeners: what to listen on, in place of the settings' ports and sockets; there is no exporter then
    :param one_of: it is one of several, which share the port; then it has no exporter of its own
    """

    def __init__(
        self,
        settings: HostSettings | None = None,
        *,
        registry: Registry | None = None,
        listeners: Sequence[Listener[Any]] | None = None,
        one_of: ProcessOfSeveral | None = None,
    ) -> None:
        self.settings = settings or HostSettings()
        self._listeners = listeners
        self._one_of = one_of
        self.registry = registry if registry is not None else ConnectorRegistry.default
        self._is_process_wide = registry is None
        self.state = HostState.STARTING
        self.metrics = Metrics()
        self.health = Health(details=lambda: failure_metadata(self.registry.failures))
        self._creates = IdempotentCreates(most=self.settings.create_memory_size, age=self.settings.create_memory)
        self._watchdog: Watchdog | None = None
        self._reflection: Reflection | None = None
        self._grace = self.settings.grace
        self._shutdown_requested = anyio.Event()
        self._lifespans_may_close = anyio.Event()
        self._stopped = anyio.Event()

    # what the exporter asks

    @property
    def is_ready(self) -> bool:
        """Whether new work is welcome."""
        return self.state is HostState.SERVING and self._watchdog_culprit is None

    @property
    def failures(self) -> Sequence[LoadFailure]:
        """What could not be loaded, or has failed since."""
        return self.registry.failures

    @property
    def connectors(self) -> int:
        """How many task types are served."""
        return len(self.registry.registered())

    @property
    def collectors(self) -> CollectorRegistry:
        """The metrics."""
        return self.metrics.registry

    @property
    def processes(self) -> Sequence[Mapping[str, Any]]:
        """None beside this one; see `connectrio.processes` for several."""
        return ()

    async def refresh(self) -> None:
        """What a host says of itself is always up to date."""

    @property
    def _watchdog_culprit(self) -> Culprit | None:
        return None if self._watchdog is None else self._watchdog.culprit

    # the life cycle

    async def serve(self, *, task_status: TaskStatus[Addresses] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `shutdown` was called and everything has ended, or until cancelled (everything stops at once).

        Started with `TaskGroup.start`, this reports the addresses once calls are answered. Shut down before that, it
        ends without.

        :raises HostError: a port is taken, or a module cannot be loaded
        """
        try:
            self._load()
            async with AsyncExitStack() as ports:
                # one of several gets its part of the connections as soon as it listens; the others answer until it can
                sockets = None if self._one_of else await self._bind(ports)
                async with anyio.create_task_group() as lifespans:
                    if await self._open_lifespans(lifespans):
                        await self._serve_connectors(sockets or await self._bind(ports), task_status)
                    self._lifespans_may_close.set()
                    lifespans.cancel_scope.deadline = anyio.current_time() + _LIFESPAN_CLOSE_TIMEOUT
            if lifespans.cancel_scope.cancelled_caught:
                log.warning("a connector's lifespan did not close in time", timeout_seconds=_LIFESPAN_CLOSE_TIMEOUT)
        finally:
            self.state = HostState.STOPPED
            self._stopped.set()

    async def shutdown(self, grace: float | None = None) -> None:
        """Drain, and return when the host has stopped. Calling it again waits for the same end.

        :param grace: seconds, in place of `settings.grace`
        """
        if grace is not None:
            self._grace = grace
        self._shutdown_requested.set()
        await self._stopped.wait()

    async def _bind(self, ports: AsyncExitStack) -> _Sockets:
        return await ports.enter_async_context(_bound(self.settings, self._listeners, self._one_of))

    def _load(self) -> None:
        if self._is_process_wide:
            host_registered(self.registry)
            if self.settings.entry_points:
                load_entry_points(self.registry)
        try:
            load_modules(self.registry, self.settings.modules)
        except ModuleLoadError as error:
            raise HostError(str(error)) from error

    async def _open_lifespans(self, lifespans: TaskGroup) -> bool:
        """Whether the host may serve: `shutdown` does not wait for a lifespan that hangs while it opens."""
        all_open = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_at_shutdown, tasks.cancel_scope)
            for registered in self.registry.registered():
                await lifespans.start(self._hold_lifespan, registered)
            all_open = True
            tasks.cancel_scope.cancel()
        return all_open

    async def _cancel_at_shutdown(self, scope: anyio.CancelScope) -> None:
        await self._shutdown_requested.wait()
        scope.cancel()

    async def _serve_connectors(self, sockets: _Sockets, task_status: TaskStatus[Addresses]) -> None:
        """The gRPC server and the exporter, from the first call to the last."""
        if self.settings.unsafe_pickle:
            log.warning("pickles are read: whoever can send requests to this host can run any code in it")
        workers = Workers(self.settings.worker)
        server = self._make_server(workers)
        async with anyio.create_task_group() as siblings:
            if sockets.http:
                from connectrio.host.exporter import serve_exporter  # not before a host has one

                await siblings.start(serve_exporter, sockets.http, self)
            await siblings.start(server.serve, sockets.grpc)
            for name in _HEALTH_NAMES:
                self.health.set(name, ServingStatus.SERVING)
            self.state = HostState.SERVING
            self._start_watchdog(siblings, sockets)
            task_status.started(sockets.addresses)
            try:
                with anyio.move_on_after(self.settings.timeout):
                    await self._shutdown_requested.wait()
                await self._drain(server)
            finally:
                # cancelled from outside, the host does not wait for what is shielded from its callers' cancellation
                self._creates.end_by(anyio.current_time())
            with anyio.move_on_after(_WORKERS_TIMEOUT):
                await workers.wait_idle()
            siblings.cancel_scope.cancel()

    def _start_watchdog(self, siblings: TaskGroup, sockets: _Sockets) -> None:
        if self.settings.watchdog == 0:
            return
        self._watchdog = Watchdog(
            self.settings.watchdog, metrics=self.metrics, registry=self.registry, sockets=sockets.http
        )
        siblings.start_soon(self._watchdog.run)

    def _make_server(self, workers: Workers) -> Server:
        settings = self.settings
        limits = OperationLimits(
            create=settings.create_limit,
            get=settings.get_limit,
            delete=settings.delete_limit,
            get_metrics=settings.metrics_limit,
            get_logs=settings.logs_limit,
        )
        connectors = AsyncConnectorService(
            self.registry,
            metrics=self.metrics,
            workers=workers,
            limits=limits,
            admission=self._admission(),
            creates=self._creates,
            polls=PollShield(retry=settings.poll_retry, absorb=settings.poll_absorb),
            inputs=InputReader(max_stored_size=settings.max_stored_input_size, pickles=settings.unsafe_pickle),
        )
        servicers: list[Servicer] = [
            connectors,
            ConnectorMetadataService(self.registry),
            AsyncAgentService(connectors),
            SyncAgentService(connectors, limit=settings.execute_limit),
            AgentMetadataService(self.registry),
            self.health,
        ]
        if settings.reflection:
            self._reflection = Reflection(service_names(servicers), bundled_descriptors)
            servicers.append(self._reflection)
        return Server(servicers, options=settings)

    def _admission(self) -> Admission:
        settings = self.settings
        admission = Admission(
            calls=settings.max_calls,
            calls_each=settings.max_calls_per_connector,
            waiting=settings.max_waiting_calls,
            log_streams=settings.max_log_streams,
        )
        admission.show(self.metrics.registry)
        return admission

    async def _drain(self, server: Server) -> None:
        log.info("draining", calls=server.active_calls, grace_seconds=self._grace)
        self.state = HostState.DRAINING
        self.health.drain()
        await anyio.sleep(self.settings.drain_delay)
        server.stop_accepting()
        self.health.end_watches()
        if self._reflection is not None:
            self._reflection.end_streams()
        self._creates.end_by(anyio.current_time() + self._grace)
        await server.shutdown(self._grace)
        log.info("drained")

    async def _hold_lifespan(
        self, registered: RegisteredConnector, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold a connector's lifespan open, in a task of its own: its failure is the connector's, not the host's."""
        opened = False
        worker_limit.set(self.settings.worker)
        process_count.set(self._one_of.processes if self._one_of else 1)
        try:
            async with registered.connector.lifespan():
                opened = True
                task_status.started()
                await self._lifespans_may_close.wait()
        except (Exception, SystemExit) as error:
            log.exception("a connector's lifespan failed", connector=registered.connector.name, opened=opened)
            self._lifespan_failed(registered, error, opened=opened)
            if not opened:
                task_status.started()

    def _lifespan_failed(self, registered: RegisteredConnector, error: BaseException, *, opened: bool) -> None:
        what = "its lifespan failed" if opened else "its lifespan could not be opened, so it is not served"
        self.registry.failures.append(
            LoadFailure(registered.source, f"{registered.connector.name}: {what}: {type(error).__name__}: {error}")
        )
        if not opened:
            self.registry.remove(registered)


@dataclass(frozen=True)
class _Sockets:
    """Where a host listens."""

    grpc: list[Listener[Any]]
    http: list[socket.socket]
    addresses: Addresses


@asynccontextmanager
async def _bound(
    settings: HostSettings, listeners: Sequence[Listener[Any]] | None, one_of: ProcessOfSeveral | None
) -> AsyncIterator[_Sockets]:
    """The ports, bound, or the listeners given in their place; what nobody has taken over is closed in the end.

    :raises HostError: a port cannot be had, or the files for TLS cannot be used
    """
    async with AsyncExitStack() as stack:
        if listeners is not None:
            for listener in listeners:
                stack.push_async_callback(listener.aclose)
            yield _Sockets(list(listeners), [], Addresses((), ()))
            return
        try:
            sockets = await _bind(settings, stack, one_of)
        except (ListenError, TLSFilesError, UnixSocketError) as error:
            raise HostError(str(error)) from error
        yield sockets


async def _bind(settings: HostSettings, stack: AsyncExitStack, one_of: ProcessOfSeveral | None) -> _Sockets:
    tls = _tls(settings)
    shared = one_of is not None
    grpc = await bind_tcp(settings.host, settings.port, purpose="gRPC", setting="--port", shared=shared)
    for bound in grpc:
        stack.callback(bound.close)
    metrics_port = [] if shared else [settings.prometheus_port]
    http = [
        bound
        for port in metrics_port
        for bound in await bind_tcp(settings.host, port, purpose="the metrics", setting="--prometheus_port")
    ]
    for bound in http:
        stack.callback(bound.close)
    listeners: list[Listener[Any]] = [await SocketListener.from_socket(bound) for bound in grpc]
    if tls is not None:
        listeners = [tls.listen(listener) for listener in listeners]
    if settings.unix_socket is not None:
        unix = await listen_unix(settings.unix_socket, mode=int(settings.unix_socket_mode, 8))
        stack.push_async_callback(unix.aclose)
        listeners.append(unix)
    exporter = _names(http) if one_of is None else one_of.http
    return _Sockets(listeners, http, Addresses(_names(grpc), exporter, settings.unix_socket))


def _tls(settings: HostSettings) -> ServerTLS | None:
    if settings.tls_cert is None:
        return None
    return ServerTLS(
        settings.tls_cert,
        settings.tls_key,
        client_ca=settings.tls_client_ca,
        minimum_version=TLSVersion.TLSv1_3 if settings.tls_minimum == "1.3" else TLSVersion.TLSv1_2,
        handshake_timeout=settings.tls_handshake_timeout,
    )


def _names(sockets: list[socket.socket]) -> tuple[tuple[str, int], ...]:
    return tuple(bound.getsockname()[:2] for bound in sockets)
