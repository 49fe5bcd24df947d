"""The drill of a restart in place: one host, one address, and a client in Go that polls as the executor does.

A host is told to stop and another one is started in its place, in one of the `WAYS`:

    plain       the next host starts when the first one has ended
    hand-over   it starts as soon as the first one drains, and takes its ports over
    held        it starts when the first one has ended, and both are given the socket, which is held by the drill
    c0          as plain, with flyte-sdk's host
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drills.hosting import PATIENCE, DrillHost
from drills.polling import Counts, Poller
from e2e.programs import CONNECTORS, HeldPorts, Program, hold_port
from e2e.reference import START

WAYS = ("plain", "hand-over", "held", "c0")
# of those that must lose nothing
GAPLESS = ("hand-over", "held")

JOBS = 40
# a second: over the connection that is kept, and over fresh ones
POLLS, FRESH = 20.0, 5.0
# seconds before each restart and after the last one
PAUSE = 3.0

ORDER = json.dumps({"does": "pid"})


@dataclass(frozen=True)
class Report:
    """The result of the drill.

    :ivar polls: the polls of the jobs, over one connection
    :ivar fresh: polls over connections of their own
    :ivar worst_job: the most failed polls of one job; the executor gives it up at the sixth
    :ivar seconds: from each SIGTERM until the next host serves
    :ivar exit_codes: of the hosts that were told to end
    """

    backend: str
    way: str
    polls: Counts
    fresh: Counts
    worst_job: int
    seconds: list[float]
    exit_codes: list[int]

    @property
    def passed(self) -> bool:
        """Whether every call was answered, where none may fail, and every host of ours exited with code 0."""
        if self.way == "c0":
            return True
        lost = self.polls.failures + self.fresh.failures
        return set(self.exit_codes) == {0} and (lost == 0 or self.way not in GAPLESS)


def drill(backend: str, way: str, poller: Path, *, restarts: int = 1, pause: float = PAUSE, **flags: Any) -> Report:
    """Restart a host while jobs are polled.

    :param poller: see `build_poller`
    :param flags: further ones of the poller
    """
    seconds: list[float] = []
    codes: list[int] = []
    with ExitStack() as stack:
        held = stack.enter_context(HeldPorts()) if way == "held" else None
        port = held.ports[0] if held else stack.enter_context(hold_port()).getsockname()[1]
        host = stack.enter_context(_host(backend, way, port, held))
        flags = {"jobs": JOBS, "polls": POLLS, "fresh": FRESH, "meta": ORDER, "task_type": "probe", **flags}
        with Poller(poller, f"dns:///127.0.0.1:{port}", **flags) as client:
            client.begun()
            for _ in range(restarts):
                time.sleep(pause)
                told = time.monotonic()
                host.send(signal.SIGTERM)
                if way == "hand-over":
                    host.wait_for_log("draining", patience=PATIENCE)
                else:
                    codes.append(host.wait(PATIENCE))
                before, host = host, stack.enter_context(_host(backend, way, port, held))
                seconds.append(time.monotonic() - told)
                if way == "hand-over":
                    codes.append(before.wait(PATIENCE))
            time.sleep(pause)
            client.send(signal.SIGTERM)
            result = client.result()
    return Report(backend, way, result.polls, result.fresh, result.worst_job, seconds, codes)


@contextmanager
def _host(backend: str, way: str, port: int, held: HeldPorts | None) -> Iterator[Program]:
    """Yield a host that serves."""
    if way == "c0":
        command = [sys.executable, "-c", START, "--port", str(port), "--prometheus_port", "0", "--modules", "probes"]
        with Program(command, cwd=CONNECTORS, env={"CONNECTOR_API": "flyte.connectors", "NO_COLOR": "1"}) as host:
            _wait_until_it_accepts(port)
            yield host
        return
    settings = {"port": port, "modules": CONNECTORS / "probes.py", "drain_delay": 60 if way == "hand-over" else 0}
    with DrillHost(backend, held=held, **settings) as host:
        host.wait_for_log("serving", patience=PATIENCE)
        yield host


def _wait_until_it_accepts(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > end:
            raise TimeoutError(f"nothing listens on port {port}")
        time.sleep(0.02)
