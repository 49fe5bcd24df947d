"""Times in which the system behind a connector fails: one line when that begins, one when it is over, with counts.

1. An incident begins with a failure of the other system, of one kind, in one operation of one task type.
2. Further ones of the same kind are counted. One of them is logged each minute.
3. It is over when each job whose poll failed was polled successfully since, or another call of the kind was answered,
   and ten seconds have passed; or when nothing has failed for two minutes: nobody asks any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from connectrio.logs import get_logger
from connectrio.telemetry.jobs import NOBODY, JobName
from connectrio.telemetry.report import IncidentReport, TaskName

__all__ = ["Incident", "Incidents", "VendorFailure"]

logger = get_logger("connectrio.service")

# seconds without a failure
_SETTLED = 10.0
_QUIET = 120.0
# failures that make an incident; one that was absorbed is enough, because no other line tells of it
_WORTH_A_LINE = 3
# seconds between two lines of one incident
_LINE_INTERVAL = 60.0
# incidents that are over, and are kept to be shown; and open ones, of which there is a handful at the most
_MOST_ENDED = 50
_MOST_OPEN = 200
# jobs that are told apart in one incident
_MOST_AFFECTED = 10_000

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class VendorFailure:
    """A call that failed because of the other system.

    :ivar kind: of the failure, a word of `connectrio.connector.failures`
    :ivar error: its text, without secrets
    :ivar place: the line of the connector's code that raised it
    :ivar job: whose poll failed; None for other operations
    :ivar absorbed: whether the client got the last known phase
    :ivar fields: further ones for the log line
    """

    task_type: str
    operation: str
    kind: str
    error: str
    place: str
    task: TaskName = NOBODY
    job: JobName | None = None
    absorbed: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Incident:
    """One incident. Times are those of the account's clock.

    :ivar affected: the jobs whose last poll failed
    """

    task_type: str
    operation: str
    kind: str
    began: float
    id: str = field(default_factory=lambda: f"i{next(_numbers)}")
    last: float = 0.0
    ended: float | None = None
    failures: int = 0
    absorbed: int = 0
    jobs: int = 0
    error: str = ""
    place: str = ""
    task: TaskName = NOBODY
    affected: set[JobName] = field(default_factory=set)
    is_answered: bool = False
    logged: float | None = None

    def report(self, offset: float) -> IncidentReport:
        """Return what is known.

        :param offset: what makes seconds since 1970 of the account's clock
        """
        return IncidentReport(
            id=self.id,
            task_type=self.task_type,
            operation=self.operation,
            kind=self.kind,
            began=self.began + offset,
            last=self.last + offset,
            ended=None if self.ended is None else self.ended + offset,
            failures=self.failures,
            absorbed=self.absorbed,
            jobs=self.jobs,
            error=self.error,
            place=self.place,
            task=self.task,
        )


class Incidents:
    """The incidents that go on, and the last ones that are over.

    :param clock: returns seconds, from any start
    :ivar open: those that go on, by task type, operation and kind
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.open: dict[tuple[str, str, str], Incident] = {}
        self._ended: deque[Incident] = deque(maxlen=_MOST_ENDED)

    def __iter__(self) -> Iterator[Incident]:
        """Yield those that were logged: the ones that go on first, and the latest of each first."""
        yield from (incident for incident in reversed(self.open.values()) if incident.logged is not None)
        yield from reversed(self._ended)

    def failed(self, failure: VendorFailure) -> None:
        """Count a failure, and log it if an incident begins with it, or once a minute."""
        now = self._clock()
        self.settle()
        key = failure.task_type, failure.operation, failure.kind
        incident = self.open.get(key)
        if incident is None:
            if len(self.open) >= _MOST_OPEN:
                return
            incident = self.open[key] = Incident(*key, began=now)
        incident.failures += 1
        incident.absorbed += failure.absorbed
        incident.last, incident.is_answered = now, False
        incident.error, incident.place, incident.task = failure.error, failure.place, failure.task
        if failure.job is not None and failure.job not in incident.affected and len(incident.affected) < _MOST_AFFECTED:
            incident.affected.add(failure.job)
            incident.jobs += 1
        if incident.logged is None:
            if failure.absorbed or incident.failures >= _WORTH_A_LINE:
                self._log("an incident began: the other system fails", incident, failure, now)
        elif now - incident.logged >= _LINE_INTERVAL:
            self._log("an incident goes on", incident, failure, now)

    def _log(self, event: str, incident: Incident, failure: VendorFailure, now: float) -> None:
        incident.logged = now
        fields = {**failure.fields, "place": failure.place, "absorbed": failure.absorbed, **_counts(incident, now)}
        logger.warning(event, incident=incident.id, kind=incident.kind, error=failure.error, **fields)

    def succeeded(self, task_type: str, operation: str, job: JobName | None) -> None:
        """Note that a call was answered: the other system works for this job. Costs nothing if nothing is open."""
        for incident in self.open.values():
            if incident.task_type == task_type and incident.operation == operation:
                incident.is_answered = True
                if job is not None:
                    incident.affected.discard(job)

    def settle(self) -> None:
        """End the incidents that are over. The host calls it every few seconds."""
        now = self._clock()
        for key, incident in list(self.open.items()):
            silence = now - incident.last
            if silence >= _QUIET or (silence >= _SETTLED and incident.is_answered and not incident.affected):
                incident.ended = incident.last
                del self.open[key]
                if incident.logged is None:  # a failure or two, each of which has a line
                    continue
                self._ended.append(incident)
                # not in the context of the call that found it over: the line would have the fields of that call
                Context().run(_log_end, incident)


def _log_end(incident: Incident) -> None:
    logger.warning(
        "an incident is over",
        incident=incident.id,
        task_type=incident.task_type,
        operation=incident.operation,
        kind=incident.kind,
        answered=incident.is_answered,
        **_counts(incident, incident.last),
    )


def _counts(incident: Incident, until: float) -> dict[str, Any]:
    return {
        "failures": incident.failures,
        "absorbed_polls": incident.absorbed,
        "jobs": incident.jobs,
        "seconds": round(until - incident.began, 1),
    }
