"""Hosts of several processes that serve the probes of the end-to-end tests."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack

from e2e.client import Client, fetch, order
from e2e.programs import CONNECTORS, HERE, Program, eventually

# seconds; three interpreters start one after the other, perhaps on a busy machine
LONG = 120.0
PROBES = str(CONNECTORS / "probes.py")


class Processes(Program):
    """`connectrio serve --processes`.

    :param options: further flags of it
    """

    def __init__(self, backend, *options, processes=2, modules=PROBES, port=0, wrapper=(), env=None, log_format="json"):
        self.calls = 0
        super().__init__(
            [
                *wrapper, sys.executable, "-m", "connectrio", "serve", "--backend", backend, "--host", "127.0.0.1",
                "--port", str(port), "--prometheus_port", "0", "--no-entry-points", "--modules", modules,
                "--processes", str(processes), "--log-format", log_format, *options,
            ],
            cwd=HERE,
            env=env,
        )  # fmt: skip

    def ready(self):
        """Wait until it serves. Return this object."""
        served = self.wait_for_log("serving", patience=LONG)
        self.target, self.url = served["grpc"], served["http"]
        return self

    def report(self):
        """Return the status and the JSON of /readyz."""
        status, text = fetch(f"{self.url}/readyz")
        return status, json.loads(text)

    @property
    def pids(self):
        """The process ids, by number."""
        return [process["pid"] for process in self.report()[1]["processes"]]

    @property
    def states(self):
        """The status of /readyz, and the state of each process."""
        status, report = self.report()
        return status, sorted(process["state"] for process in report["processes"])

    @property
    def all_serve(self):
        """Whether all processes answer calls."""
        return all(process["state"] == "serving" for process in self.report()[1]["processes"])

    def metric(self, name):
        """Return the value of a sample, by its name in the text format; 0 if there is none."""
        _, text = fetch(f"{self.url}/metrics")
        found = [line.rpartition(" ")[2] for line in text.splitlines() if line.rpartition(" ")[0] == name]
        return float(found[0]) if found else 0.0

    def clients_of_all(self, stack: ExitStack, number=2):
        """Return clients of that many processes, by process id. `self.calls` counts the calls it takes."""
        found = {}

        def connect():
            client = stack.enter_context(Client(self.target))
            found.setdefault(pid_behind(client), client)
            self.calls += 1
            return len(found) == number

        eventually(connect, LONG)
        return found


def pid_behind(client):
    """Return the id of the process at the other end of a connection."""
    return client.echo(meta=order("pid"))


def is_alive(pid):
    """Return whether the process exists and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
