"""Before the supervisor: whether several processes can host, and the process that becomes it.

What the supervisor needs is imported by that process, once: it takes longer than all that is done here.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from connectrio.host.lifecycle import HostError
from connectrio.host.ports import can_share_ports
from connectrio.host.settings import HostSettings
from connectrio.logs import flush_output
from connectrio.processes.control import ServeOptions, process_command, write_options

__all__ = ["become_supervisor", "check"]


def become_supervisor(options: ServeOptions) -> NoReturn:
    """Replace this process by one that supervises, under the same process id.

    A supervisor needs little of what this process has imported, which would stay in memory.

    :raises HostError: a setting does not work with several processes
    """
    check(options.settings, options.processes)
    descriptor = write_options(options)
    flush_output()
    os.execv(sys.executable, process_command("supervise", descriptor))  # noqa: S606 - this very interpreter


def check(settings: HostSettings, processes: int) -> None:
    """Check whether several processes can host with these settings.

    :raises HostError: they cannot
    """
    if processes < 1:
        raise HostError(f"--processes must be at least 1, got {processes}")
    if not can_share_ports():
        raise HostError("this system does not let processes share a port (SO_REUSEPORT): leave --processes at 1")
    if settings.unix_socket is not None:
        raise HostError(
            "a Unix socket cannot be shared by several processes: leave --unix-socket out, or --processes at 1"
        )
