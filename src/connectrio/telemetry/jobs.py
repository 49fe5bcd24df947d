"""What a host knows of the jobs that it was asked for lately."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from connectrio.diagnostics import shorten
from connectrio.telemetry.report import JobReport, PhaseChange, TaskName

__all__ = ["NOBODY", "JobName", "JobRecord", "Jobs", "job_id", "phase_name"]

JobName = tuple[str, int, bytes]
"""What a job is known by: its task type, the version of it, and the SHA-256 of its `resource_meta`."""

NOBODY = TaskName()
"""A task of which nothing is known."""

_MOST_JOBS = 10_000
# phases that are kept of a job
_MOST_PHASES = 20
# characters of a message and of an error that are kept of each job
_LONGEST_MESSAGE = 500
# log links that are kept of each job, and the characters in them
_MOST_LINKS = 20
_MOST_CHARACTERS = 4096
# seconds without a poll after which nobody seems to wait for a job; the executor polls twice a minute
_FORGOTTEN = 300.0
# the phases of jobs that have failed
_FAILED = ("FAILED", "RETRYABLE_FAILED")
_ORPHANED = (
    "created for a client that had gone, and nobody has asked for it since; unless a retry takes it, delete it in the"
    " other system"
)
# digits of the hash that people see
_SHOWN_DIGITS = 12


@dataclass(slots=True, eq=False)
class JobRecord:
    """One job. Times are those of the account's clock.

    :ivar phase: the last one that was seen, an enum; None before the first poll
    :ivar links: of the last poll
    :ivar seen: when this host heard of the job first
    :ivar polled: when the state was reported that a client got last
    :ivar asked: when a client's poll was answered with what was known, because a limit allowed no other answer
    :ivar failing_since: since when polls fail; None if the last one did not
    :ivar orphaned: when it was created for a client that had gone; None if not, or if somebody has asked for it since
    :ivar was_absorbed: whether the error of the last poll that failed was kept from the client
    """

    name: JobName
    connector: str
    task: TaskName
    seen: float
    key: str = ""
    origin: str = ""
    phase: Any = None
    is_final: bool = False
    message: str = ""
    links: list[Any] = field(default_factory=list)
    changed: float = 0.0
    polled: float | None = None
    asked: float = -math.inf
    deleted: float | None = None
    failing_since: float | None = None
    orphaned: float | None = None
    polls: int = 0
    failed_polls: int = 0
    retries: int = 0
    absorbed: int = 0
    was_absorbed: bool = False
    error: str = ""
    place: str = ""
    cause: str = ""
    phases: list[tuple[Any, float]] = field(default_factory=list)

    def succeeded(self, now: float, phase: Any, message: str, links: list[Any], *, is_final: bool) -> None:
        """Note the answer to a poll."""
        self.polls += 1
        self.polled, self.failing_since, self.orphaned = now, None, None
        self.message = message if len(message) <= _LONGEST_MESSAGE else shorten(message, _LONGEST_MESSAGE)
        self.links = _kept(links) if links else links
        if phase != self.phase:
            self.phase, self.changed, self.is_final = phase, now, is_final
            if len(self.phases) == _MOST_PHASES:  # the first ones say how it began
                del self.phases[-1]
            self.phases.append((phase, now))

    def failed(self, now: float, error: str, place: str, cause: str, *, absorbed: bool) -> None:
        """Note a poll that failed."""
        self.polls += 1
        self.failed_polls += 1
        self.absorbed += absorbed
        self.orphaned = None
        self.was_absorbed = absorbed
        self.note_error(error, place, cause)
        if self.failing_since is None:
            self.failing_since = now

    def note_error(self, error: str, place: str, cause: str) -> None:
        """Keep the error of a call about this job.

        :param cause: see `FailureReport.kind`
        """
        self.error, self.place, self.cause = shorten(error, _LONGEST_MESSAGE), place, cause

    @property
    def counted_as(self) -> tuple[str, str]:
        """The task type and the phase by which jobs are counted."""
        return self.name[0], "DELETED" if self.deleted is not None else phase_name(self.phase)

    def report(self, now: float, wall: float, absorb: float = 0.0) -> JobReport:
        """Return what is known.

        :param now: the time of the account's clock
        :param wall: the same moment, in seconds since 1970
        :param absorb: seconds for which errors of polls are absorbed
        """
        offset = wall - now

        def at(moment: float | None) -> float | None:
            return None if moment is None else round(moment + offset, 3)

        task_type, version, _ = self.name
        is_absorbed = self.was_absorbed and self.failing_since is not None
        return JobReport(
            job=job_id(self.name),
            task_type=task_type,
            version=version,
            connector=self.connector,
            task=self.task,
            key=self.key,
            origin=self.origin,
            phase="" if self.phase is None else phase_name(self.phase),
            is_final=self.is_final or self.deleted is not None,
            message=self.message,
            seen=round(self.seen + offset, 3),
            changed=round((self.changed or self.seen) + offset, 3),
            polled=at(self.polled),
            deleted=at(self.deleted),
            failing_since=at(self.failing_since),
            answered_until=at((self.failing_since or 0.0) + absorb) if is_absorbed else None,
            polls=self.polls,
            failed_polls=self.failed_polls,
            retries=self.retries,
            absorbed=self.absorbed,
            orphaned=at(self.orphaned),
            error=self.error or (_ORPHANED if self.orphaned is not None else ""),
            place=self.place,
            cause=self.cause,
            phases=tuple(
                [PhaseChange(phase=phase_name(phase), at=round(moment + offset, 3)) for phase, moment in self.phases]
            ),
            links=tuple([(link.name, link.uri) for link in self.links]),
            trouble=self._trouble(now),
        )

    def _trouble(self, now: float) -> int:
        """Return 4 if polls have failed for minutes, 3 if they fail, 2 if it has failed or is an orphan, 1 if nobody
        polls it."""
        if self.is_final or self.deleted is not None:
            return 2 if phase_name(self.phase) in _FAILED and self.deleted is None else 0
        if self.failing_since is not None:
            return 4 if now - self.failing_since >= _FORGOTTEN else 3
        if self.orphaned is not None:
            return 2
        return 1 if now - max(self.asked, self.polled or self.seen) >= _FORGOTTEN else 0


class Jobs(Collector):
    """The jobs that were used last, at most `_MOST_JOBS`; those that nobody asks for any more are forgotten first.

    :param clock: returns seconds, from any start
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: OrderedDict[JobName, JobRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[JobRecord]:
        return iter(list(self._records.values()))

    def find(self, name: JobName) -> JobRecord | None:
        """Return the record of a job, which counts as used; None if there is none."""
        record = self._records.get(name)
        if record is not None:
            self._records.move_to_end(name)
        return record

    def obtain(self, name: JobName, connector: str, task: TaskName = NOBODY) -> JobRecord:
        """Return the record of a job, a new one if there is none; it counts as used."""
        record = self._records.get(name)
        if record is not None:
            self._records.move_to_end(name)
            return record
        record = self._records[name] = JobRecord(name, connector, task, self._clock())
        if len(self._records) > _MOST_JOBS:
            self._records.popitem(last=False)
        return record

    def collect(self) -> Iterator[Metric]:
        """Yield how many jobs there are in each phase, as last seen, for `CollectorRegistry`."""
        family = GaugeMetricFamily(
            "connectrio_jobs", "Jobs that this host was asked for lately, by phase", labels=["task_type", "phase"]
        )
        for (task_type, phase), count in self.by_phase().items():
            family.add_metric([task_type, phase], count)
        yield family
        family = GaugeMetricFamily(
            "connectrio_orphaned_jobs",
            "Jobs that were created for clients that had gone, and that nobody has asked for since",
            labels=["task_type"],
        )
        orphans = Counter(record.name[0] for record in self if record.orphaned is not None)
        for task_type in {record.name[0]: None for record in self}:
            family.add_metric([task_type], orphans[task_type])
        yield family

    def by_phase(self) -> Counter[tuple[str, str]]:
        """Return how many jobs there are of each task type in each phase."""
        return Counter(record.counted_as for record in self)


def job_id(name: JobName) -> str:
    """Return what people and links call a job: the beginning of the hash of its `resource_meta`."""
    return name[2].hex()[:_SHOWN_DIGITS]


def phase_name(phase: Any) -> str:
    """Return the name of a phase; "UNKNOWN" before the first poll."""
    return "UNKNOWN" if phase is None else str(phase.name)


def _kept(links: list[Any]) -> list[Any]:
    """Return the first links: at most `_MOST_LINKS`, with at most `_MOST_CHARACTERS` in their names and addresses."""
    kept = links[:_MOST_LINKS]
    while kept and sum(len(link.name) + len(link.uri) for link in kept) > _MOST_CHARACTERS:
        kept.pop()
    return kept
