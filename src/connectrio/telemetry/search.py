"""Find calls and jobs in what a host tells of itself, for /api and the terminal.

The status page has a search of its own, for words, and takes the order and the names of jobs from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from connectrio.telemetry.report import CallReport, FailureReport, HostReport, IncidentReport, JobReport

__all__ = ["JobDetails", "details", "is_named", "matches", "search", "sorted_by_trouble"]

T = TypeVar("T")


class JobDetails(msgspec.Struct, frozen=True, kw_only=True):
    """All that a host knows of one job, or of all jobs of an execution.

    :ivar jobs: the job, or those of the execution
    :ivar calls: the calls for it that are being answered
    :ivar failures: the calls for it that failed lately
    :ivar incidents: the incidents of its connector, the last one first
    """

    jobs: list[JobReport]
    calls: list[CallReport]
    failures: list[FailureReport]
    incidents: list[IncidentReport]


def matches(item: Any, query: str) -> bool:
    """Return whether `query` is a part of what names a job, a call, a failure, an incident or a thread.

    That is its execution, also written project-domain-execution, its node, its output prefix, and the key and the id of
    the job. Upper and lower case are the same. An empty query matches everything.
    """
    task = item.task
    names = (
        task.execution,
        task.node,
        "-".join(part for part in (task.project, task.domain, task.execution) if part),
        task.output_prefix,
        getattr(item, "key", ""),
        getattr(item, "job", ""),
    )
    wanted = query.strip().casefold()
    return any(wanted in name.casefold() for name in names)


def search(items: Iterable[T], *, q: str = "", task_type: str = "", phase: str = "", final: str = "") -> list[T]:
    """Return those of `items` that match, in their order; an empty argument asks for nothing.

    :param q: see `matches`
    :param task_type: exactly
    :param phase: of a job, in upper or lower case
    :param final: "true" for jobs that are over, "false" for the others
    :raises ValueError: `final` is something else
    """
    if final not in ("", "true", "false"):
        raise ValueError(f"final must be true or false, got {final!r}")
    found: list[Any] = list(items)
    if q.strip():
        found = [each for each in found if matches(each, q)]
    if task_type:
        found = [each for each in found if each.task_type == task_type]
    if phase:
        found = [each for each in found if each.phase.casefold() == phase.casefold()]
    if final:
        found = [each for each in found if each.is_final == (final == "true")]
    return found


def sorted_by_trouble(jobs: Iterable[JobReport]) -> list[JobReport]:
    """Return jobs in the order in which somebody should look at them: by trouble; then those that go on, the oldest
    first; then those that ended, the newest first."""
    jobs = list(jobs)
    # C compares single attributes quickly
    going_on = sorted((job for job in jobs if not job.is_final), key=attrgetter("seen"))
    ended = sorted((job for job in jobs if job.is_final), key=attrgetter("changed"), reverse=True)
    return sorted(going_on + ended, key=attrgetter("trouble"), reverse=True)


def details(report: HostReport, name: str) -> JobDetails | None:
    """Return all that is known of a job, or of all jobs of an execution; None if there is nothing.

    :param name: the id or the key of a job, or the name of an execution, also project-domain-execution
    """
    jobs = [job for job in report.jobs if is_named(job, name)]
    ids = {job.job for job in jobs} - {""}
    keys = {job.key for job in jobs} - {""}

    def belongs(item: CallReport | FailureReport) -> bool:
        return item.job in ids or item.key in keys or is_named(item, name)

    calls = [call for call in report.calls if belongs(call)]
    failures = [failure for failure in report.failures if belongs(failure)]
    if not (jobs or calls or failures):
        return None
    affected: list[JobReport | CallReport | FailureReport] = [*jobs, *calls, *failures]
    task_types = {each.task_type for each in affected}
    incidents = [each for each in report.incidents if each.task_type in task_types]
    return JobDetails(
        jobs=sorted_by_trouble(jobs),
        calls=calls,
        failures=failures,
        incidents=sorted(incidents, key=lambda each: -each.began),
    )


def is_named(item: JobReport | CallReport | FailureReport, name: str) -> bool:
    """Return whether `name` is the id or the key of the job, or the name of the execution."""
    task = item.task
    full = f"{task.project}-{task.domain}-{task.execution}" if task.execution else ""
    return bool(name) and name in (item.job, item.key, task.execution, full)
