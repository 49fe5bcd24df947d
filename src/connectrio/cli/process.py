"""python -m connectrio.cli.process supervise|host DESCRIPTOR: what `serve --processes` becomes, and what it starts."""

import sys

from connectrio.cli.script import end_process, script
from connectrio.startup import load_structlog, starting


def _run() -> int:
    role, descriptor = sys.argv[1:]
    load_structlog()
    if role == "supervise":
        return _supervise(int(descriptor))
    with starting() as started:
        from connectrio.processes._worker import main as host

        return host(int(descriptor), started, end_process())


def _supervise(descriptor: int) -> int:
    from connectrio.lifecycle import HostError
    from connectrio.logs import configure_logging
    from connectrio.processes.control import read_task
    from connectrio.processes.supervisor import supervise

    task = read_task(descriptor)
    configure_logging(task.log_level, task.log_format)
    try:
        supervise(task, end_process())
    except HostError as error:
        from connectrio.terminal import print_error  # with rich, which only an error needs

        print_error(str(error))
        return 1
    return 0


if __name__ == "__main__":
    script(_run)
