"""Join what several processes tell of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from connectrio.telemetry.attention import orphans, restart_sentence
from connectrio.telemetry.report import (
    Attention,
    CallReport,
    FailureReport,
    HostReport,
    JobReport,
    PhaseChange,
    ProcessReport,
    Restart,
)
from connectrio.telemetry.search import sorted_by_trouble

__all__ = ["join", "shortened"]

T = TypeVar("T", bound=msgspec.Struct)
OfJob = TypeVar("OfJob", CallReport, FailureReport)

_LISTS = ("connectors", "jobs", "calls", "failures", "incidents", "threads", "connections")
_SUMS = ("threads_busy", "threads_limit", "dropped_lines")
# those that processes share: they are told once
_SHARED = ("load_failures", "certificates")
# phases that are told of a job
_MOST_PHASES = 20


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

    A job that several have seen is told once: one has created it and knows its task, others have polled it.

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
    seen: list[JobReport] = found["jobs"]
    jobs = found["jobs"] = sorted_by_trouble(_joined_jobs(seen))
    for name in ("calls", "failures"):
        found[name] = _named(found[name], jobs)
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
        if each.process not in reports and own.state in ("starting", "serving")
    ]
    told = [each for each in _attention(reports) if each.kind != "orphan"]
    attention = [*own.attention, *silent, *told, *orphans(jobs, own.now)]
    found["attention"] = sorted(attention, key=lambda each: each.severity)  # errors first
    found["lag"] = max([own.lag, *(report.lag for report in reports.values())])
    restart = Restart(
        grace=max((report.restart.grace for report in reports.values()), default=0.0),
        calls=sum(report.restart.calls for report in reports.values()),
        creates=sum(report.restart.creates for report in reports.values()),
        stuck_threads=sum(report.restart.stuck_threads for report in reports.values()),
        # of long lists, a process tells only the beginning
        jobs=sum(report.restart.jobs for report in reports.values()) - _going_on(seen) + _going_on(jobs),
    )
    found["restart"], found["restart_safe"] = restart, restart_sentence(restart) if reports else ""
    first = next(iter(reports.values()), own)
    return msgspec.structs.replace(own, settings=first.settings, grpc=first.grpc, **found)


def _going_on(jobs: Iterable[JobReport]) -> int:
    return sum(not job.is_final for job in jobs)


def _joined_jobs(seen: Iterable[JobReport]) -> list[JobReport]:
    same: dict[tuple[str, int, str], list[JobReport]] = {}
    for each in seen:
        same.setdefault((each.task_type, each.version, each.job), []).append(each)
    return [each[0] if len(each) == 1 else _joined_job(each) for each in same.values()]


def _joined_job(same: list[JobReport]) -> JobReport:
    """Return a job as several processes have seen it: its names from those that know them, its state from the one that
    was asked for it last."""
    same = sorted(same, key=_last_asked, reverse=True)
    last = same[0]
    answered = max(same, key=lambda each: each.polled or 0.0)
    named = next((each for each in same if each.task.execution), last)
    deleted = next((each.deleted for each in same if each.deleted is not None), None)
    phases: list[PhaseChange] = []
    for change in sorted((change for each in same for change in each.phases), key=lambda change: change.at):
        if not phases or phases[-1].phase != change.phase:
            phases.append(change)
    if len(phases) > _MOST_PHASES:  # the first ones say how it began
        phases = [*phases[: _MOST_PHASES - 1], phases[-1]]
    failing = [each.failing_since for each in same if (each.failing_since or 0.0) > (answered.polled or 0.0)]
    # what an orphan has for an error is none if another process was asked for the job since
    failed = next((each for each in same if each.error and (each.orphaned is None or each is last)), None)
    return msgspec.structs.replace(
        last,
        task=named.task,
        key=next((each.key for each in same if each.key), ""),
        origin=next((each.origin for each in same if each.origin), ""),
        phase=answered.phase,
        is_final=answered.is_final or deleted is not None,
        message=answered.message,
        links=answered.links,
        seen=min(each.seen for each in same),
        changed=phases[-1].at if phases else min(each.changed for each in same),
        polled=answered.polled,
        deleted=deleted,
        failing_since=None if last.failing_since is None else min((each for each in failing if each), default=None),
        polls=sum(each.polls for each in same),
        failed_polls=sum(each.failed_polls for each in same),
        absorbed=sum(each.absorbed for each in same),
        retries=sum(each.retries for each in same),
        error=failed.error if failed else "",
        place=failed.place if failed else "",
        phases=tuple(phases),
    )


def _last_asked(job: JobReport) -> float:
    return max(job.seen, job.polled or 0.0, job.failing_since or 0.0, job.deleted or 0.0)


def _named(items: Iterable[OfJob], jobs: Iterable[JobReport]) -> list[OfJob]:
    """Give calls and failures the task that their process was never told, if another one was."""
    tasks = {(job.task_type, job.job): job.task for job in jobs if job.task.execution}
    return [
        each
        if each.task.execution or (each.task_type, each.job) not in tasks
        else msgspec.structs.replace(each, task=tasks[each.task_type, each.job])
        for each in items
    ]


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
