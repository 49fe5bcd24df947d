"""What is simulated, and what is counted; the same for both simulations."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from connectrio.service.settings import ServiceSettings
from scale.propeller import Executor


class Design(StrEnum):
    """How a connector polls.

    :cvar GET: one request for each poll; no policy
    :cvar LIMITED: one request for each job, with `rate_calls`
    :cvar MANY: `get_many`, one request for up to a hundred jobs
    """

    GET = "get"
    LIMITED = "get, limited"
    MANY = "get_many"


@dataclass(frozen=True)
class Case:
    """One simulation. Times are in seconds.

    :ivar jobs: how many run at once; for each that has ended, as the executor knows, another begins
    :ivar sticky: each executor has all its calls answered by one replica; otherwise replicas take turns
    :ivar rate: `rate_calls` of each replica, in each second; 0 is no limit
    :ivar latency: of each request to the vendor
    :ivar network: of a call, there and back
    :ivar cpu: of the host's processor for each call
    :ivar cpu_many: of the host's processor for each job of a `get_many`
    :ivar duration: of a job, on average
    :ivar slots: `max_calls_per_connector` of each replica: calls in the connector at once
    :ivar waiting: `max_waiting_calls`; a poll beyond it is answered with the last known phase
    :ivar allowed: requests that the vendor answers in each second; it refuses further ones with 429. 0 is no limit.
        Only the simulation with the service's code knows of this and of the next two
    :ivar retry_after: seconds after which the vendor asks to come again, when it refuses; 0 if it does not say
    :ivar shielded: whether the host retries and absorbs failed polls, as it does by default
    :ivar parts: how many systems like this there are. They share nothing, so one is simulated
    :ivar warm: before anything is counted
    :ivar seconds: in which things are counted; ends of jobs in the first half, so that most of them are seen
    """

    jobs: int
    design: Design = Design.GET
    replicas: int = 1
    sticky: bool = False
    rate: int = 0
    executor: Executor = field(default_factory=Executor)
    latency: float = 0.2
    network: float = 0.001
    cpu: float = 0.0
    cpu_many: float = 0.0
    duration: float = 600.0
    slots: int = ServiceSettings.max_calls_per_connector
    waiting: int = ServiceSettings.max_waiting_calls
    allowed: int = 0
    retry_after: float = 0.0
    shielded: bool = True
    parts: int = 1
    warm: float = 120.0
    seconds: float = 180.0

    @property
    def until(self) -> float:
        """When it ends."""
        return self.warm + self.seconds

    def first_end(self, job: int) -> tuple[float, float]:
        """Return when one of the first jobs is created, and when it ends."""
        created = self.executor.resync * job / self.jobs
        return created, created + self.duration * _fraction(job)

    def later_end(self, job: int, now: float) -> float:
        """Return when a job ends that is created now, after a half of `duration` to one and a half."""
        return now + self.duration * (0.5 + _fraction(job))

    def replica_of(self, shard: int, job: int, number: int) -> int:
        """Return which replica answers a poll.

        Where replicas take turns, it is any of them: an executor's other calls come between the polls of a job.

        :param number: how many polls the executor has made before
        """
        if self.sticky or self.replicas == 1:
            return shard % self.replicas
        return int(self.replicas * _fraction(job + 7919 * number))

    def as_dict(self) -> dict[str, Any]:
        """Return the case as JSON has it."""
        return asdict(self)


class Tally:
    """What is counted in a simulation, from `warm` on."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.polls = 0
        self.gets = 0
        self.many = 0
        self._late: list[float] = []
        self._by_second: dict[int, int] = {}
        self._halfway: int | None = None

    def polled(self, now: float) -> None:
        """Count a poll of the executor."""
        self.polls += self._counts(now)

    def requested(self, now: float, *, many: bool) -> None:
        """Count a request to the vendor."""
        if self._counts(now):
            self.many += many
            self.gets += not many
            self._by_second[int(now)] = self._by_second.get(int(now), 0) + 1

    def ended(self, end: float, now: float) -> None:
        """Count a job of whose end the executor knows now."""
        if self._counts(end) and end <= self._last_end:
            self._late.append(now - end)

    def halfway(self, queued: int) -> None:
        """Note how many entries the executors' queues have in the middle."""
        self._halfway = queued

    def _counts(self, now: float) -> bool:
        return self._case.warm <= now < self._case.until

    @property
    def _last_end(self) -> float:
        return self._case.until - self._case.seconds / 2

    def result(self, *, queued: int, unseen: list[float], known: int) -> dict[str, Any]:
        """Return the figures.

        :param queued: entries of the executors' queues at the end
        :param unseen: ends of jobs of which the executor does not know at the end
        :param known: the most jobs that one replica knew
        """
        case = self._case
        each = case.parts / case.seconds
        late = sorted([*self._late, *(math.inf for end in unseen if self._counts(end) and end <= self._last_end)])
        grown = queued - (self._halfway or 0)
        return {
            "polls_per_s": round(self.polls * each, 2),
            "seconds_between_polls": round(case.jobs * case.seconds / self.polls, 1) if self.polls else None,
            "vendor_requests_per_s": round((self.gets + self.many) * each, 2),
            "vendor_gets_per_s": round(self.gets * each, 2),
            "vendor_get_manys_per_s": round(self.many * each, 2),
            "vendor_peak_per_s": max(self._by_second.values(), default=0) * case.parts,
            "ends": len(late),
            "stale_p50": _quantile(late, 0.5),
            "stale_p99": _quantile(late, 0.99),
            "known_jobs": known,
            "queued": queued,
            "diverges": queued > case.jobs and grown > case.jobs / 100,
        }


def _fraction(number: int) -> float:
    """Return a number from 0 to 1; those of many numbers are spread evenly, and each time the same."""
    return (number * 0.6180339887498949) % 1.0


def _quantile(values: list[float], part: float) -> float | None:
    """Return a quantile of sorted values; None if it is not known."""
    value = values[math.ceil(part * len(values)) - 1] if values else math.inf
    return round(value, 2) if math.isfinite(value) else None
