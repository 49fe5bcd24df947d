"""What was measured, and how it is shown: medians over the rounds, and ratios to the first peer with their spread."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """A column.

    :ivar form: formats a value
    :ivar is_compared: its ratio means something
    """

    name: str
    form: Callable[[float], str]
    is_compared: bool = True


def _fixed(digits: int, factor: float = 1) -> Callable[[float], str]:
    return lambda value: f"{value * factor:,.{digits}f}"


RATE = Figure("calls/s", _fixed(0))
MEDIAN = Figure("p50 ms", _fixed(2, 1e3))
P99 = Figure("p99 ms", _fixed(2, 1e3))
CPU = Figure("CPU µs/call", _fixed(0, 1e6))
KEPT = Figure("kept waiting", _fixed(2), is_compared=False)
COLD_START = Figure("cold start s", _fixed(2))
START_CPU = Figure("of it CPU s", _fixed(2))
RESIDENT = Figure("RSS MB", _fixed(1, 1e-6))
GROWTH = Figure("growth MB", _fixed(1, 1e-6), is_compared=False)
WALL = Figure("wall s", _fixed(2))
SIZE = Figure("size MB", _fixed(0, 1e-6))
COMPRESSED = Figure("to pull MB", _fixed(0, 1e-6))
INSTRUCTIONS = Figure("instructions/call", _fixed(0))
_ALL = (
    RATE, MEDIAN, P99, CPU, KEPT, COLD_START, START_CPU, RESIDENT, GROWTH, WALL, SIZE, COMPRESSED, INSTRUCTIONS
)  # fmt: skip
FIGURES = {figure.name: figure for figure in _ALL}

Round = dict[str, float]


@dataclass
class Table:
    """One work in one shape, for all peers.

    :ivar rounds: for each peer, the figures of each round
    """

    title: str
    rounds: dict[str, list[Round]] = field(default_factory=dict)

    def add(self, peer: str, figures: dict[Figure, float]) -> None:
        """A round of a peer."""
        self.rounds.setdefault(peer, []).append({figure.name: value for figure, value in figures.items()})

    def median(self, peer: str, figure: Figure) -> float:
        """Over the rounds."""
        return statistics.median(turn[figure.name] for turn in self.rounds[peer])

    def ratios(self, peer: str, figure: Figure) -> list[float]:
        """To the first peer, round by round: what disturbed one has disturbed the other as well."""
        base = next(iter(self.rounds.values()))
        return [
            turn[figure.name] / other[figure.name]
            for turn, other in zip(self.rounds[peer], base, strict=False)
            if other[figure.name]
        ]

    def to_markdown(self) -> str:
        """For terminals and documents."""
        figures = [FIGURES[name] for name in next(iter(self.rounds.values()))[0]]
        lines = [["", *(figure.name for figure in figures)]]
        lines += [[peer, *(self._cell(peer, figure) for figure in figures)] for peer in self.rounds]
        return f"{self.title}\n\n{_aligned(lines)}\n"

    def _cell(self, peer: str, figure: Figure) -> str:
        value = figure.form(self.median(peer, figure))
        ratios = self.ratios(peer, figure)
        if not figure.is_compared or not ratios or peer == next(iter(self.rounds)):
            return value
        return f"{value} ({statistics.median(ratios):.2f}; {min(ratios):.2f}-{max(ratios):.2f})"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * width for width in widths]
    rule[1:] = [f"{'-' * (width - 1)}:" for width in widths[1:]]
    rows = [lines[0], rule, *lines[1:]]
    return "\n".join(
        "| " + " | ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ) + " |"
        for row in rows
    )  # fmt: skip


def load(path: Path) -> list[Table]:
    """What `save` has saved; nothing where there is no such file."""
    if not path.exists():
        return []
    return [Table(**table) for table in json.loads(path.read_text())["tables"]]


def save(tables: Iterable[Table], path: Path) -> None:
    """Write all figures of all rounds, and the machine; tables of other titles that are there already are kept."""
    merged = {table.title: table for table in [*load(path), *tables]}
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
    }
    content = {"machine": machine, "tables": [vars(table) for table in merged.values()]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
