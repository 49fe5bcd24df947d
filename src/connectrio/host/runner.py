"""Running a host as a process of its own: the event loop, the signals, the exit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio

from connectrio.connector.registry import Registry
from connectrio.host.host import Addresses, Host
from connectrio.host.lifecycle import what_to_act_on
from connectrio.host.settings import Backend, HostSettings, anyio_backend, default_backend
from connectrio.host.signals import watch_signals
from connectrio.logs import configure_logging

__all__ = ["ConnectorService", "run_host"]

Announce = Callable[[Host, Addresses], None]


def run_host(
    settings: HostSettings,
    *,
    backend: Backend | None = None,
    registry: Registry | None = None,
    announce: Announce | None = None,
    end_process: Callable[[int], None] | None = None,
) -> None:
    """Run a host until it was told to stop, and has.

    SIGTERM or SIGINT drains it; a second one stops it at once. Both work for process 1 of a container as well. Call it
    from the main thread.

    A connector's thread that never returns still runs after this call, and Python waits for it at exit (not on trio,
    whose threads are daemons). The command line ends its process without such threads.

    :param backend: what to run on; uvloop where it is installed, else asyncio
    :param registry: see `Host`
    :param announce: called once the host serves
    :param end_process: for a process that is nothing but this host: see `watch_signals`
    :raises SystemExit: at the second signal; the code is 128 + the signal's number
    :raises HostError: the host cannot start
    :raises ValueError: the backend is unknown or not installed
    """
    name, options = anyio_backend(backend or default_backend())
    host = Host(settings, registry=registry)
    try:
        anyio.run(_run, host, announce, end_process, backend=name, backend_options=options)
    except BaseExceptionGroup as group:
        raise what_to_act_on(group) from None


async def _run(host: Host, announce: Announce | None, end_process: Callable[[int], None] | None) -> None:
    async with anyio.create_task_group() as tasks:
        # before anything is loaded: process 1 ignores a signal that nobody has asked for
        await tasks.start(watch_signals, host.shutdown, end_process)
        await host.serve(task_status=_Announcement(host, announce))
        tasks.cancel_scope.cancel()


class _Announcement:
    """Announces a host once it serves; one that is shut down before that ends without."""

    def __init__(self, host: Host, announce: Announce | None) -> None:
        self._host = host
        self._announce = announce

    def started(self, value: Addresses | None = None) -> None:
        """What the host calls, as of any `anyio.abc.TaskStatus`."""
        if self._announce is not None and value is not None:
            self._announce(self._host, value)


class ConnectorService(Host):
    """A host, under flyte-sdk's name.

    `ConnectorService.run(…)` serves until a signal, as in flyte-sdk. To serve inside an async program, run `serve` in
    a task group:

        service = ConnectorService(HostSettings(port=0))
        addresses = await tasks.start(service.serve)
        …
        await service.shutdown(grace=10)
    """

    @classmethod
    def run(
        cls,
        port: int = 8000,
        prometheus_port: int = 9090,
        worker: int = 10,
        timeout: float | None = None,
        modules: Sequence[str] | None = None,
        *,
        backend: Backend | None = None,
        **settings: Any,
    ) -> None:
        """Serve the installed connectors, and those of `modules`, until SIGTERM or SIGINT. It blocks: see `run_host`.

        :param port: of the gRPC server
        :param prometheus_port: of the metrics
        :param worker: how many plain `def` methods of connectors may run at once
        :param timeout: seconds after which to shut down; for tests
        :param modules: module names or .py files to load connectors from
        :param backend: "asyncio", "uvloop" or "trio"; uvloop where it is installed, else asyncio
        :param settings: further fields of `HostSettings`
        :raises SystemExit: at a second signal
        :raises HostError: the host cannot start
        """
        from connectrio.host.announce import announce

        configure_logging()
        run_host(
            HostSettings(
                port=port,
                prometheus_port=prometheus_port,
                worker=worker,
                timeout=timeout,
                modules=list(modules or ()),
                **settings,
            ),
            backend=backend,
            announce=announce,
        )
