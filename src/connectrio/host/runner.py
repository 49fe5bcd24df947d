"""Run a host as a process of its own, and announce it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from connectrio._version import __version__
from connectrio.connector.registry import Registry
from connectrio.host.host import Host
from connectrio.host.lifecycle import Addresses
from connectrio.host.metrics import backend_name
from connectrio.host.settings import Backend, HostSettings, changed_settings, default_backend
from connectrio.host.signals import run_until_signalled
from connectrio.host.systemd import held_sockets, reporting
from connectrio.logs import get_logger, host_logging, own_output, writes_json
from connectrio.rpc.peer import format_address
from connectrio.rpc.sockets import unix_target
from connectrio.terminal import is_terminal, open_standard_descriptors, print_line, print_table

__all__ = ["ConnectorService", "announce", "run_host", "served", "serving_fields"]

log = get_logger("connectrio.host.host")

Announce = Callable[[Host, Addresses], None]

_TABLE_TITLE = "Connector Metadata"


def run_host(
    settings: HostSettings,
    *,
    backend: Backend | None = None,
    registry: Registry | None = None,
    announce: Announce | None = None,
    end_process: Callable[[int], None] | None = None,
) -> None:
    """Run a host until it is told to stop and has stopped.

    SIGTERM, SIGINT or SIGHUP drains it; a second SIGTERM or SIGINT stops it at once. SIGUSR1 logs which worker threads
    are stuck, and where. All work for process 1 of a container, too. Call this from the main thread.

    Sockets that systemd has opened for this process are used, and systemd is told of the host, see `host.systemd`.

    A connector's thread that never returns still runs after this call, and Python waits for it at exit (not on trio,
    whose threads are daemons). The command line ends its process without such threads.

    :param backend: the event loop; by default uvloop where it is installed, else asyncio
    :param registry: see `Host`
    :param announce: called once the host serves
    :param end_process: for a process that runs only this host: see `run_until_signalled`
    :raises SystemExit: at the second signal; the code is 128 + the signal's number
    :raises HostError: the host cannot start
    :raises ValueError: the backend is unknown or not installed
    """
    host = Host(settings, registry=registry, held=held_sockets(settings))

    async def serve() -> None:
        await host.serve(task_status=_Announcement(host, announce))

    run_until_signalled(
        partial(reporting, serve, host),
        host.shutdown,
        backend=backend or default_backend(),
        show_stuck=host.show_stuck,
        end_process=end_process,
    )


@dataclass(frozen=True)
class _Announcement:
    """Announces a host once it serves. `TaskGroup.start` would fail for a host that is shut down before that."""

    host: Host
    announce: Announce | None

    def started(self, value: Addresses | None = None) -> None:
        """Called by the host, as the method of any `anyio.abc.TaskStatus`."""
        if self.announce is not None and value is not None:
            self.announce(self.host, value)


def announce(host: Host, addresses: Addresses) -> None:
    """Say what is served and where: in a line of the log if that is JSON, else in a table on standard output.

    If standard output does not take it, the host goes on.
    """
    if writes_json():
        log.info("serving", **serving_fields(host, addresses))
        return
    with suppress(OSError, ValueError), own_output():  # its reader has gone, the disk is full, or it was closed
        _print_announcement(host, addresses)


def serving_fields(host: Host, addresses: Addresses) -> dict[str, Any]:
    """Return what the log says of a host that serves."""
    listening = [format_address(*each) for each in addresses.grpc]
    settings = host.settings
    return {
        "version": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "backend": backend_name(),
        "pid": os.getpid(),
        "grpc": addresses.target,
        "grpc_listening": listening,
        "tls": settings.tls_cert is not None,
        "unix_socket": None if addresses.unix_socket is None else unix_target(addresses.unix_socket),
        "http": addresses.url,
        "connectors": [
            {"name": name, "task_types": task_types, "source": source}
            for (name, source), task_types in served(host.registry).items()
        ],
        "not_loaded": [f"{failure.source}: {failure.error}" for failure in host.failures],
        "settings": changed_settings(settings),
    }


def served(registry: Registry) -> dict[tuple[str, str], list[str]]:
    """Return the task types by the connector's name and source."""
    found: dict[tuple[str, str], list[str]] = {}
    for registered in registry.registered():
        connector = registered.connector
        task_type = f"{connector.task_type_name} ({connector.task_type_version})"
        found.setdefault((connector.name, registered.source), []).append(task_type)
    return found


def _print_announcement(host: Host, addresses: Addresses) -> None:
    processes = host.one_of.processes if host.one_of else 1
    print_line(f"connectrio {__version__} is serving{f' in {processes} processes' * (processes > 1)}", "bold green")
    tls = " with TLS" if host.settings.tls_cert is not None else ""
    print_line(f"  gRPC     {addresses.target}{tls}{_bound(addresses.grpc, addresses.target)}")
    if addresses.unix_socket is not None:
        print_line(f"           {unix_target(addresses.unix_socket)}")
    print_line(f"  metrics  {addresses.url}/metrics{_bound(addresses.http, addresses.url.partition('://')[2])}")
    print_line(f"  probes   {addresses.url}/healthz and {addresses.url}/readyz")
    if host.settings.page:
        print_line(f"  status   {addresses.url}/status")
    if not is_terminal():
        print_line(_TABLE_TITLE)
    print_table(
        _TABLE_TITLE,
        ("Connector Name", "Support Task Types", "Loaded from"),
        [(name, " ".join(task_types), source) for (name, source), task_types in served(host.registry).items()],
    )
    for what, failures in (("loaded", host.registry.failures), ("open", host.registry.outages.values())):
        for failure in failures:
            print_line(f"not {what}: {failure.source}: {failure.error}", "yellow")
    settings = host.settings
    for danger in settings.dangers(addresses):
        print_line(danger, "bold red")
    print_line(
        f"In production: probe gRPC health on port {addresses.port}, and give the pod a terminationGracePeriodSeconds"
        f" above --drain-delay + --grace ({settings.drain_delay + settings.grace:g} s).",
        "dim",
    )


def _bound(addresses: Sequence[tuple[str, int]], target: str) -> str:
    """Return where the server listens, if `target` is not all of it."""
    bound = [format_address(host, port) for host, port in addresses]
    return "" if bound == [target] else f", listening on {' and '.join(bound)}"


class ConnectorService(Host):
    """A host under flyte-sdk's name.

    `ConnectorService.run(…)` serves until a signal, as in flyte-sdk. Inside an async program, run `serve` in a task
    group:

        service = ConnectorService(HostSettings(port=0))
        addresses = await tasks.start(service.serve)
        …
        await service.shutdown(grace=10)
    """

    @classmethod
    def run(
        cls,
        port: int = HostSettings.port,
        prometheus_port: int = HostSettings.prometheus_port,
        worker: int = HostSettings.worker,
        timeout: float | None = HostSettings.timeout,
        modules: Sequence[str] | None = None,
        *,
        backend: Backend | None = None,
        **settings: Any,
    ) -> None:
        """Serve the installed connectors and those of `modules` until a signal. It blocks: see `run_host`.

        :param port: of the gRPC server
        :param prometheus_port: of the metrics
        :param worker: the most plain `def` methods of connectors that run at once
        :param timeout: seconds until it shuts down by itself; for tests
        :param modules: module names or .py files to load connectors from
        :param backend: "asyncio", "uvloop" or "trio"; by default uvloop where it is installed, else asyncio
        :param settings: further fields of `HostSettings`
        :raises SystemExit: at a second signal
        :raises HostError: the host cannot start
        """
        host_settings = HostSettings(
            port=port,
            prometheus_port=prometheus_port,
            worker=worker,
            timeout=timeout,
            modules=list(modules or ()),
            **settings,
        )
        open_standard_descriptors()
        with host_logging():
            run_host(host_settings, backend=backend, announce=announce)
