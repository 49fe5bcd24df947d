"""Calls per second and latency of our host beside flyte-sdk's `c0`, in one interleaved run.

    uv run just bench [--seconds 3] [--rounds 3] [--streams 1 64]

Each host is a process pinned to one core, the client (grpcio, the executor's own stack) to another. Within a round
every host has its turn, so that whatever else the machine does hits all of them; what counts is the ratio, with its
spread over the rounds. flyte-sdk is installed into an environment of its own, `.venv-reference`, on the first run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
REFERENCE = ROOT / ".venv-reference"
REFERENCE_PACKAGE = "flyte[connector]==2.12.1"
SERVER_CORE, CLIENT_CORE = 0, 1


@dataclass(frozen=True)
class Peer:
    """A host under test: its name, and the command that starts it with `bench_connector` on a port."""

    name: str
    command: list[str]


@dataclass(frozen=True)
class Result:
    """One turn of one host."""

    calls_per_second: float
    median_ms: float
    p99_ms: float


def peers() -> list[Peer]:
    """flyte-sdk first, as the one that the others are compared with."""
    module = ["--modules", "bench_connector"]
    ours = [sys.executable, "-m", "connectrio", "serve", "--no-entry-points", "--log-level", "warning"]
    return [
        Peer("flyte-sdk c0", [str(REFERENCE / "bin" / "c0"), *module]),
        *(Peer(f"connectrio {name}", [*ours, *module, "--backend", name]) for name in ("uvloop", "asyncio", "trio")),
    ]


def install_reference() -> None:
    """Make the environment that flyte-sdk runs in, unless it is there."""
    if not (REFERENCE / "bin" / "c0").exists():
        subprocess.run(["uv", "venv", "--quiet", str(REFERENCE)], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(REFERENCE), REFERENCE_PACKAGE], check=True)


@contextlib.contextmanager
def running(peer: Peer) -> Iterator[int]:
    """`peer` as a process pinned to the server's core; yields its port once it answers."""
    port, metrics_port = _free_port(), _free_port()
    process = subprocess.Popen(
        [*peer.command, "--port", str(port), "--prometheus_port", str(metrics_port)],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _pin(process.pid, SERVER_CORE)
    try:
        _wait_until_listening(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit(f"{process.args} does not listen")


def measure(port: int, streams: int, seconds: float) -> Result:
    """Load the host on `port` with so many calls at once for so long."""
    command = [sys.executable, str(HERE / "load.py"), str(port), str(streams), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        _pin(client.pid, CLIENT_CORE)
        output, _ = client.communicate()
    if client.returncode != 0:
        raise SystemExit(f"the client ended with {client.returncode}")
    return Result(**json.loads(output))


def _pin(process: int, core: int) -> None:
    """Keep a process that has just been started, and the threads that it will start, on one core."""
    os.sched_setaffinity(process, {core % (os.cpu_count() or 1)})


def main() -> None:
    """Measure, and print a table for each number of streams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64], help="calls at once")
    options = parser.parse_args()
    install_reference()
    everyone = peers()
    results: dict[tuple[int, str], list[Result]] = {}
    with contextlib.ExitStack() as stack:
        ports = {peer.name: stack.enter_context(running(peer)) for peer in everyone}
        for _ in range(options.rounds):
            for streams in options.streams:
                for peer in everyone:
                    turn = measure(ports[peer.name], streams, options.seconds)
                    results.setdefault((streams, peer.name), []).append(turn)
    for streams in options.streams:
        report(streams, everyone, results)


def report(streams: int, everyone: list[Peer], results: dict[tuple[int, str], list[Result]]) -> None:
    """Print the medians over the rounds, and the ratio to the first peer with its spread."""
    print(f"\nGetTask, {streams} at once (median of the rounds; ratio to {everyone[0].name}, lowest to highest)")
    base = results[streams, everyone[0].name]
    for peer in everyone:
        turns = results[streams, peer.name]
        ratios = [turn.calls_per_second / other.calls_per_second for turn, other in zip(turns, base, strict=True)]
        rate, median, p99 = (
            statistics.median(getattr(turn, field) for turn in turns)
            for field in ("calls_per_second", "median_ms", "p99_ms")
        )
        print(
            f"  {peer.name:20} {rate:8.0f} calls/s  p50 {median:7.2f} ms  p99 {p99:7.2f} ms"
            f"  {statistics.median(ratios):.2f} of it ({min(ratios):.2f}-{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
