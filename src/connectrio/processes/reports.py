"""Join what several processes tell of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from connectrio.telemetry.report import Attention, HostReport, ProcessReport
from connectrio.telemetry.search import sorted_by_trouble

__all__ = ["join", "shortened"]

T = TypeVar("T", bound=msgspec.Struct)

_LISTS = ("connectors", "jobs", "calls", "failures", "incidents", "threads", "connections")
_SUMS = ("threads_busy", "threads_limit", "dropped_lines")
# those that processes share: they are told once
_SHARED = ("load_failures", "certificates")


def shortened(report: HostReport, size: int, encode: Callable[[HostReport], bytes]) -> HostReport:
    """Return `report` with its lists cut until it is encoded in at most `size` bytes.

    What matters most stays: the jobs in trouble, and the beginnings of the other lists.
    """
    most = max(len(getattr(report, name)) for name in _LISTS)
    if most and len(encode(report)) > size:
        report = msgspec.structs.replace(report, jobs=sorted_by_trouble(report.jobs))
        while most and len(encode(report)) > size:
            most //= 2
            report = msgspec.structs.replace(report, **{name: getattr(report, name)[:most] for name in _LISTS})
    return report


def join(own: HostReport, reports: Mapping[int, HostReport], processes: list[ProcessReport]) -> HostReport:
    """Return the report of several processes.

    :param own: of the supervisor; its lists and sums are added to
    :param reports: of the processes that have answered, by their numbers
    :param processes: all of them
    """
    found: dict[str, Any] = {"processes": processes}
    for name in _LISTS:
        found[name] = [
            msgspec.structs.replace(item, process=number)
            for number, report in reports.items()
            for item in getattr(report, name)
        ]
    found["connectors"].sort(key=lambda each: (each.task_type, each.version, each.process))
    for name in _SUMS:
        found[name] = getattr(own, name) + sum(getattr(report, name) for report in reports.values())
    for name in _SHARED:
        found[name] = _once(getattr(own, name), *(getattr(report, name) for report in reports.values()))
    silent = [
        Attention(
            kind="process",
            severity="error",
            text=f"process {each.process} did not tell in time what it does; it is {each.state}",
            what_to_do="the log says why; a process that is frozen is replaced after --hang-limit",
            process=each.process,
        )
        for each in processes
        if each.process not in reports
    ]
    found["attention"] = [*own.attention, *silent, *_attention(reports)]
    found["lag"] = max([own.lag, *(report.lag for report in reports.values())])
    found["restart_safe"] = "; ".join(
        f"process {number}: {report.restart_safe}" for number, report in reports.items() if report.restart_safe
    )
    first = next(iter(reports.values()), own)
    return msgspec.structs.replace(own, settings=first.settings, grpc=first.grpc, **found)


def _once(*lists: Iterable[T]) -> list[T]:
    found: list[T] = []
    for each in (item for items in lists for item in items):
        if each not in found:
            found.append(each)
    return found


def _attention(reports: Mapping[int, HostReport]) -> list[Attention]:
    """Return what somebody should look at; what several processes tell in the same words is told once."""
    told: dict[tuple[str, str], list[Attention]] = {}
    for number, report in reports.items():
        for each in report.attention:
            told.setdefault((each.kind, each.text), []).append(msgspec.structs.replace(each, process=number))
    joined = []
    for same in told.values():
        since = min((each.since for each in same if each.since is not None), default=None)
        process = same[0].process if len(same) == 1 else None
        joined.append(msgspec.structs.replace(same[0], since=since, process=process))
    return joined
