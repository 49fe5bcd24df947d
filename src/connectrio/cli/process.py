"""The processes of `connectrio serve --processes`: the supervisor, and each host that it starts.

Usage: python -m connectrio.cli.process supervise|host DESCRIPTOR
"""

import sys

from connectrio.cli.errors import CommandError, exit_code
from connectrio.cli.script import end_process, load_structlog, run_script, starting


def _run() -> int:
    role, descriptor = sys.argv[1:]
    load_structlog()
    if role == "supervise":
        return exit_code(lambda: _supervise(int(descriptor)))
    with starting() as started:
        from connectrio.processes._worker import main as host

        return host(int(descriptor), started, end_process())


def _supervise(descriptor: int) -> None:
    from connectrio.host.lifecycle import HostError
    from connectrio.logs import configure_logging
    from connectrio.processes.control import read_options
    from connectrio.processes.supervisor import supervise

    options = read_options(descriptor)
    configure_logging(options.log_level, options.log_format)
    try:
        supervise(options, end_process())
    except HostError as error:
        raise CommandError(str(error)) from error


if __name__ == "__main__":
    run_script(_run)
