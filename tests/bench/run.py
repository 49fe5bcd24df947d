"""Our host beside its peers, in one interleaved run.

    uv run just bench                                        # GetTask, 1 and 64 at once, beside flyte-sdk's c0
    uv run just bench create --backend trio --streams 64 --rounds 5
    uv run just bench get --peers connectrio.rpc grpc.aio grpclib purerpc
    uv run just bench hosted                                 # flyte-sdk's connectors in our host, beside c0
    uv run just bench --all --json bench.json --plot bench.svg

Each server is a process pinned to one core, the client (h2load) to another. In each round every peer has its turn, so
that whatever else the machine does hits all of them; every other round goes the other way round. What counts is the
ratio to the first peer, which is given with its spread over the rounds: (median; lowest-highest). On a machine that
does other things too, processor time per call says more than calls per second.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import figures
import work
from accounting import resident_bytes, used
from figures import Figure, Table
from instructions import instructions_per_call
from load import Shape, Turn, make, measure
from peers import (
    ALL,
    BACKENDS,
    REFERENCE,
    SERVER_CORE,
    Peer,
    Running,
    chosen,
    end_servers_at_sigterm,
    hosted,
    ours,
    running,
)
from plot import plot

CONNECTIONS = (1, 100, 1000)
STREAMS = (1, 8, 64, 256)
MANY_CALLS = 1_000_000
_SETTLED = 0.1


@dataclass(frozen=True)
class Bench:
    """Something to measure.

    :ivar title: of its table
    :ivar turn: measures one peer once
    :ivar fits: whether the peer can do it
    :ivar peers: who is measured, where these are not those that the command line names
    """

    title: str
    turn: Callable[[Hosts, Peer], dict[Figure, float]]
    fits: Callable[[Peer], bool] = lambda peer: peer.is_whole
    peers: tuple[Peer, ...] = ()


class Hosts:
    """The peers as processes, each started when it is first needed."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._running: dict[tuple[Peer, int | None], Running] = {}

    def __getitem__(self, peer: Peer) -> Running:
        return self.get(peer, SERVER_CORE)

    def get(self, peer: Peer, core: int | None) -> Running:
        """The peer on a core; None lets it have them all."""
        if (peer, core) not in self._running:
            self._running[peer, core] = self._stack.enter_context(running(peer, core=core))
        return self._running[peer, core]


def loaded(kind: work.Work, shape: Shape, seconds: float, title: str) -> Bench:
    """A load of one shape; a bare servicer knows two methods only."""

    def turn(hosts: Hosts, peer: Peer) -> dict[Figure, float]:
        warm_up = 0.5 + shape.connections / 200
        return _shown(measure(hosts[peer], kind, shape, seconds, warm_up=warm_up))

    return Bench(title, turn, lambda peer: peer.is_whole or kind in (work.GET, work.CREATE))


def _shown(seen: Turn) -> dict[Figure, float]:
    return {
        figures.RATE: seen.rate,
        figures.MEDIAN: seen.median,
        figures.P99: seen.p99,
        figures.CPU: seen.cpu,
        figures.KEPT: seen.kept,
    }


def several(seconds: float, backend: str) -> Bench:
    """One process and several, on all cores, which the client shares."""

    def turn(hosts: Hosts, peer: Peer) -> dict[Figure, float]:
        host = hosts.get(peer, None)
        return _shown(measure(host, work.GET, Shape(64, 32), seconds, core=None))

    one, two = ours(backend), ours(backend, "--processes", "2")
    return Bench(f"GetTask over 32 connections, 64 at once, on all cores: {backend}", turn, peers=(one, two))


def start(_: Hosts, peer: Peer) -> dict[Figure, float]:
    """Cold start to SERVING, and what it then has in memory while nobody calls."""
    with running(peer) as host:
        needed = used(host.pid).ran
        time.sleep(1)
        return {
            figures.COLD_START: host.cold_start,
            figures.START_CPU: needed,
            figures.RESIDENT: resident_bytes(host.pid),
        }


def blocking(hosts: Hosts, peer: Peer) -> dict[Figure, float]:
    """So many calls at once to a connector that blocks."""
    calls = work.BLOCKING_CALLS
    return {figures.WALL: make(hosts[peer].port, work.BLOCKING, Shape(calls), calls)}


def memory(calls: int) -> Bench:
    """What the process has in memory after many calls, and by how much that grew after the first tenth of them."""

    def turn(_: Hosts, peer: Peer) -> dict[Figure, float]:
        with running(peer) as host:
            make(host.port, work.GET, Shape(64), calls // 10)
            before = resident_bytes(host.pid)
            make(host.port, work.GET, Shape(64), calls - calls // 10)
            after = resident_bytes(host.pid)
        return {figures.RESIDENT: after, figures.GROWTH: after - before}

    return Bench(f"Memory after {calls:,} calls, and its growth after the first {calls // 10:,}", turn)


def counted(kind: work.Work) -> Bench:
    """Instructions, which do not wobble."""

    def turn(_: Hosts, peer: Peer) -> dict[Figure, float]:
        return {figures.INSTRUCTIONS: instructions_per_call(peer, kind)}

    return Bench(f"{kind.title}: instructions of the server for each call", turn, lambda _: True)


def of_hosted(seconds: float, backends: Sequence[str]) -> Iterator[Bench]:
    """What flyte-sdk's connectors cost in our host, beside flyte-sdk's own."""
    peers = (REFERENCE, *map(hosted, backends))
    for kind, streams in ((work.GET, 1), (work.GET, 64), (work.CREATE, 1), (work.CREATE, 64)):
        plan = loaded(kind, Shape(streams), seconds, f"Hosted: {kind.title}, {streams} at once")
        yield replace(plan, peers=peers)
    yield Bench(f"Hosted: {work.BLOCKING.title}", blocking, peers=peers)
    yield Bench("Hosted: start, and idle", start, peers=peers)


def benches(options: argparse.Namespace) -> Iterator[Bench]:
    """What the command line asks for."""
    seconds = options.seconds
    plans: dict[str, list[Bench]] = {
        **{
            kind.name: [loaded(kind, Shape(n), seconds, f"{kind.title}, {n} at once") for n in options.streams]
            for kind in (work.GET, work.CREATE)
        },
        "hosted": list(of_hosted(seconds, options.backend or BACKENDS)),
        "logs": [loaded(work.LOGS, Shape(8), seconds, f"{work.LOGS.title}, 8 at once")],
        "large": [loaded(work.LARGE, Shape(4), seconds, f"{work.LARGE.title}, 4 at once")],
        "processes": [several(seconds, backend) for backend in options.backend or BACKENDS],
        "connections": [connected(number, seconds) for number in options.connections],
        "start": [Bench("Start, and idle", start)],
        "blocking": [Bench(work.BLOCKING.title, blocking)],
        "memory": [memory(options.calls)],
        "instructions": [counted(work.GET), counted(work.CREATE)],
    }
    for name in options.work:
        yield from plans[name]


def connected(number: int, seconds: float) -> Bench:
    """GetTask over so many connections, one call at a time on each; at least 64 at once."""
    shape = Shape(max(64, number), number)
    return loaded(work.GET, shape, seconds, f"GetTask, {number} connections, {shape.streams} at once")


def run(plan: list[Bench], peers: list[Peer], rounds: int) -> list[Table]:
    """Measure, and print each table when it is complete."""
    tables = []
    with contextlib.ExitStack() as stack:
        hosts = Hosts(stack)
        for bench in plan:
            fitting = [peer for peer in bench.peers or peers if bench.fits(peer)]
            table = Table(bench.title, {peer.name: [] for peer in fitting})
            for number in range(rounds):
                for peer in fitting if number % 2 == 0 else reversed(fitting):
                    print(f"\r{bench.title}: round {number + 1}, {peer.name}\033[K", end="", file=sys.stderr)
                    table.add(peer.name, bench.turn(hosts, peer))
                    time.sleep(_SETTLED)
            print("\r\033[K", end="", file=sys.stderr)
            print(table.to_markdown(), flush=True)
            tables.append(table)
    return tables


WORKS = (
    "get", "create", "hosted", "logs", "large", "connections", "processes", "start", "blocking", "memory",
    "instructions",
)  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", help=f"what to measure: {', '.join(WORKS)} (get)")
    parser.add_argument("--all", action="store_true", help="everything, beside every peer; takes hours")
    parser.add_argument("--peers", nargs="+", default=["c0", "connectrio"], help=", ".join(p.name for p in ALL))
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, help="of our host, instead of all three")
    parser.add_argument("--streams", type=int, nargs="+", help="calls at once (1 64)")
    parser.add_argument("--connections", type=int, nargs="+", default=list(CONNECTIONS))
    parser.add_argument("--calls", type=int, default=MANY_CALLS, help="for memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load for each turn, after the warm-up")
    parser.add_argument("--json", type=Path, help="write all figures there, beside those of other runs")
    parser.add_argument("--plot", type=Path, help="draw the rates of GetTask and CreateTask into this SVG file")
    options = parser.parse_args()
    unknown = set(options.work) - set(WORKS)
    if unknown:
        parser.error(f"cannot measure {', '.join(sorted(unknown))}; choose from {', '.join(WORKS)}")
    if options.all:
        options.work = list(WORKS)
        options.peers = [peer.name for peer in ALL if not peer.name.startswith("hosted ")]
    options.work = options.work or ["get"]
    options.streams = options.streams or list(STREAMS if options.all else (1, 64))
    return options


def main() -> None:
    """Measure, print, write."""
    options = parse()
    end_servers_at_sigterm()
    peers = chosen(options.peers)
    if options.backend:
        wanted = {host(backend).name for host in (ours, hosted) for backend in options.backend}
        peers = [peer for peer in peers if not peer.name.startswith(("connectrio ", "hosted ")) or peer.name in wanted]
    tables = run(list(benches(options)), peers, options.rounds)
    if options.json:
        figures.save(tables, options.json)
        tables = figures.load(options.json)
    if options.plot:
        options.plot.write_text(plot(tables))


if __name__ == "__main__":
    main()
