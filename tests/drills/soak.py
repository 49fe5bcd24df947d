"""The soak: mixed work for a long time, with clients that are killed and a vendor that fails.

Two executors run tasks: one lasts, the other is killed every twenty seconds and replaced. Other clients are killed
while their calls are held. Every task of the first must end as it should, and what the host holds must not grow.
"""

from __future__ import annotations

import itertools
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drills.hosting import HERE, PATIENCE, Control, DrillHost, environment
from drills.kill import Killer
from drills.process import MIB, cpu_seconds, resident
from e2e.programs import Program, children_of

# tasks a second of the executor that lasts, and for each of them, of those that are killed
RATE, KILLED = 20.0, 0.25
# seconds
SAMPLE_EVERY, KILL_EVERY, VICTIM_EVERY = 4.0, 20.0, 2.0
# connections of each client whose held calls are killed, and calls on each
SHAPE = (2, 10)

EXPECTED = {"job: SUCCEEDED", "deleted: ABORTED", "query: SUCCEEDED", "log: ok"}

# how much more a host may hold in the last quarter of a soak than in the second
GROWTH = {"memory_mib": 5.0, "descriptors": 3.0, "threads": 3.0, "children": 1.0}


@dataclass(frozen=True)
class Sample:
    """What the host holds at one moment.

    :ivar at: seconds since the beginning
    :ivar memory_mib: resident
    :ivar children: processes, of which each runs a query
    """

    at: float
    memory_mib: float
    descriptors: int
    threads: int
    children: int


@dataclass(frozen=True)
class Report:
    """The result of a soak.

    :ivar tasks: that the lasting executor has started
    :ivar outcomes: what became of them, by kind
    :ivar errors: calls of the same executor that failed and were repeated, by method and status
    :ivar vendor: the vendor's requests, by their fate
    :ivar killed: clients and held calls that were killed, and how many of those calls were cancelled
    :ivar cpu_percent: of one processor, which the host used
    :ivar log: lines that the host wrote, by event
    """

    backend: str
    seconds: float
    tasks: int
    outcomes: dict[str, int]
    errors: dict[str, int]
    vendor: dict[str, int]
    killed: dict[str, int]
    samples: list[Sample]
    cpu_percent: float
    log: dict[str, int]
    exit_code: int

    @property
    def lost(self) -> int:
        """The number of tasks that did not end as they should."""
        ended = sum(count for outcome, count in self.outcomes.items() if not outcome.startswith("log"))
        wrong = sum(count for outcome, count in self.outcomes.items() if outcome not in EXPECTED)
        return self.tasks - ended + wrong

    def medians(self, name: str) -> list[float]:
        """Return the median of a figure in each quarter of the time."""
        ends = [len(self.samples) * quarter // 4 for quarter in range(5)]
        return [
            statistics.median(getattr(sample, name) for sample in self.samples[begin:end] or self.samples)
            for begin, end in itertools.pairwise(ends)
        ]

    @property
    def grown(self) -> list[str]:
        """The figures that have grown."""
        return [name for name, most in GROWTH.items() if self.medians(name)[-1] - self.medians(name)[1] > most]

    @property
    def passed(self) -> bool:
        """Whether nothing was lost and nothing has grown."""
        held, cancelled = self.killed["calls"], self.killed["cancelled"]
        return not (self.lost or self.grown or self.exit_code) and held == cancelled


@contextmanager
def _executor(name: str, target: str, rate: float, home: str) -> Iterator[Program]:
    # DuckDB writes below its data directory
    command = [sys.executable, "-m", "drills.executor", name, target, str(rate), f"{home}/data"]
    with Program(command, cwd=HERE, env=environment()) as executor:
        executor.wait_for("running", patience=PATIENCE)
        yield executor


@contextmanager
def _host(backend: str, home: str) -> Iterator[tuple[Program, DrillHost]]:
    """Yield the vendor and the host."""
    with Program([sys.executable, "-m", "drills.vendor"], cwd=HERE, env=environment()) as vendor:
        port = vendor.wait_for("serving", patience=PATIENCE)["port"]
        env = {"VENDOR_PORT": str(port), "CONNECTRIO_DUCKDB_HOME": home}
        modules = [HERE / "connector.py", HERE / "vended.py", "connectrio.connectors.duckdb"]
        # only the end of its client cancels a held call
        with DrillHost(backend, env=env, modules=modules, get_limit=3600) as host:
            yield vendor, host.ready()


def drill(backend: str, seconds: float, rate: float = RATE) -> Report:
    """Give a new host mixed work for so long."""
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        vendor, host = stack.enter_context(_host(backend, home))
        killer = Killer(host, stack.enter_context(Control(host.target)), SHAPE, Path(home))
        steady = stack.enter_context(_executor("steady", host.target, rate, home))
        began, used = time.monotonic(), cpu_seconds(host.pid)
        samples, kills = _stir(host, killer, seconds, partial(_executor, rate=KILLED * rate, home=home))
        used, took = cpu_seconds(host.pid) - used, time.monotonic() - began
        steady.send(signal.SIGTERM)
        result = steady.wait_for("result", patience=PATIENCE)
        host.drain()
        code = host.wait(PATIENCE)
        vendor.send(signal.SIGTERM)
        return Report(
            backend=backend,
            seconds=took,
            tasks=result["tasks"],
            outcomes=result["outcomes"],
            errors=result["errors"],
            vendor=vendor.wait_for("books", patience=PATIENCE)["requests"],
            killed={**kills, "cancelled": len(killer.delays_ms)},
            samples=samples,
            cpu_percent=100 * used / took,
            log=dict(Counter(line["event"] for line in host.log)),
            exit_code=code,
        )


def _stir(
    host: DrillHost, killer: Killer, seconds: float, executor: Callable[[str, str], AbstractContextManager[Program]]
) -> tuple[list[Sample], dict[str, int]]:
    """Kill clients and look at the host until the time is over. Return the samples, and who was killed.

    :param executor: starts one, given its name and the target
    """
    began = time.monotonic()
    samples: list[Sample] = []
    victims = executors = 0
    while time.monotonic() - began < seconds:
        with executor(f"killed-{executors}", host.target) as killed:
            ends = min(time.monotonic() + KILL_EVERY, began + seconds)
            for turn in itertools.count():
                if time.monotonic() > ends:
                    break
                killer.kill_one()
                victims += 1
                if turn % round(SAMPLE_EVERY / VICTIM_EVERY) == 0:
                    samples.append(_look(host.pid, time.monotonic() - began))
                time.sleep(VICTIM_EVERY)
            killed.kill()
            executors += 1
    return samples, {"victims": victims, "calls": victims * SHAPE[0] * SHAPE[1], "executors": executors}


def _look(pid: int, at: float) -> Sample:
    process = Path(f"/proc/{pid}")
    return Sample(
        at,
        resident(pid) / MIB,
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
        len(children_of(pid)),
    )
