"""The drill of a rolling restart under load: two hosts behind one name, each stopped while clients call.

It is what Kubernetes does to the pods of a headless Service: the clients know the addresses of both, a new host is up
before the old one gets its SIGTERM, and it is the clients' own affair to reconnect.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from drills.hosting import HERE, PATIENCE, DrillHost, environment
from e2e.programs import Program, hold_port


@dataclass(frozen=True)
class Report:
    """The result of the drill.

    :ivar client: "grpcio" or "channel"
    :ivar rate: calls a second that were made
    :ivar outcomes: calls, by how they ended; "OK" is what they should
    :ivar slowest_seconds: the longest call
    :ivar drain_seconds: from each SIGTERM to the end of that host's process
    :ivar exit_codes: of the hosts that were told to end
    """

    backend: str
    client: str
    connections: int
    rate: float
    outcomes: dict[str, int]
    slowest_seconds: float
    drain_seconds: list[float]
    exit_codes: list[int]

    @property
    def passed(self) -> bool:
        """Whether every call was answered and every host exited with code 0."""
        return set(self.outcomes) == {"OK"} and set(self.exit_codes) == {0}


def drill(backend: str, client: str, *, connections: int = 50, rate: float = 500, seconds: float = 8) -> Report:
    """Call two hosts in turn for some seconds: the first ends after a third of the time, the second after two.

    On a slow machine it takes longer, so that clients always call while a host ends.
    """
    with hold_port() as held, hold_port() as held_too:
        one, other = (socket.getsockname()[1] for socket in (held, held_too))
        ends: list[tuple[float, int]] = []
        with DrillHost(backend, port=one) as first, DrillHost(backend, port=other) as second:
            first.ready()
            second.ready()
            with _calling(client, [one, other], connections, rate) as caller:
                time.sleep(seconds / 3)
                ends.append(_end(first))
                with DrillHost(backend, port=one) as again:
                    again.ready()
                    time.sleep(seconds / 3)
                    ends.append(_end(second))
                    time.sleep(seconds / 3)
                    caller.send(signal.SIGTERM)
                    result = caller.wait_for("result", patience=PATIENCE)
    return _report(backend, client, connections, result, ends)


@contextmanager
def _calling(client: str, ports: list[int], *load: float) -> Iterator[Program]:
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    command = [sys.executable, "-m", "drills.caller", client, target, *map(str, load)]
    with Program(command, cwd=HERE, env=environment()) as caller:
        caller.wait_for("begun", patience=PATIENCE)
        yield caller


def _end(host: DrillHost) -> tuple[float, int]:
    """Stop a host. Return the seconds it takes, and its exit code."""
    told = time.monotonic()
    host.drain()
    code = host.wait(PATIENCE)
    return time.monotonic() - told, code


def _report(
    backend: str, client: str, connections: int, result: dict[str, Any], ends: list[tuple[float, int]]
) -> Report:
    return Report(
        backend,
        client,
        connections,
        result["rate"],
        result["outcomes"],
        result["slowest_seconds"],
        [seconds for seconds, _ in ends],
        [code for _, code in ends],
    )
