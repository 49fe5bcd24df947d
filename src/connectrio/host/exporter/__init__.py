"""The host's HTTP server: /metrics for Prometheus, /healthz and /readyz for Kubernetes and people.

The web server is imported at the first connection: it takes some 70 ms and 3 MB, which a host with gRPC probes only
never needs.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import anyio
from anyio.abc import TaskStatus
from prometheus_client import CollectorRegistry

from connectrio.connector.failures import LoadFailure
from connectrio.rpc.sockets import stop_listening

__all__ = ["ExporterSource", "serve_exporter"]

Address = tuple[str, int]


class ExporterSource(Protocol):
    """What the exporter reads at each request: a host, or the supervisor of several."""

    @property
    def is_ready(self) -> bool:
        """Whether new work is accepted: /readyz answers 200 or 503."""

    @property
    def state(self) -> str:
        """The state of the host: "starting", "serving", "draining" or "stopped"."""

    @property
    def connectors(self) -> int:
        """The number of connectors that are served."""

    @property
    def failures(self) -> Sequence[LoadFailure]:
        """The connectors that could not be loaded."""

    @property
    def collectors(self) -> CollectorRegistry:
        """The metrics for /metrics."""

    @property
    def processes(self) -> Sequence[Mapping[str, Any]]:
        """The state of each process, if there are several; else empty."""

    async def refresh(self) -> None:
        """Update all of the above."""


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
    try:
        task_status.started([each.getsockname()[:2] for each in sockets])
        await _first_connection(sockets)
        on_trio = anyio.get_cancelled_exc_class().__module__.partition(".")[0] == "trio"
        # in a thread, so that calls are served meanwhile
        web_server = await anyio.to_thread.run_sync(import_module, "connectrio.host.exporter._http")
        hypercorn = await anyio.to_thread.run_sync(import_module, f"hypercorn.{'trio' if on_trio else 'asyncio'}")
        await web_server.serve_http(sockets, source, hypercorn.serve)
    finally:
        for each in sockets:
            stop_listening(each)


async def _first_connection(sockets: Sequence[socket.socket]) -> None:
    """Wait for the first connection, which the web server accepts."""

    async def wait(listening: socket.socket, scope: anyio.CancelScope) -> None:
        await anyio.wait_readable(listening)
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        for each in sockets:
            tasks.start_soon(wait, each, tasks.cancel_scope)
