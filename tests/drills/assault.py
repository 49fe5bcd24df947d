"""The drill of an attack: a host, a good client and an attacker, each in a process."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drills.attacks.attack import Attack
from drills.good import GoodClient, Service
from drills.hosting import HERE, PATIENCE, TIMEOUTS, DrillHost, environment
from drills.process import MIB, PeakMemory, cpu_seconds, resident
from drills.wire import Answer
from e2e.programs import Program
from rpc.kit.certificates import Pki

# seconds; longer than the time-outs of the drilled hosts
_UNTIL_TIMED_OUT = 8.0
# seconds for the host to free resources
_SETTLING = 1.5


@dataclass(frozen=True)
class Report:
    """The result of an attack.

    :ivar good: how the good client was served before, during and after
    :ivar memory_mib: of the host: before, at its peak, and after
    :ivar cpu_percent: of one processor, which the host used during the attack
    :ivar connections: that the attacker made
    :ivar endings: how they ended
    :ivar resets: streams that the host reset, by error code
    :ivar statuses: calls that the host answered, by gRPC status
    :ivar first: what the first connection came to
    :ivar unexpected: connections on which the host did not do what it should
    """

    attack: str
    backend: str
    good: dict[str, Service]
    memory_mib: dict[str, float]
    cpu_percent: float
    connections: int
    endings: dict[str, int]
    resets: dict[str, int]
    statuses: dict[str, int]
    first: Answer
    unexpected: int

    @property
    def failures(self) -> int:
        """The number of failed calls of the good client."""
        return sum(sum(service.failures.values()) for service in self.good.values())

    @property
    def passed(self) -> bool:
        """Whether the good client was served and the attacker was stopped."""
        return self.failures == 0 and self.unexpected == 0 and all(stretch.calls for stretch in self.good.values())


@contextmanager
def host_for(attack: Attack, backend: str) -> Iterator[tuple[DrillHost, Path | None]]:
    """Yield a host for the attack, and the authority for its clients if it serves TLS."""
    settings: dict[str, Any] = {**TIMEOUTS, **attack.settings}
    with tempfile.TemporaryDirectory() as directory:
        pki = Pki(Path(directory)) if attack.tls else None
        if pki is not None:
            settings |= {"tls_cert": pki.server.cert, "tls_key": pki.server.key}
        with DrillHost(backend, **settings) as host:
            yield host.ready(), None if pki is None else pki.ca


def drill(attack: Attack, backend: str, seconds: float) -> Report:
    """Attack a new host for some seconds, and measure the calls of a good client.

    What only a time-out of the host ends takes a few seconds at least.
    """
    seconds = max(seconds, _UNTIL_TIMED_OUT) if attack.slow else seconds
    with host_for(attack, backend) as (host, authority), GoodClient(host.target, authority=authority) as client:
        client.ready()
        ready = time.monotonic()
        time.sleep(min(2.0, seconds))
        memory = {"before": resident(host.pid) / MIB}
        with PeakMemory(host.pid) as watch:
            used = cpu_seconds(host.pid)
            begin, end, answers = _attack(attack, host.target_of(attack), seconds)
            used = cpu_seconds(host.pid) - used
        time.sleep(_SETTLING)
        memory |= {"peak": watch.peak / MIB, "after": resident(host.pid) / MIB}
        client.wait_for_more(10)
        stretches = {"before": (ready, begin), "during": (begin, end), "after": (end, time.monotonic())}
        return Report(
            attack.name,
            backend,
            {name: client.between(*stretch) for name, stretch in stretches.items()},
            memory,
            100 * used / (end - begin),
            **_summary(attack, answers),
        )


def _attack(attack: Attack, target: str, seconds: float) -> tuple[float, float, list[Answer]]:
    command = [sys.executable, "-m", "drills.attacker", attack.name, target, str(seconds)]
    with Program(command, cwd=HERE, env=environment()) as attacker:
        begin, end = attacker.wait_for("begun")["at"], attacker.wait_for("over", patience=seconds + PATIENCE)["at"]
        if attacker.wait(PATIENCE) != 0:
            raise ChildProcessError(f"the attacker failed: {attacker.errors}")
        answers = [
            Answer(**{name: value for name, value in answer.items() if name != "event"})
            for answer in attacker.events("answer")
        ]
    return begin, end, answers


def _summary(attack: Attack, answers: list[Answer]) -> dict[str, Any]:
    in_time = [answer for answer in answers if answer.ending != "time"]
    return {
        "connections": len(answers),
        "endings": dict(Counter(answer.ending for answer in answers)),
        "resets": dict(sum((Counter(answer.resets) for answer in answers), Counter())),
        "statuses": dict(sum((Counter(answer.statuses) for answer in answers), Counter())),
        "first": answers[0],
        "unexpected": sum(not attack.is_expected(answer) for answer in in_time) + (not in_time),
    }
