"""The tables and plots of docs/explanation/scale-plan.md, made from figures.json: `python -m scale.page` writes them.

A table stands in its page between `<!-- scale: NAME -->` and `<!-- up to here -->`. `test_page.py` fails while one is
not up to date.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from scale.__main__ import load

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "explanation" / "scale-plan.md"
_PART = re.compile(r"(?<=<!-- scale: )(\w+)( -->\n).*?(?=<!-- up to here -->)", re.DOTALL)
_COLOURS = ("#2f7ed8", "#d9822b", "#2a9d6f", "#a6559e")
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 520, 240, 70, 34, 200, 46

Figures = dict[str, Any]
Points = list[tuple[float, float]]


def _table(head: str, rows: Iterator[list[str]]) -> str:
    columns = head.split(" | ")
    lines = [columns, ["---", *(["---:"] * (len(columns) - 1))], *rows]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


def _number(value: float | None, digits: int = 1) -> str:
    """Return a number as it is shown; what is not known was not seen within the simulation."""
    if value is None:
        return "not seen"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.{digits}f}"


def chosen(figures: Figures, group: str) -> Iterator[tuple[str, Figures, Figures]]:
    """Yield the cases of a group: what is behind its name, the case, and the result."""
    for name, each in figures["cases"].items():
        if name.startswith(f"{group}: "):
            yield name.removeprefix(f"{group}: "), each["case"], each["result"]


def cost(limits: Figures, case: Figures, result: Figures) -> dict[str, float]:
    """Return what a case costs: cores and memory of all replicas, and the sums for a million tasks.

    Nothing here is simulated: these are the counts of the simulation times what was measured.
    """
    creates = case["jobs"] * case["parts"] / case["duration"]
    told = result["vendor_get_manys_per_s"] * 100 if case["design"] == "get_many" else 0.0
    cores = (
        result["polls_per_s"] * limits["get"]["cpu_us"]
        + told * limits["background"]["cpu_us"]
        + creates * limits["creates"]["memory"]["cpu_us"]
    ) / 1e6
    each, memory = case["jobs"] / case["replicas"], limits["memory"]
    jobs = max(result["known_jobs"] * memory["known_job_bytes"], min(each, 10_000) * memory["polled_job_bytes"])
    mib = memory["start_mib"] + (jobs + min(each, 4096) * memory["created_job_bytes"]) / 2**20
    hours = 1e6 / creates / 3600
    return {
        "cores": cores,
        "mib": mib,
        "core_hours": cores * hours,
        "gib_hours": case["replicas"] * case["parts"] * mib / 1024 * hours,
        "requests": (result["vendor_requests_per_s"] / creates + 1) * 1e6,
    }


def limits_table(figures: Figures) -> str:
    """What was measured of one host."""
    seen = figures["limits"]
    memory, creates = seen["memory"], seen["creates"]
    stored = creates["postgres"] or {}

    def rows() -> Iterator[list[str]]:
        for name, kind in (("GetTask", "get"), ("CreateTask, six inputs", "create")):
            each = seen[kind]
            spread = f"{each['cpu_us_least']}-{each['cpu_us_most']}"
            yield [f"{name}: processor time", f"{each['cpu_us']} µs ({spread})", f"{each['c0_cpu_us']} µs"]
            yield [f"{name}: calls a second of one busy core", _number(1e6 / each["cpu_us"]), ""]
            yield [f"{name}: ours to c0, median of the rounds", str(each["ratio_to_c0"]), ""]
        yield ["CreateTask, each of another job", f"{creates['memory']['cpu_us']} µs", ""]
        if stored:
            yield ["the same with PostgreSQL as job store: the host", f"{stored['cpu_us']} µs", ""]
            yield ["the same: PostgreSQL", f"{stored['database_cpu_us']} µs", ""]
        yield ["a job in a `get_many`, in the background", f"{seen['background']['cpu_us']} µs", ""]
        yield ["memory at start", f"{memory['start_mib']} MiB", f"{memory['c0_start_mib']} MiB"]
        yield ["memory of a connection", f"{memory['connection_kib']} KiB", ""]
        yield ["memory of a worker thread", f"{memory['thread_kib']} KiB", ""]
        for name, key in (
            ("that was polled (10,000 at most)", "polled_job_bytes"),
            ("that is polled with limits or `get_many` (20,000 at most)", "known_job_bytes"),
            ("that was created (4,096 at most)", "created_job_bytes"),
        ):
            yield [f"memory of a job {name}", f"{_number(memory[key])} bytes", ""]

    return _table("what | ours | c0", rows())


def agreement_table(figures: Figures) -> str:
    """The service's own code beside the cheap simulation."""

    def rows() -> Iterator[list[str]]:
        for name, each in figures["agreement"].items():
            pairs = ("polls_per_s", "vendor_requests_per_s", "stale_p50", "stale_p99")
            yield [name, *(f"{_number(each['real'][key])} / {_number(each['model'][key])}" for key in pairs)]

    return _table("case | polls a second | vendor requests a second | late by, p50 s | p99 s", rows())


def cases_table(group: str) -> Callable[[Figures], str]:
    """Return a function for the table of a group of cases."""

    def make(figures: Figures) -> str:
        def rows() -> Iterator[list[str]]:
            for name, _, result in chosen(figures, group):
                numbers = [result["polls_per_s"], result["vendor_requests_per_s"], result["vendor_peak_per_s"]]
                late = [result["stale_p50"], result["stale_p99"]]
                end = "queue grows" if result["diverges"] else _number(result["seconds_between_polls"])
                yield [name, *map(_number, numbers), end, *map(_number, late)]

        head = "case | polls a second | vendor requests a second | at most | s between polls | late by, p50 s | p99 s"
        return _table(head, rows())

    return make


def cost_table(figures: Figures) -> str:
    """What the sizes cost."""

    def rows() -> Iterator[list[str]]:
        for name, case, result in chosen(figures, "size"):
            if result["stale_p99"] is None:
                continue  # what it costs to fall behind is of no interest
            spent = cost(figures["limits"], case, result)
            yield [
                name,
                _number(spent["cores"], 2),
                _number(spent["mib"]),
                _number(spent["core_hours"], 2),
                _number(spent["gib_hours"], 2),
                f"{spent['requests'] / 1e6:,.1f} million",
            ]

    head = "case | cores, all replicas | MiB, each replica | core-hours, 1M tasks | GiB-hours, 1M tasks"
    return _table(f"{head} | vendor requests, 1M tasks", rows())


def grid_table(figures: Figures) -> str:
    """Each size with each number of replicas: what the polls do, and what they cost."""

    def rows() -> Iterator[list[str]]:
        for name, case, result in chosen(figures, "grid"):
            jobs, replicas = (case[key] * case["parts"] for key in ("jobs", "replicas"))
            calls = name.rpartition(", ")[2] if replicas > 1 else ""
            spent = cost(figures["limits"], case, result)
            sums = [
                _number(spent["core_hours"], 2),
                _number(spent["gib_hours"], 2),
                f"{spent['requests'] / 1e6:,.1f} million",
            ]
            yield [
                f"{round(jobs, -3):,}, {replicas}{calls and f', {calls}'}",
                *map(_number, (result["polls_per_s"], result["vendor_requests_per_s"], result["vendor_peak_per_s"])),
                *map(_number, (result["stale_p50"], result["stale_p99"], spent["mib"])),
                _number(spent["cores"], 2),
                *(["late"] * len(sums) if result["stale_p99"] is None else sums),
            ]

    head = "jobs, replicas | polls a second | vendor requests a second | at most | late by, p50 s | p99 s"
    head += " | MiB, each replica | cores, all replicas | core-hours, 1M tasks | GiB-hours, 1M tasks"
    return _table(f"{head} | vendor requests, 1M tasks", rows())


def refused_table(figures: Figures) -> str:
    """What becomes of polls when the vendor refuses."""

    def rows() -> Iterator[list[str]]:
        for name, each in figures["refused"].items():
            result = each["result"]
            keys = ("vendor_requests_per_s", "vendor_refused_per_s", "failed_polls_per_s")
            late = (result["stale_p50"], result["stale_p99"])
            yield [name, *(_number(result[key]) for key in keys), f"{result['tasks_given_up']:,}", *map(_number, late)]

    head = "case | vendor requests a second | of them refused | failed polls a second | tasks given up"
    return _table(f"{head} | late by, p50 s | p99 s", rows())


def store_table(figures: Figures) -> str:
    """What it takes to create each job once, by PostgreSQL."""
    creates = figures["limits"]["creates"]

    def rows() -> Iterator[list[str]]:
        for jobs in (1000, 10_000, 100_000, 1_000_000):
            rate = jobs / 600
            alone = creates["memory"]["cpu_us"] * rate / 1e6
            if stored := creates["postgres"]:
                both = [stored[key] * rate / 1e6 for key in ("cpu_us", "database_cpu_us")]
                yield [f"{jobs:,}", *(_number(each, 2) for each in (rate, alone, *both))]

    return _table("jobs of 600 s at once | creates a second | cores of hosts, no store | hosts | PostgreSQL", rows())


TABLES: dict[str, Callable[[Figures], str]] = {
    "limits": limits_table,
    "agreement": agreement_table,
    "executor": cases_table("executor"),
    "cap": cases_table("cap"),
    "replicas": cases_table("replicas"),
    "sizes": cases_table("size"),
    "cost": cost_table,
    "workers": cases_table("workers"),
    "grid": grid_table,
    "refused": refused_table,
    "store": store_table,
}


def _points(figures: Figures, group: str, parts: str, x: str, y: str) -> Points:
    """Return the points of the cases of a group whose names have all of these words, with `!` none of them."""
    words = parts.split(";")
    found = [
        (case[x] * case["parts"], result[y])
        for name, case, result in chosen(figures, group)
        if all((word[1:] not in name) if word[0] == "!" else (word in name) for word in words)
    ]
    return sorted((across, up) for across, up in found if up is not None)


def plots(figures: Figures) -> dict[str, str]:
    """Return the plots, by the names of their files."""

    def lines(group: str, x: str, y: str, series: dict[str, str]) -> dict[str, Points]:
        return {label: _points(figures, group, parts, x, y) for label, parts in series.items()}

    executor = {
        "defaults": "defaults",
        "qps 10,000": "qps 10,000;!workers;!get_many",
        "the same, 100 workers": "100 workers",
        "the same, get_many": "get_many",
    }
    late = {
        "in turns, 30/s each": "in turns;30/s each",
        "in turns, 30/s together": "in turns;30/s together",
        "sticky, 30/s together": "sticky;30/s together",
    }
    sizes = {
        "1 replica": "1 replica",
        "10 replicas, sticky": "10 replicas, sticky",
        "10 replicas, in turns": "10 replicas, in turns",
        "50 replicas, sticky": "50 replicas, sticky",
    }
    many = {"in turns": "get_many;in turns", "sticky": "get_many;sticky"}
    requests = "vendor_requests_per_s"
    return {
        "scale-executor.svg": chart(
            "seconds between two polls of a job", "jobs", lines("executor", "jobs", "seconds_between_polls", executor)
        ),
        "scale-cap.svg": chart(
            "vendor requests a second, one replica, get_many",
            "jobs",
            lines("cap", "jobs", requests, {"get_many": "jobs"}),
        ),
        "scale-replicas.svg": chart(
            "vendor requests a second, 5,000 jobs, get_many",
            "replicas",
            lines("replicas", "replicas", requests, many),
        ),
        "scale-sizes.svg": chart(
            "vendor requests a second, get_many, by jobs and replicas", "jobs", lines("grid", "jobs", requests, sizes)
        ),
        "scale-limited.svg": chart(
            "late by, p99 s; 1,000 jobs, the vendor allows 30 requests a second",
            "replicas",
            lines("replicas", "replicas", "stale_p99", late),
        ),
    }


def chart(title: str, across: str, series: dict[str, Points]) -> str:
    """Return lines with logarithmic axes, as SVG that reads well on light and dark pages."""
    points = [point for line in series.values() for point in line if point[1] > 0]
    (x0, x1), (y0, y1) = (_range([point[axis] for point in points]) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        part_x = (math.log10(x) - x0) / (x1 - x0)
        part_y = (math.log10(y) - y0) / (y1 - y0)
        return round(_LEFT + part_x * _WIDTH, 1), round(_TOP + _HEIGHT - part_y * _HEIGHT, 1)

    drawn = [f'<text x="4" y="18" font-weight="bold">{escape(title)}</text>']
    drawn.append(f'<text x="{_LEFT + _WIDTH / 2}" y="{_TOP + _HEIGHT + 40}" text-anchor="middle">{across}</text>')
    for value in _marks(x0, x1):
        x, y = place(value, 10**y0)
        drawn.append(f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{y}" stroke="#8a8f98" stroke-opacity="0.3"/>')
        drawn.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{value:,.10g}</text>')
    for value in _marks(y0, y1):
        x, y = place(10**x0, value)
        drawn.append(f'<line x1="{x}" y1="{y}" x2="{x + _WIDTH}" y2="{y}" stroke="#8a8f98" stroke-opacity="0.3"/>')
        drawn.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{value:,.10g}</text>')
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number]
        places = [place(x, y) for x, y in line if y > 0]
        path = " ".join(f"{x},{y}" for x, y in places)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        label_y = _TOP + 16 + 20 * number
        drawn.append(f'<rect x="{_LEFT + _WIDTH + 12}" y="{label_y - 9}" width="10" height="10" fill="{colour}"/>')
        drawn.append(f'<text x="{_LEFT + _WIDTH + 28}" y="{label_y}">{escape(name)}</text>')
    size = f'width="{_LEFT + _WIDTH + _RIGHT}" height="{_TOP + _HEIGHT + _BOTTOM}"'
    style = "<style>text{font:13px system-ui,sans-serif;fill:#777}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{style}\n' + "\n".join(drawn) + "\n</svg>\n"


def _range(values: list[float]) -> tuple[float, float]:
    """Return logarithms a little beyond the least and the largest value."""
    return math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1


def _marks(first: float, last: float) -> list[float]:
    """Return the round numbers on an axis; only powers of ten on a long one."""
    powers = range(math.floor(first), math.ceil(last) + 1)
    marks = [digit * 10.0**power for power in powers for digit in ((1, 2, 5) if last - first < 3 else (1,))]
    return [mark for mark in marks if first <= math.log10(mark) <= last]


def page(text: str, figures: Figures) -> str:
    """Return the page with its tables."""
    return _PART.sub(lambda part: part[1] + part[2] + TABLES[part[1]](figures), text)


def main() -> None:
    """Write the tables and the plots."""
    figures = load()
    PAGE.write_text(page(PAGE.read_text(), figures))
    for name, plot in plots(figures).items():
        (DOCS / "images" / name).write_text(plot)


if __name__ == "__main__":
    main()
