"""The exporter's web server and its routes."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint
from hypercorn.config import Config, Sockets
from hypercorn.logging import Logger
from prometheus_client import make_asgi_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from connectrio.logs import get_logger

if TYPE_CHECKING:
    from connectrio.host.exporter import ExporterSource

__all__ = ["make_app", "serve_http"]

logger = get_logger("connectrio.host.exporter")

# seconds for requests in flight to finish when the exporter stops; a scrape takes milliseconds
_GRACE = 1.0

Serve = Callable[..., Awaitable[None]]


async def serve_http(sockets: Sequence[socket.socket], source: ExporterSource, hypercorn_serve: Serve) -> None:
    """Serve until cancelled. Requests in flight are then answered; idle connections are closed at once.

    :param sockets: bound and listening; closed by the caller
    :param hypercorn_serve: hypercorn's `serve` for the event loop that runs
    """
    stopping = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_run_hypercorn, hypercorn_serve, make_app(source), sockets, stopping)
        try:
            await anyio.sleep_forever()
        finally:
            stopping.set()


async def _run_hypercorn(serve: Serve, app: ASGIApp, sockets: Sequence[socket.socket], stopping: anyio.Event) -> None:
    # hypercorn stops cleanly when it is told to, but not when it is cancelled
    with anyio.CancelScope(shield=True) as scope:

        async def stop() -> None:
            await stopping.wait()
            scope.deadline = anyio.current_time() + 2 * _GRACE

        await serve(_after_a_turn(app), _Config(sockets), shutdown_trigger=stop)


def _after_a_turn(app: ASGIApp) -> ASGIApp:
    """Return `app` as an application that never ends before hypercorn is ready for its answer.

    Hypercorn (0.18) learns how to talk to an application only after it has started its task. On an event loop whose
    tasks begin at once, the application may have answered by then, and the connection would never be closed.
    """

    async def later(scope: Scope, receive: Receive, send: Send) -> None:
        await checkpoint()
        await app(scope, receive, send)

    return later


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
    """Sends hypercorn's warnings and errors to the host's log."""

    def __init__(self, config: Config) -> None:
        """Do not call the base, which would add its own handlers to the loggers of the process."""

    async def access(self, *args: Any, **_: Any) -> None:
        """Write nothing: probes and scrapes are frequent."""

    async def info(self, *args: Any, **_: Any) -> None:
        """Write nothing: the host announces itself, and hypercorn's banner says to press Ctrl-C."""

    debug = info

    async def warning(self, message: str, *args: Any, **_: Any) -> None:
        logger.warning(message, *args)

    async def error(self, message: str, *args: Any, **_: Any) -> None:
        logger.error(message, *args)

    critical = error

    async def exception(self, message: str, *args: Any, **_: Any) -> None:
        logger.exception(message, *args)  # noqa: LOG004 - hypercorn calls this in its handlers


def make_app(source: ExporterSource) -> Starlette:
    """Return the exporter as an ASGI application.

    /metrics, and / as on flyte-sdk's port, show the metrics in Prometheus' text format, or in OpenMetrics where the
    scraper accepts it. /healthz is 200 as long as the process answers. /readyz is 200 while new work is accepted, else
    503. Both return the details as JSON.
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
