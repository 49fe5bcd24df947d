"""A hosted connector that blocks, in our hosts and in flyte-sdk's own, in one interleaved run.

    uv run python tests/bench/hosted.py                 # 32 GetTask at once, each of which blocks for 0.2 s
    uv run python tests/bench/hosted.py --rounds 5 --backends trio

Meanwhile a client of its own asks for the host's health, one call after the other. The client is grpcio's; the figures
are what it sees.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from grpc_health.v1.health_pb2 import HealthCheckRequest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from e2e.client import Client  # noqa: E402 - a program, which sees to its path itself
from e2e.programs import HostProgram  # noqa: E402
from e2e.reference import ReferenceProgram  # noqa: E402

CONNECTORS = TESTS / "flyte_sdk" / "connectors"
CALLS = 32
BLOCKED = 0.2
REFERENCE = "flyte-sdk's c0"


class Health:
    """Asks for a host's health until it is told to stop.

    :ivar seconds: how long each answer took
    """

    def __init__(self, target: str) -> None:
        self.seconds: list[float] = []
        self._stopped = threading.Event()
        self._target = target
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _ask(self) -> None:
        with Client(self._target) as client:
            client.health.Check(HealthCheckRequest(), timeout=30)
            while not self._stopped.is_set():
                started = time.perf_counter()
                client.health.Check(HealthCheckRequest(), timeout=30)
                self.seconds.append(time.perf_counter() - started)
                time.sleep(0.002)


def burst(client: Client) -> float:
    """Seconds until all calls are answered that were made at once."""
    meta = b'{"said": "%g"}' % BLOCKED
    started = time.perf_counter()
    calls = [client.start("get", task_type="blocking", meta=meta) for _ in range(CALLS)]
    for call in calls:
        call.result()
    return time.perf_counter() - started


def percentile(values: list[float], share: float) -> float:
    """The value that so many are not above."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def main() -> None:
    """Measure, and print a line for each host."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backends", nargs="+", default=["asyncio", "uvloop", "trio"])
    options = parser.parse_args()
    with ExitStack() as stack:
        modules = [str(CONNECTORS / "mirror.py")]
        hosts = {name: HostProgram(name, worker=10, modules=modules) for name in options.backends}
        hosts[REFERENCE] = ReferenceProgram(Path(sys.executable), modules=["mirror"], cwd=CONNECTORS)
        for program in hosts.values():
            stack.enter_context(program).ready()
        bursts: dict[str, list[float]] = {name: [] for name in hosts}
        health: dict[str, list[float]] = {name: [] for name in hosts}
        for _ in range(options.rounds):
            for name, program in hosts.items():
                with Client(program.target) as client:
                    client.connecting().result(30)
                    with Health(program.target) as asked:
                        bursts[name].append(burst(client))
                health[name] += asked.seconds
    print(f"{CALLS} GetTask at once, each blocking for {BLOCKED} s; median of {options.rounds} rounds (lowest-highest)")
    for name in hosts:
        seconds, answers = bursts[name], [1000 * each for each in health[name]]
        print(
            f"{name:15} {statistics.median(seconds):5.2f} s ({min(seconds):.2f}-{max(seconds):.2f});"
            f" health p50 {percentile(answers, 0.5):6.1f} ms, p99 {percentile(answers, 0.99):6.1f} ms,"
            f" of {len(answers)}"
        )


if __name__ == "__main__":
    main()
