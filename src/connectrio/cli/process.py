"""The processes of `connectrio serve --processes`: the supervisor, and each host that it starts.

Usage: python -m connectrio.cli.process supervise|host DESCRIPTOR
"""

import sys

from connectrio.cli.errors import exit_code
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
    from connectrio.cli.hosting import explained_start
    from connectrio.logs import host_logging
    from connectrio.processes.control import read_options
    from connectrio.processes.supervisor import supervise

    options = read_options(descriptor)
    with host_logging(options.log_level, options.log_format, owns_process=True), explained_start():
        supervise(options, end_process())


if __name__ == "__main__":
    run_script(_run)
