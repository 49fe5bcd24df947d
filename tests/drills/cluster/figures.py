"""What rolling updates have shown: kept in `figures.json`, shown in how-to/upgrade.md and explanation/drills.md.

`just drills rolling --figures tests/drills/cluster/figures.json` measures all rows again, and with names some of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drills.cluster.rows import ROLLOUTS, ROWS, Row

if TYPE_CHECKING:
    from drills.rolling import Report

FILE = Path(__file__).with_name("figures.json")
# settings of a row that its line in the table names, and how
_SHOWN = {
    "replicas": "replicas {}",
    "processes": "`--processes {}`",
    "drain_delay": "`drain_delay` {:g}",
    "grace": "`grace` {:g}",
    "pre_stop": "preStop {:g}",
    "min_ready": "`minReadySeconds` {:g}",
    "grace_period": "grace period {:g}",
}
_USUAL = Row("")


def load(file: Path = FILE) -> dict[str, dict[str, Any]]:
    """Return the results of all rows, by name."""
    return dict(json.loads(file.read_text())) if file.exists() else {}


def keep(report: Report, file: Path) -> None:
    """Write a result, in place of the last of that row."""
    kept = {**load(file), report.name: {**asdict(report), "row": settings(report.row)}}
    ordered = {name: kept[name] for name in [*ROLLOUTS, *ROWS] if name in kept}
    file.write_text(json.dumps(ordered, indent=1) + "\n")


def settings(row: Row) -> dict[str, Any]:
    """Return what was set in a row, without its texts, as JSON has it."""
    every = asdict(row)
    return {name: json.loads(json.dumps(every[name])) for name in every if name not in ("title", "asks", "remedy")}


def rollouts_table() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the large rollouts."""
    for name, row in ROLLOUTS.items():
        found = load()[name]
        yield (
            name.rpartition("-")[0],
            str(row.processes),
            f"{row.drain_delay:g} s",
            str(found["replaced"]),
            f"{found['calls']:,}",
            _failed(found),
            f"{found['jobs']:,}",
            str(found["duplicates"]),
            f"{found['slowest_seconds']:.2f} s",
        )


def rows_table() -> Iterator[tuple[str, ...]]:
    """Yield the rows of all situations."""
    for name, row in ROWS.items():
        found = load()[name]
        yield (
            f"`{name}`",
            row.title,
            settings_of(row),
            f"{_failed(found)} of {found['calls']:,}",
            str(found["duplicates"]),
            f"{row.asks}: `{row.remedy}`" if row.remedy else row.asks,
        )


def settings_of(row: Row) -> str:
    """Return the settings that a reader would have to set."""
    names = ["drain_delay", "grace_period"]
    names += [
        each.name
        for each in fields(Row)
        if each.name in _SHOWN and getattr(row, each.name) != getattr(_USUAL, each.name)
    ]
    return ", ".join(_SHOWN[name].format(getattr(row, name)) for name in _SHOWN if name in names)


def _failed(found: dict[str, Any]) -> str:
    failed = sum(found["failed"].values())
    return f"**{failed:,}**" if failed else "0"
