"""The exporter: /metrics, /healthz and /readyz over HTTP, beside the gRPC server, on either backend."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.abc import TaskStatus

from connectrio.registry import LoadFailure

if TYPE_CHECKING:
    from hypercorn.config import Config
    from prometheus_client import CollectorRegistry
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["ExporterSource", "make_app", "serve_exporter"]

# seconds; a scrape takes milliseconds, and an idle keep-alive connection must not hold up the end of the host
_STOP_TIMEOUT = 0.5


class ExporterSource(Protocol):
    """What the exporter tells about; a `Host` is one."""

    @property
    def state(self) -> str: ...
    @property
    def is_ready(self) -> bool: ...
    @property
    def failures(self) -> Sequence[LoadFailure]: ...
    @property
    def connectors(self) -> int: ...
    @property
    def collectors(self) -> CollectorRegistry: ...


def make_app(source: ExporterSource) -> Starlette:
    """The ASGI application.

    /metrics has the metrics in Prometheus' text format, or OpenMetrics where the scraper accepts it. /healthz is 200
    for as long as the process answers, /readyz is 200 while new work is welcome and else 503; both say why in JSON.
    """
    from prometheus_client import make_asgi_app
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Mount, Route

    def report() -> dict[str, Any]:
        failures = [{"source": failure.source, "error": failure.error} for failure in source.failures]
        return {"state": str(source.state), "connectors": source.connectors, "failures": failures}

    async def healthz(request: Request) -> Response:  # noqa: ARG001 - starlette's signature
        return JSONResponse(report())

    async def readyz(request: Request) -> Response:  # noqa: ARG001 - starlette's signature
        return JSONResponse(report(), status_code=200 if source.is_ready else 503)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Mount("/metrics", make_asgi_app(source.collectors)),
        ]
    )


async def serve_exporter(
    sockets: Iterable[socket.socket],
    source: ExporterSource,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled.

    :param sockets: bound and listening; owned by the exporter from here on, and closed by it
    """
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{bound.detach()}" for bound in sockets]
    config.errorlog = config.accesslog = None
    config.graceful_timeout = _STOP_TIMEOUT
    async with anyio.create_task_group() as tasks:
        stop = anyio.Event()
        # shielded: hypercorn ends cleanly when it is asked to, but not when it is cancelled
        scope = anyio.CancelScope(shield=True)
        tasks.start_soon(_run_hypercorn, make_app(source), config, stop, scope)
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            stop.set()
            scope.deadline = anyio.current_time() + 2 * _STOP_TIMEOUT


async def _run_hypercorn(app: Starlette, config: Config, stop: anyio.Event, scope: anyio.CancelScope) -> None:
    serve: Callable[..., Awaitable[None]]
    if anyio.get_cancelled_exc_class().__module__.startswith("trio"):
        from hypercorn.trio import serve
    else:
        from hypercorn.asyncio import serve
    with scope:
        await serve(app, config, shutdown_trigger=stop.wait)
