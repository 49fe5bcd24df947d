"""Load by h2load (Debian: nghttp2-client): a C program, so that the client is never what is measured."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from accounting import CpuClock
from call import verify
from peers import CLIENT_CORE, Running, pinned
from work import Work

# as the executor's, with its default deadline
REQUEST_HEADERS = [
    ("content-type", "application/grpc"),
    ("user-agent", "grpc-go/1.76.0"),
    ("te", "trailers"),
    ("grpc-timeout", "10S"),
]
_LINES = {
    "requests": re.compile(r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed"),
    "traffic": re.compile(r"\((\d+)\) data"),
    "seconds": re.compile(r"finished in ([\d.]+)(us|ms|s|m)"),
}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}


@dataclass(frozen=True)
class Turn:
    """What one load of one host showed, after the warm-up.

    :ivar rate: calls per second
    :ivar median: latency of a call in seconds; `p99` as well
    :ivar cpu: processor seconds of the server for each call
    :ivar kept: for which part of the time the server could have run, but something else did, its own threads included;
        much above 0, rates and latencies are those of a busy machine, and only `cpu` says something of the server
    """

    rate: float
    median: float
    p99: float
    cpu: float
    kept: float
    calls: int


@dataclass(frozen=True)
class Shape:
    """How a host is loaded.

    :ivar streams: calls at once, over all connections
    """

    streams: int
    connections: int = 1


def measure(
    host: Running, work: Work, shape: Shape, seconds: float, *, warm_up: float = 0.5, core: int | None = CLIENT_CORE
) -> Turn:
    """Load a host for so long after the warm-up.

    :param core: of the client; None lets it have them all

    :raises SystemExit: an answer was wrong: one call's before and after is looked at, the others' sizes are added up
    """
    expected = verify(host.port, work)
    clock = CpuClock(host.pid)
    with tempfile.TemporaryDirectory() as directory, clock.recording():
        log = Path(directory, "log")
        options = ["--duration", _number(warm_up + seconds), "--log-file", str(log)]
        output = _h2load(host.port, work, shape, *options, core=core)
        calls = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    verify(host.port, work)
    _check(output, work, shape, expected)
    began = min((start for start, _, _ in calls), default=0) / 1e6
    since, until, used = clock.window(began + warm_up, began + warm_up + seconds)
    latencies = sorted(took / 1e6 for start, _, took in calls if since <= (start + took) / 1e6 < until)
    if not latencies:
        raise SystemExit(f"{host.peer.name}: no {work.title} was answered in {seconds} s")
    return Turn(
        rate=len(latencies) / (until - since),
        median=latencies[len(latencies) // 2],
        p99=latencies[math.ceil(len(latencies) * 0.99) - 1],
        cpu=used.ran / len(latencies),
        kept=used.waited / (until - since),
        calls=len(latencies),
    )


def make(port: int, work: Work, shape: Shape, calls: int) -> float:
    """Make so many calls; how many seconds they took.

    :raises SystemExit: an answer was wrong
    """
    expected = verify(port, work)
    output = _h2load(port, work, shape, "--requests", str(calls))
    _check(output, work, shape, expected, calls)
    value, unit = _found(output, "seconds").groups()
    return float(value) * _SECONDS[unit]


def _h2load(port: int, work: Work, shape: Shape, *options: str, core: int | None = CLIENT_CORE) -> str:
    h2load = shutil.which("h2load")
    if h2load is None:
        raise SystemExit("h2load is not on the PATH; on Debian: apt-get install nghttp2-client")
    with tempfile.NamedTemporaryFile() as body:
        body.write(work.body)
        body.flush()
        command = [
            *pinned(core), h2load,
            "--clients", str(shape.connections),
            "--max-concurrent-streams", str(max(1, shape.streams // shape.connections)),
            "--data", body.name,
            *(f"--header={name}: {value}" for name, value in REQUEST_HEADERS),
            *options,
            f"http://127.0.0.1:{port}{work.path}",
        ]  # fmt: skip
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _check(output: str, work: Work, shape: Shape, size: int, calls: int | None = None) -> None:
    """An error has no DATA, so that right answers can be told by their sizes: all calls have the same one."""
    total, _, _, succeeded, failed = map(int, _found(output, "requests").groups())
    received = int(_found(output, "traffic").group(1))
    if calls is not None:
        is_right = succeeded == total == calls and received == calls * size
    else:  # the calls that the end has cut off have sent some of theirs
        cut_off = 2 * shape.streams * size
        is_right = failed == 0 and succeeded > 0 and succeeded * size <= received <= succeeded * size + cut_off
    if not is_right:
        raise SystemExit(f"{work.title}: not all answers were right; {size} bytes each were expected:\n{output}")


def _found(output: str, line: str) -> re.Match[str]:
    found = _LINES[line].search(output)
    if found is None:
        raise SystemExit(f"h2load ended without figures:\n{output}")
    return found


def _number(value: float) -> str:
    return f"{math.ceil(value)}" if value >= 1 else f"{value * 1000:.0f}ms"
