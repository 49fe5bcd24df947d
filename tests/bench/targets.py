"""Compare the tables of a whole run with the targets for speed: a row for each target.

uv run just bench --all --json bench.json && uv run just targets bench.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from figures import COLD_START, CPU, GROWTH, MEDIAN, P99, RATE, RESIDENT, WALL, Figure, Table, load
from peers import BACKENDS
from work import BLOCKING, CREATE

Tables = dict[str, Table]


@dataclass(frozen=True)
class Target:
    """A row.

    :ivar limit: to be reached, or not to be exceeded
    :ivar is_least: which of the two
    :ivar value: what was reached; raises KeyError where it was not measured
    """

    name: str
    limit: float
    is_least: bool
    value: Callable[[Tables], float]
    unit: str = ""

    def row(self, tables: Tables) -> str:
        """In markdown."""
        bound = f"{'≥' if self.is_least else '≤'} {self.limit:g}{self.unit}"
        try:
            value = self.value(tables)
        except KeyError:
            return f"| {self.name} | {bound} | not measured | |"
        reached = value >= self.limit if self.is_least else value <= self.limit
        return f"| {self.name} | {bound} | {value:.2f}{self.unit} | {'yes' if reached else '**no**'} |"


def ratio(title: str, figure: Figure, peer: str, base: str) -> Callable[[Tables], float]:
    """Of two peers in one table, by the medians of their rounds."""
    return lambda tables: tables[title].median(peer, figure) / tables[title].median(base, figure)


def calls_of_cpu(title: str, peer: str, base: str) -> Callable[[Tables], float]:
    """How many calls a second of processor time is good for: what the rates would be on a machine of their own."""
    return lambda tables: tables[title].median(base, CPU) / tables[title].median(peer, CPU)


def growth_of_cost(high: str, low: str, peer: str) -> Callable[[Tables], float]:
    """What a call costs in one table, by what it costs in the other."""
    return lambda tables: tables[high].median(peer, CPU) / tables[low].median(peer, CPU)


def targets() -> Iterable[Target]:
    """All rows, the best backend first where each has one."""
    yield from _against_c0()
    busy = "GetTask, 64 at once"
    for name, base, limit in (("grpclib's server, same stubs", "grpclib", 2.5), ("a bare grpc.aio servicer", "", 1.6)):
        for backend in BACKENDS:
            # grpclib has no trio
            other = f"{base} {backend if backend != 'trio' else 'asyncio'}" if base else "grpc.aio"
            bare = f"connectrio.rpc {backend}"
            yield Target(f"{name}, calls/s, {backend}", limit, True, ratio(busy, RATE, bare, other))
            yield Target(f"{name}, calls per CPU second, {backend}", limit, True, calls_of_cpu(busy, bare, other))
    yield from _of_a_process()
    yield from _of_hosted()


def _against_c0() -> Iterable[Target]:
    busy, create = "GetTask, 64 at once", f"{CREATE.title}, 64 at once"
    for backend in BACKENDS:
        ours = f"connectrio {backend}"
        least = 2.0 if backend == "uvloop" else 1.7
        yield Target(f"GetTask, 64 streams, calls/s, {backend}", least, True, ratio(busy, RATE, ours, "c0"))
        yield Target(
            f"GetTask, 64 streams, calls per CPU second, {backend}", least, True, calls_of_cpu(busy, ours, "c0")
        )
        single = ratio("GetTask, 1 at once", MEDIAN, ours, "c0")
        yield Target(f"GetTask, 1 stream, median latency, {backend}", 0.7, False, single)
        yield Target(f"GetTask, 64 streams, p99, {backend}", 0.6, False, ratio(busy, P99, ours, "c0"))
        yield Target(f"CreateTask, 64 streams, calls/s, {backend}", 4.0, True, ratio(create, RATE, ours, "c0"))
        by_cpu = calls_of_cpu(create, ours, "c0")
        yield Target(f"CreateTask, 64 streams, calls per CPU second, {backend}", 4.0, True, by_cpu)


def _of_a_process() -> Iterable[Target]:
    memory = "Memory after 1,000,000 calls, and its growth after the first 100,000"
    for backend in BACKENDS:
        ours = f"connectrio {backend}"
        yield Target(f"32 blocking calls, wall time, {backend}", 0.15, False, ratio(BLOCKING.title, WALL, ours, "c0"))
        yield Target(f"cold start, {backend}", 0.7, False, ratio("Start, and idle", COLD_START, ours, "c0"))
        yield Target(f"idle memory, {backend}", 0.7, False, ratio("Start, and idle", RESIDENT, ours, "c0"))
        grown = _megabytes_grown(memory, ours)
        yield Target(f"memory growth after 100,000 of 1,000,000 calls, {backend}", 2, False, grown, " MB")
        streams = growth_of_cost("GetTask, 256 at once", "GetTask, 8 at once", ours)
        yield Target(f"cost of a call at 256 streams, by 8, {backend}", 1.2, False, streams)
        many, one = (f"GetTask, {n} connections, {max(64, n)} at once" for n in (1000, 1))
        yield Target(
            f"cost of a call at 1,000 connections, by 1, {backend}", 1.2, False, growth_of_cost(many, one, ours)
        )
        several = f"GetTask over 32 connections, 64 at once, on all cores: {backend}"
        two = ratio(several, RATE, f"{ours} --processes 2", ours)
        yield Target(f"two processes on two cores, by one, {backend}", 1.5, True, two)


def _of_hosted() -> Iterable[Target]:
    """flyte-sdk's connectors in our host."""
    rates = (("GetTask, 64 at once", 1.6), ("GetTask, 1 at once", 1.0), (f"{CREATE.title}, 64 at once", 1.2))
    for backend in BACKENDS:
        ours = f"hosted {backend}"
        for title, least in rates:
            found = ratio(f"Hosted: {title}", RATE, ours, "c0")
            yield Target(f"hosted: {title}, calls/s, {backend}", least, True, found)
        wall = ratio(f"Hosted: {BLOCKING.title}", WALL, ours, "c0")
        yield Target(f"hosted: 32 blocking calls, wall time, {backend}", 0.15, False, wall)
        memory = ratio("Hosted: start, and idle", RESIDENT, ours, "c0")
        yield Target(f"hosted: idle memory, {backend}", 1.0, False, memory)


def _megabytes_grown(title: str, peer: str) -> Callable[[Tables], float]:
    return lambda tables: tables[title].median(peer, GROWTH) / 1e6


def main() -> None:
    """Print the rows."""
    tables = {table.title: table for table in load(Path(sys.argv[1]))}
    if not tables:
        raise SystemExit(f"{sys.argv[1]} has no figures; make them with: just bench --all --json {sys.argv[1]}")
    print("| | to reach | reached | |\n|---|---:|---:|---|")
    for target in targets():
        print(target.row(tables))


if __name__ == "__main__":
    main()
