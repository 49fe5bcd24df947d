"""The host's HTTP side: /metrics for Prometheus, /healthz and /readyz for Kubernetes and people."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import anyio
from anyio.abc import TaskStatus
from hypercorn.config import Config, Sockets
from hypercorn.logging import Logger
from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from connectrio.lifecycle import LoadFailure
from connectrio.logs import get_logger

__all__ = ["ExporterSource", "make_app", "serve_exporter"]

logger = get_logger("connectrio.exporter")

Address = tuple[str, int]

# seconds that requests in flight get when the exporter stops; a scrape takes milliseconds
_GRACE = 1.0


class ExporterSource(Protocol):
    """What the exporter asks of the host, at each request."""

    @property
    def is_ready(self) -> bool:
        """Whether new work is welcome: what /readyz turns into 200 or 503."""

    @property
    def state(self) -> str:
        """Where the host is in its life: "starting", "serving", "draining", "stopped"."""

    @property
    def connectors(self) -> int:
        """How many connectors are served."""

    @property
    def failures(self) -> Sequence[LoadFailure]:
        """What could not be loaded."""

    @property
    def collectors(self) -> CollectorRegistry:
        """What /metrics shows."""

    @property
    def processes(self) -> Sequence[Mapping[str, Any]]:
        """How each process is, where several host; else nothing."""

    async def refresh(self) -> None:
        """Bring all of the above up to date."""


async def serve_exporter(
    sockets: Sequence[socket.socket],
    source: ExporterSource,
    *,
    task_status: TaskStatus[list[Address]] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. Requests in flight are then answered; idle connections are closed at once.

    Started with `TaskGroup.start`, this reports the (host, port) of each socket.

    :param sockets: bound and listening; owned by the exporter from here on, and closed when this returns
    """
    stopping = anyio.Event()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_run_hypercorn, make_app(source), sockets, stopping)
            task_status.started([each.getsockname()[:2] for each in sockets])
            try:
                await anyio.sleep_forever()
            finally:
                stopping.set()
    finally:
        for each in sockets:
            each.close()


async def _run_hypercorn(app: ASGIApp, sockets: Sequence[socket.socket], stopping: anyio.Event) -> None:
    # hypercorn stops cleanly when it is told to, but not when it is cancelled
    with anyio.CancelScope(shield=True) as scope:

        async def stop() -> None:
            await stopping.wait()
            scope.deadline = anyio.current_time() + 2 * _GRACE

        await _serve_function()(app, _Config(sockets), shutdown_trigger=stop)


def _serve_function() -> Callable[..., Awaitable[None]]:
    """Hypercorn's `serve` for the event loop that runs."""
    if anyio.get_cancelled_exc_class().__module__.partition(".")[0] == "trio":
        from hypercorn.trio import serve as serve_on_trio

        return serve_on_trio
    from hypercorn.asyncio import serve as serve_on_asyncio

    return serve_on_asyncio


class _Config(Config):
    """Hypercorn's configuration for sockets that are bound already."""

    include_server_header = False

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self.graceful_timeout = _GRACE
        self._bound = list(sockets)
        self.logger_class = _Log

    def create_sockets(self) -> Sockets:
        return Sockets(secure_sockets=[], insecure_sockets=self._bound, quic_sockets=[])


class _Log(Logger):
    """Sends what hypercorn has to say about failures to the host's log."""

    def __init__(self, config: Config) -> None:
        """The base's constructor would set handlers of its own on the loggers of the process."""

    async def access(self, *args: Any, **_: Any) -> None:
        """Probes and scrapes are not worth a line each."""

    async def info(self, *args: Any, **_: Any) -> None:
        """Hypercorn's banner tells to press Ctrl-C; the host has one of its own."""

    debug = info

    async def warning(self, message: str, *args: Any, **_: Any) -> None:
        logger.warning(message, *args)

    async def error(self, message: str, *args: Any, **_: Any) -> None:
        logger.error(message, *args)

    critical = error

    async def exception(self, message: str, *args: Any, **_: Any) -> None:
        logger.exception(message, *args)  # noqa: LOG004 - hypercorn calls this in its handlers


def make_app(source: ExporterSource) -> Starlette:
    """The exporter as an ASGI application.

    /metrics, and as on flyte-sdk's port / as well, shows the metrics in Prometheus' text format, or in OpenMetrics
    where the scraper accepts it. /healthz is 200 for as long as the process answers, /readyz is 200 while new work is
    welcome and else 503; both say more in JSON.
    """
    metrics_app: ASGIApp = make_asgi_app(source.collectors)

    async def metrics(_: Request) -> ASGIApp:
        await source.refresh()
        return metrics_app

    async def healthz(_: Request) -> JSONResponse:
        return JSONResponse(_report(source))

    async def readyz(_: Request) -> JSONResponse:
        await source.refresh()
        return JSONResponse(_report(source), status_code=200 if source.is_ready else 503)

    return Starlette(
        routes=[
            Route("/", metrics),
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ]
    )


def _report(source: ExporterSource) -> dict[str, Any]:
    report: dict[str, Any] = {
        "state": str(source.state),
        "connectors": source.connectors,
        "failures": [{"source": failure.source, "error": failure.error} for failure in source.failures],
    }
    return {**report, "processes": list(source.processes)} if source.processes else report
