"""What `connectrio serve` does once it knows its settings."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from connectrio.cli.errors import CommandError
from connectrio.cli.event_loop import event_loop
from connectrio.cli.script import end_process, is_script
from connectrio.host.settings import Backend, HostSettings, default_backend
from connectrio.host.startup import load_structlog, starting

load_structlog()

from connectrio.logs import LogFormat, LogLevel, configure_logging  # noqa: E402 - imports structlog, if need be with rich

if TYPE_CHECKING:
    from connectrio.host.host import Host
    from connectrio.host.lifecycle import Addresses

__all__ = ["LogFormat", "LogLevel", "host"]


def host(
    settings: HostSettings,
    *,
    backend: Backend | None = None,
    processes: int = 1,
    log_level: LogLevel = "info",
    log_format: LogFormat = "auto",
) -> None:
    """Host until told to stop.

    :param processes: that host on the one port
    :raises CommandError: the host cannot start
    """
    from connectrio.host.lifecycle import HostError

    configure_logging(log_level, log_format)
    event_loop(backend)  # whether there is one
    try:
        if processes == 1:
            _host_alone(settings, backend)
        else:
            from connectrio.processes.control import Task
            from connectrio.processes.supervisor import become_supervisor, supervise

            task = Task(settings, processes, backend or default_backend(), log_level, log_format)
            if end_process() is None:
                supervise(task)
            else:
                become_supervisor(task)
    except HostError as error:
        raise CommandError(str(error)) from error


def _host_alone(settings: HostSettings, backend: Backend | None) -> None:
    # the garbage collector of another program is its own
    with starting() if is_script() else nullcontext(lambda: None) as started:
        from connectrio.host.announce import announce
        from connectrio.host.runner import run_host

        def announce_start(host: Host, addresses: Addresses) -> None:
            announce(host, addresses)
            started()

        run_host(settings, backend=backend, announce=announce_start, end_process=end_process())
