"""The host's HTTP server: /metrics for Prometheus, /healthz and /readyz for Kubernetes, the status page and /api for
people.

Nothing that goes wrong here ends the host. The HTTP server is imported in a thread, a moment after the start, or when
somebody connects before that: the import takes some 15 ms, which would delay the first call. It does not wait for the
first connection, because by then the process may have no file descriptor left to import with.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from ssl import SSLContext
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.abc import TaskStatus
from prometheus_client import CollectorRegistry

from connectrio.connector.failures import LoadFailure
from connectrio.host.lifecycle import is_loopback
from connectrio.host.settings import HostSettings
from connectrio.logs import get_logger
from connectrio.rpc.sockets import stop_listening

if TYPE_CHECKING:
    from connectrio.telemetry.report import HostReport, StackReport

__all__ = ["ExporterSource", "serve_exporter"]

logger = get_logger("connectrio.host.exporter")

Address = tuple[str, int]

# seconds; by then a host serves
_IMPORT_DELAY = 1.0
# seconds until the exporter starts again, when something has failed that is no request's
_RESTART_DELAY = 1.0
# seconds for a client to send its request, when it can only be refused
_PATIENCE = 0.5
_CANNOT_IMPORT = b"the exporter cannot import its HTTP server; see the host's log\n"
_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_CANNOT_IMPORT), _CANNOT_IMPORT)
)


class ExporterSource(Protocol):
    """What the exporter reads at each request: a host, or the supervisor of several."""

    @property
    def is_ready(self) -> bool:
        """Whether new work is accepted: /readyz answers 200 or 503."""

    @property
    def not_ready(self) -> Sequence[str]:
        """Why new work is not accepted, a sentence for each reason; everyone may see these."""

    @property
    def state(self) -> str:
        """The state of the host: "starting", "serving", "draining" or "stopped"."""

    @property
    def connectors(self) -> int | None:
        """The number of connectors that are served; None as long as no process has said it."""

    @property
    def failures(self) -> Sequence[LoadFailure]:
        """The connectors that could not be loaded, and those whose lifespan is not open."""

    @property
    def collectors(self) -> CollectorRegistry:
        """The metrics for /metrics. They are collected in a thread."""

    @property
    def processes(self) -> Sequence[Mapping[str, Any]]:
        """The state of each process, if there are several; else empty."""

    async def refresh(self) -> None:
        """Update all of the above."""

    async def report(self) -> HostReport:
        """Return what the status page and /api show."""

    async def stacks(self) -> list[StackReport]:
        """Return where all tasks and threads are."""


async def serve_exporter(
    sockets: Sequence[socket.socket],
    source: ExporterSource,
    settings: HostSettings | None = None,
    *,
    context: Callable[[], SSLContext] | None = None,
    task_status: TaskStatus[list[Address]] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. Requests in flight are then answered; idle connections are closed at once.

    Started with `TaskGroup.start`, this reports the (host, port) of each socket. Errors are logged, never raised.

    :param sockets: bound and listening; owned by the exporter from here on, and closed when this returns
    :param settings: whether there is a status page, and who may see it
    :param context: returns the TLS context for a new connection; None for a port without TLS
    """
    settings = settings or HostSettings()
    try:
        _tell_of_page(sockets, settings)
        task_status.started([each.getsockname()[:2] for each in sockets])
        for each in sockets:
            each.setblocking(False)
        while True:
            try:
                await _serve(sockets, source, settings, context)
            except Exception:
                logger.exception("the exporter failed; it is started again", delay_seconds=_RESTART_DELAY)
                await anyio.sleep(_RESTART_DELAY)
    finally:
        for each in sockets:
            stop_listening(each)


def _tell_of_page(sockets: Sequence[socket.socket], settings: HostSettings) -> None:
    """Log that others can read the status page, if they can. It is no warning: most networks of hosts are private."""
    if settings.page and settings.page_token_file is None:
        addresses = [each.getsockname()[:2] for each in sockets]
        if not all(is_loopback(host) for host, _ in addresses):
            logger.info(
                "everyone who can reach this port can read the status page, with names of jobs, messages and errors;"
                " --page-token-file asks for a token, --no-page turns it off",
                port=addresses[0][1],
            )


async def _serve(
    sockets: Sequence[socket.socket],
    source: ExporterSource,
    settings: HostSettings,
    context: Callable[[], SSLContext] | None,
) -> None:
    with anyio.move_on_after(_IMPORT_DELAY):
        await _wait_for_connection(sockets)
    http = await _import_http(sockets)
    access = http.Access(page=settings.page, token_file=settings.page_token_file)
    await http.serve_http(sockets, http.Pages(source, access).answer, context)


async def _import_http(sockets: Sequence[socket.socket]) -> ModuleType:
    """Import the HTTP server. While that fails, answer each connection with 503, and try again at the next one."""
    is_logged = False
    while True:
        try:
            # in a thread, so that calls are served meanwhile
            return await anyio.to_thread.run_sync(import_module, "connectrio.host.exporter._http")
        except Exception:
            if not is_logged:
                logger.exception("the exporter cannot import its HTTP server; it tries again when somebody connects")
                is_logged = True
        listening = await _wait_for_connection(sockets)
        with suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.setblocking(False)
                with anyio.move_on_after(_PATIENCE):
                    await anyio.wait_readable(connection)
                connection.recv(65536)  # closed with unread bytes, the answer could be lost
                connection.send(_UNAVAILABLE)
        await anyio.sleep(0.1)


async def _wait_for_connection(sockets: Sequence[socket.socket]) -> socket.socket:
    """Wait until a connection can be accepted, and return the socket that it waits at."""
    found: list[socket.socket] = []

    async def wait(listening: socket.socket) -> None:
        await anyio.wait_readable(listening)
        found.append(listening)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for each in sockets:
            tasks.start_soon(wait, each)
    return found[0]
