"""A host process: python host_main.py BACKEND SETTINGS, with the settings as JSON.

It reports on standard output, a JSON line each, where it serves and why it could not start.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from connectrio.cli.script import end_process, run_script
from connectrio.host.host import HostError
from connectrio.host.runner import run_host
from connectrio.host.settings import HostSettings
from connectrio.logs import host_logging


def report(event: str, **fields: Any) -> None:
    # not sys.stdout, whose lines are lines of the log
    print(json.dumps({"event": event, **fields}), file=sys.__stdout__, flush=True)


def announce(host: Any, addresses: Any) -> None:
    report("serving", target=addresses.target, url=addresses.url, pid=os.getpid())


def main(backend: Any, settings: str) -> int:
    with host_logging("debug", "json", owns_process=True):
        try:
            host_settings = HostSettings(**json.loads(settings))
            run_host(host_settings, backend=backend, announce=announce, end_process=end_process())
        except HostError as error:
            report("failed", error=str(error))
            return 1
    return 0


if __name__ == "__main__":
    run_script(lambda: main(*sys.argv[1:]))
