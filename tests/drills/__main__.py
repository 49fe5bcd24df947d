"""The drills: python -m drills [attacks | drain | kill | restart | rolling | soak] [NAME…] [OPTIONS]

`just drills` runs it. The exit code is 1 when a call of a good client has failed, an attacker got what it should not,
or something is left of calls that are over. A drill whose tool is missing is skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drills import assault, drain, kill, restart, rolling, soak
from drills.attacks.catalogue import ATTACKS
from drills.cluster.figures import keep
from drills.cluster.rows import ROLLOUTS, ROWS
from drills.cluster.ways import MissingToolError
from drills.hosting import BACKENDS
from drills.polling import build_poller

# connections of each killed client, and calls on each
_ONE, _MANY = (1, 1), (10, 20)
_DRILLS = ("attacks", "drain", "kill", "restart", "soak")
_ROWS = {**ROLLOUTS, **ROWS}


def main() -> int:
    """Run what is asked for, and report each drill as it ends; the exit code."""
    options = _options()
    passed = True
    for backend in options.backend:
        for report, line in _drills(options, backend):
            if report is None:
                print(f"skip  {backend:8}{line}", file=sys.stderr, flush=True)
                continue
            passed = passed and report.passed
            print(json.dumps(asdict(report)) if options.json else f"{_verdict(report)}  {backend:8}{line}", flush=True)
    return 0 if passed else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="just drills", description=__doc__.splitlines()[0])
    parser.add_argument("drill", nargs="?", choices=["all", "rolling", *_DRILLS], default="all")
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help=f"attacks, of: {', '.join(ATTACKS)}; or rolling updates, of: {', '.join(_ROWS)}",
    )  # fmt: skip
    parser.add_argument(
        "--backend", action="append", choices=BACKENDS, help="all of them, unless given; for rolling updates, uvloop"
    )
    parser.add_argument("--seconds", type=float, help="of each attack (4), or of the soak (1200), which all leaves out")
    parser.add_argument("--calls", type=int, default=100_000, help="of clients that are killed")
    parser.add_argument("--rate", type=float, default=100, help="calls a second in rolling updates")
    parser.add_argument("--figures", type=Path, help="a JSON file to keep the results of rolling updates in")
    parser.add_argument("--json", action="store_true", help="a JSON object for each drill, in place of the table")
    options = parser.parse_args()
    known = _ROWS if options.drill == "rolling" else ATTACKS
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    options.backend = options.backend or (["uvloop"] if options.drill == "rolling" else BACKENDS)
    return options


def _drills(options: argparse.Namespace, backend: str) -> Iterator[tuple[Any, str]]:
    if options.drill in ("all", "attacks"):
        for name in options.names or ATTACKS:
            report = assault.drill(ATTACKS[name], backend, options.seconds or 4.0)
            yield report, _attack_line(report)
    if options.drill in ("all", "drain"):
        for client in ("grpcio", "channel"):
            drained = drain.drill(backend, client)
            yield drained, _drain_line(drained)
    if options.drill in ("all", "kill"):
        for kills, shape in ((50, _ONE), (options.calls // (_MANY[0] * _MANY[1]), _MANY)):
            killed = kill.drill(backend, kills, shape)
            yield killed, _kill_line(killed)
    if options.drill in ("all", "restart"):
        yield from _restarts(backend, with_c0=backend == options.backend[0])
    if options.drill == "rolling":
        yield from _rolling(options, backend)
    if options.drill == "soak":
        soaked = soak.drill(backend, options.seconds or 1200.0)
        yield soaked, _soak_line(soaked)


def _restarts(backend: str, *, with_c0: bool) -> Iterator[tuple[Any, str]]:
    """Restart hosts in all ways; flyte-sdk's has an event loop of its own, and needs only one drill."""
    with tempfile.TemporaryDirectory() as directory:
        poller = build_poller(Path(directory))
        for way in restart.WAYS:
            if way != "c0" or with_c0:
                report = restart.drill(backend, way, poller, restarts=3)
                yield report, _restart_line(report)


def _rolling(options: argparse.Namespace, backend: str) -> Iterator[tuple[rolling.Report | None, str]]:
    for name in options.names or _ROWS:
        try:
            report = rolling.drill(name, _ROWS[name], backend=backend, rate=options.rate)
        except MissingToolError as error:
            yield None, f"{name}: {error}"
            continue
        if options.figures is not None:
            keep(report, options.figures)
        yield report, _rolling_line(report)


def _rolling_line(report: rolling.Report) -> str:
    failed = ", ".join(f"{what} x {count}" for what, count in report.failed.items()) or "none"
    return (
        f"rolling {report.name:20} {report.replaced} pods, {report.calls} calls, failed: {failed}"
        f"  jobs {report.jobs}, duplicates {report.duplicates}  slowest {report.slowest_seconds:.2f} s"
        f"  killed {report.killed}, exit codes {report.exit_codes}, drained in {report.drained_seconds:.1f} s"
    )


def _verdict(report: Any) -> str:
    return "pass" if report.passed else "FAIL"


def _attack_line(report: assault.Report) -> str:
    before, during = report.good["before"], report.good["during"]
    memory = " → ".join(f"{size:.0f}" for size in report.memory_mib.values())
    got = ", ".join(f"{ending} x {count}" for ending, count in report.endings.items())
    return (
        f"{report.attack:22} failures {report.failures}  p50 {before.p50_ms:.0f} → {during.p50_ms:.0f} ms"
        f"  p99 {before.p99_ms:.0f} → {during.p99_ms:.0f} ms  memory {memory} MiB  cpu {report.cpu_percent:.0f} %"
        f"  got: {got}; the first after {report.first.frames} frames, {report.first.seconds:.2f} s"
    )


def _drain_line(report: drain.Report) -> str:
    drains = ", ".join(f"{seconds:.1f}" for seconds in report.drain_seconds)
    return (
        f"drain {report.client:16} {report.connections} connections, {report.rate:.0f} calls/s: {report.outcomes}"
        f"  slowest {report.slowest_seconds:.2f} s  drained in {drains} s"
    )


def _restart_line(report: restart.Report) -> str:
    seconds = ", ".join(f"{each:.1f}" for each in report.seconds)
    counts = ", ".join(
        f"{name}: {each.failures} of {each.calls} failed, slowest {each.slowest:.2f} s"
        for name, each in (("polls", report.polls), ("fresh connections", report.fresh))
    )
    return f"restart {report.way:10} {counts}, at most {report.worst_job} of a job; restarts took {seconds} s"


def _kill_line(report: kill.Report) -> str:
    delays = ", ".join(f"p{percent} {report.percentile(percent):.1f}" for percent in (50, 99, 100))
    held = " → ".join(
        f"{one.tasks} tasks {one.descriptors} fds {one.objects} objects {one.memory_mib:.0f} MiB" for one in report.held
    )
    return f"kill {report.kills} x {report.shape[0]} x {report.shape[1]}: cancelled after {delays} ms  held: {held}"


def _soak_line(report: soak.Report) -> str:
    held = "  ".join(f"{name} {' → '.join(f'{median:.0f}' for median in report.medians(name))}" for name in soak.GROWTH)
    return (
        f"soak {report.seconds:.0f} s, {report.tasks} tasks, lost {report.lost}: {report.outcomes}"
        f"  repeated {report.errors}  vendor {report.vendor}  killed {report.killed}"
        f"  {held}  cpu {report.cpu_percent:.0f} %  log {report.log}"
    )


if __name__ == "__main__":
    sys.exit(main())
