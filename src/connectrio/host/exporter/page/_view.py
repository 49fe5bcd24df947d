"""What a page shows of a report: what is searched for, in the order in which it matters, cut before it is rendered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from typing import Any, Generic, Literal, TypeVar, get_args

import msgspec

from connectrio.telemetry.report import (
    CallReport,
    ConnectorReport,
    FailureReport,
    HostReport,
    IncidentReport,
    JobReport,
    Minute,
)
from connectrio.telemetry.search import is_named, sorted_by_trouble

__all__ = ["Content", "Shown", "View", "content_of"]

T = TypeVar("T")

Kind = Literal["status", "connector", "job"]

_ROWS = 50
_MOST_ROWS = 500
_LONGEST_SEARCH = 200


@dataclass(frozen=True)
class View:
    """What somebody looks at.

    :ivar name: the task type of the connector; or the id or the key of the job, or the name of its execution
    :ivar version: of the connector; None for the highest
    :ivar search: what executions, nodes, keys, … must contain
    :ivar rows: how many rows a table has at most
    """

    kind: Kind = "status"
    name: str = ""
    version: int | None = None
    search: str = ""
    rows: int = _ROWS

    @classmethod
    def from_query(cls, query: Mapping[str, str], kind: str, name: str = "") -> View:
        """Return what a query asks for. What is not understood in it is ignored.

        :raises ValueError: there is no such kind of page
        """
        if kind not in get_args(Kind):
            raise ValueError(kind)
        version = _whole(query.get("version", ""))
        search = query.get("q", "")[:_LONGEST_SEARCH].strip()
        rows = min(max(_whole(query.get("rows", "")) or _ROWS, 1), _MOST_ROWS)
        return cls(kind, name, version, search, rows)  # type: ignore[arg-type]

    @property
    def query(self) -> dict[str, str]:
        """The query that asks for this view, for the page's updates."""
        query = {"page": self.kind, "name": self.name, "q": self.search, "version": "", "rows": str(self.rows)}
        if self.version is not None:
            query["version"] = str(self.version)
        return {key: value for key, value in query.items() if value}


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


@dataclass(frozen=True)
class Shown(Generic[T]):
    """The first of some items.

    :ivar found: how many match the search
    :ivar total: how many there are
    """

    items: Sequence[T]
    found: int
    total: int

    @property
    def more(self) -> int:
        """How many match and are not shown."""
        return self.found - len(self.items)


@dataclass(frozen=True)
class Content:
    """What the sections of a page show.

    :ivar sections: their names, in order; each is a template
    :ivar connectors: those of several processes are added up
    :ivar each_process: the one connector of a page, for each of several processes
    :ivar phases: how many jobs have which phase
    :ivar live: the oldest call for each job
    :ivar others: the versions of the connector that are not shown
    """

    sections: tuple[str, ...]
    title: str
    connectors: Sequence[ConnectorReport]
    jobs: Shown[JobReport]
    calls: Shown[CallReport]
    failures: Shown[FailureReport]
    incidents: Shown[IncidentReport]
    phases: Mapping[str, int] = field(default_factory=dict)
    each_process: Sequence[ConnectorReport] = ()
    others: Sequence[int] = ()
    job: JobReport | None = None
    live: Mapping[str, CallReport] = field(default_factory=dict)


def content_of(report: HostReport, view: View) -> Content | None:
    """Return what a view shows of a report; None if the report has no such connector or job."""
    jobs = report.jobs
    if view.kind == "job":
        return _of_job(report, view, jobs)
    if view.kind == "connector":
        return _of_connector(report, view, jobs)
    return Content(
        sections=("strip", "attention", "connectors", "jobs", "calls", "failures", "incidents", "inside"),
        title="status",
        connectors=_merged(report.connectors),
        phases=_phases(jobs),
        **_tables(report, view, jobs, lambda _: True),
    )


def _of_connector(report: HostReport, view: View, jobs: Sequence[JobReport]) -> Content | None:
    versions = {each.version for each in report.connectors if each.task_type == view.name}
    version = max(versions, default=None) if view.version is None else view.version
    if version not in versions:
        return None

    def is_shown(each: Any) -> bool:
        return each.task_type == view.name and getattr(each, "version", version) == version

    parts = [each for each in report.connectors if is_shown(each)]
    jobs = [each for each in jobs if is_shown(each)]
    return Content(
        sections=("strip", "connector", "jobs", "calls", "failures", "incidents"),
        title=view.name,
        connectors=_merged(parts),
        each_process=parts if len(parts) > 1 else (),
        others=sorted(versions - {version}),
        phases=_phases(jobs),
        **_tables(report, view, jobs, is_shown),
    )


def _of_job(report: HostReport, view: View, jobs: Sequence[JobReport]) -> Content | None:
    """Show a job, or the jobs of an execution if there are several."""
    found = [each for each in jobs if each.job == view.name] or [each for each in jobs if is_named(each, view.name)]
    if not found:
        return None
    ids, task_types = {each.job for each in found}, {each.task_type for each in found}
    tables = _tables(report, replace(view, search=""), found, lambda each: getattr(each, "job", "") in ids)
    seen = min(each.seen for each in found)
    tables["incidents"] = _shown(
        [each for each in report.incidents if each.task_type in task_types and each.last >= seen],
        lambda each: (each.ended is not None, -each.began),
        view.rows,
    )
    return Content(
        sections=("strip", "job" if len(found) == 1 else "jobs", "calls", "failures", "incidents"),
        title=found[0].task.execution or found[0].key or found[0].job,
        connectors=[each for each in _merged(report.connectors) if each.task_type in task_types],
        job=found[0] if len(found) == 1 else None,
        phases=_phases(found),
        **tables,
    )


def _tables(
    report: HostReport, view: View, jobs: Sequence[JobReport], is_shown: Callable[[Any], bool]
) -> dict[str, Any]:
    """Return the tables that the pages have in common."""
    words = view.search.casefold().split()
    newest_first = sorted(report.calls, key=lambda each: -each.started)
    return {
        "live": {each.job: each for each in newest_first},
        "jobs": _shown(sorted_by_trouble(jobs), None, view.rows, words),
        "calls": _shown(filter(is_shown, report.calls), lambda each: each.started, view.rows, words),
        "failures": _shown(filter(is_shown, report.failures), lambda each: -each.at, view.rows, words),
        "incidents": _shown(
            filter(is_shown, report.incidents), lambda each: (each.ended is not None, -each.began), view.rows
        ),
    }


def _shown(items: Iterable[T], order: Callable[[T], Any] | None, rows: int, words: Sequence[str] = ()) -> Shown[T]:
    items = list(items)
    found = [each for each in items if _matches(each, words)] if words else items
    first = found[:rows] if order is None else nsmallest(rows, found, key=order)
    return Shown(first, len(found), len(items))


def _matches(item: Any, words: Sequence[str]) -> bool:
    """Return whether each word is a part of some name of the item."""
    task = item.task
    names = (
        f"{task.execution}\n{task.node}\n{item.key}\n{task.output_prefix}\n{item.job}\n{item.task_type}\n"
        f"{task.org}\n{task.project}\n{task.domain}\n{getattr(item, 'phase', '')}"
    ).casefold()
    return all(word in names for word in words)


def _phases(jobs: Iterable[JobReport]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in jobs:
        phase = "DELETED" if each.deleted is not None else each.phase
        counts[phase] = counts.get(phase, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def _merged(connectors: Sequence[ConnectorReport]) -> list[ConnectorReport]:
    """Add up what several processes tell of the same connector. The slowest one's latency is that of all."""
    groups: dict[tuple[str, int], list[ConnectorReport]] = {}
    for each in connectors:
        groups.setdefault((each.task_type, each.version), []).append(each)
    return [group[0] if len(group) == 1 else _sum(group) for group in groups.values()]


def _sum(group: Sequence[ConnectorReport]) -> ConnectorReport:
    sums = {
        name: sum(getattr(each, name) for each in group)
        for name in ("active", "waiting", "slots", "calls", "failures", "absorbed", "retries", "rate")
    }
    highest = {name: _highest(getattr(each, name) for each in group) for name in ("p50", "p95", "p99")}
    jobs: dict[str, int] = {}
    for each in group:
        for phase, number in each.jobs.items():
            jobs[phase] = jobs.get(phase, 0) + number
    outage = next((each.outage for each in group if each.outage), "")
    return msgspec.structs.replace(
        group[0], **sums, **highest, jobs=jobs, outage=outage, minutes=_minutes(group), process=None
    )


def _minutes(group: Sequence[ConnectorReport]) -> list[Minute]:
    by_time: dict[int, list[Minute]] = {}
    for each in group:
        for minute in each.minutes:
            by_time.setdefault(int(minute.at // 60), []).append(minute)
    return [
        Minute(
            at=number * 60,
            calls=sum(each.calls for each in same),
            failures=sum(each.failures for each in same),
            absorbed=sum(each.absorbed for each in same),
            p95=_highest(each.p95 for each in same),
        )
        for number, same in sorted(by_time.items())
    ]


def _highest(values: Iterable[float | None]) -> float | None:
    return max((each for each in values if each is not None), default=None)
