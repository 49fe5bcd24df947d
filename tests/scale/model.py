"""The cheap simulation: what a replica does for a poll, without its code, so that a million jobs fit.

`test_agreement.py` compares it with the simulation that runs the service's code. The limits of a vendor's account are
the service's own class, `VendorLimits`, and so are the numbers of `known_jobs`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from connectrio import ConnectorPolicy
from connectrio.service import known_jobs
from connectrio.service.vendor_limits import VendorLimits
from scale.cases import Case, Design, Tally
from scale.propeller import DRIFT, PollQueue

Event = Callable[[float], None]


class _Clock:
    """What happens when, in virtual time."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()

    def at(self, time: float, event: Event) -> None:
        """Let `event` happen at this time."""
        heapq.heappush(self._events, (time, next(self._numbers), event))

    def run(self, until: float) -> None:
        """Let happen what happens before `until`."""
        events = self._events
        while events and events[0][0] < until:
            time, _, event = heapq.heappop(events)
            event(time)


class _Job:
    """A job that a replica knows. The fields are those of `KnownJob`."""

    __slots__ = ("asked", "due", "has_state", "is_final", "is_known", "is_new", "number", "tried")

    def __init__(self, number: int, now: float) -> None:
        self.number, self.asked, self.tried = number, now, now
        self.due: float | None = None
        self.has_state = self.is_final = self.is_new = False
        self.is_known = True


class _Replica:
    """One host with one connector, and one account at the vendor."""

    def __init__(self, case: Case, clock: _Clock, ends: list[float], counts: Tally) -> None:
        self._case, self._clock, self._ends, self._counts = case, clock, ends, counts
        policy = ConnectorPolicy(rate_calls=case.rate)
        self._has_many = case.design is Design.MANY
        self._limits = VendorLimits(policy)
        self._max_age, self._most = policy.poll_max_age, policy.many_limit if self._has_many else 1
        self._jobs: dict[int, _Job] = {}
        self._queue: list[tuple[float, int, _Job]] = []
        self._numbers = itertools.count()
        self._busy_until = 0.0
        self._calls = 0
        # when each slot is free again, and when the calls begin that wait for one
        self._slots: list[float] = []
        self._waiting: deque[float] = deque()
        self._next_look = math.inf
        self.most_known = 0

    def poll(self, number: int, now: float, answered: Callable[[int, bool, float], None]) -> None:
        """Answer a poll, as soon as the processor is free: then with what the replica knows by then.

        :param answered: called when the answer is there, with whether it says that the job has ended
        """
        arrived = max(now + self._case.network / 2, self._busy_until)
        self._busy_until = arrived + self._case.cpu
        if arrived > now + self._case.network:
            self._clock.at(arrived, partial(self._answer, number, answered))
        else:
            self._answer(number, answered, arrived)

    def _answer(self, number: int, answered: Callable[[int, bool, float], None], now: float) -> None:
        time, is_final = self._state(number, now)
        self._clock.at(time, partial(answered, number, is_final))

    def _state(self, number: int, arrived: float) -> tuple[float, bool]:
        """Return when the answer to a poll is there, and whether it says that the job has ended."""
        case = self._case
        begun = self._begin(arrived)
        if begun is None:
            return arrived + case.cpu + case.network / 2, False
        quick = begun + case.cpu + case.network / 2
        arrived = begun
        if case.design is Design.GET:
            self._take_slot(arrived)
            self._counts.requested(arrived, many=False)
            return quick + case.latency, self._ends[number] <= arrived + case.latency
        job = self._asked(number, arrived)
        if job.is_final:
            job.is_new = False
            return quick, True
        if self._has_many and job.has_state and arrived - job.tried <= self._max_age:
            return quick, False
        self._discard()
        is_due = bool(self._queue) and self._queue[0][0] <= arrived
        if is_due or self._limits.wait(arrived) > 0:
            if job.due is None and job.is_known:
                self._schedule(job, job.tried, arrived)
            return quick, False
        self._limits.begin(arrived)
        self._take_slot(arrived)
        self._counts.requested(arrived, many=False)
        answered = arrived + case.latency
        job.tried, job.has_state, job.is_final, job.due = answered, True, self._ends[number] <= answered, None
        if self._has_many and job.is_known and not job.is_final:
            self._schedule(job, answered + self._max_age / 2, arrived)
        return quick + case.latency, job.is_final

    def _begin(self, now: float) -> float | None:
        """Return when a call that arrives now has a slot; None if the queue for one is full."""
        waiting = self._waiting
        while waiting and waiting[0] <= now:
            waiting.popleft()
        if len(self._slots) < self._case.slots or self._slots[0] <= now:
            return now
        if len(waiting) >= self._case.waiting:
            return None
        waiting.append(self._slots[0])
        return self._slots[0]

    def _take_slot(self, now: float) -> None:
        """Hold a slot for a request that begins now."""
        until = now + self._case.latency
        if len(self._slots) < self._case.slots:
            heapq.heappush(self._slots, until)
        else:
            heapq.heapreplace(self._slots, until)

    def _asked(self, number: int, now: float) -> _Job:
        jobs = self._jobs
        job = jobs.pop(number, None) or _Job(number, now)
        job.asked = now
        if len(jobs) >= known_jobs._MOST_JOBS:
            oldest = next(iter(jobs.values()))
            if not (oldest.is_final and not oldest.is_new) and oldest.asked > now - known_jobs._FORGOTTEN:
                job.is_known = False
                return job
            self._drop(oldest.number)
        jobs[number] = job
        self.most_known = max(self.most_known, len(jobs))
        return job

    def _drop(self, number: int) -> None:
        self._jobs.pop(number).is_known = False

    def _schedule(self, job: _Job, due: float, now: float) -> None:
        job.due = due
        heapq.heappush(self._queue, (due, next(self._numbers), job))
        self._look_at(max(due, now))

    def _discard(self) -> None:
        queue = self._queue
        while queue and (queue[0][2].due != queue[0][0] or not queue[0][2].is_known):
            heapq.heappop(queue)

    def _look_at(self, time: float) -> None:
        if time < self._next_look:
            self._next_look = time
            self._clock.at(time, self._look)

    def _look(self, now: float) -> None:
        """Poll in the background what is due."""
        if now < self._next_look:
            return
        self._next_look = math.inf
        while self._calls < known_jobs._MOST_CALLS:
            self._discard()
            if not self._queue or self._queue[0][0] > now:
                break
            if (begun := self._begin(now)) is None or begun > now:
                self._look_at(now + known_jobs._PAUSE if begun is None else begun)
                return
            seconds = self._limits.wait(now, evenly=True)
            if seconds > 0:
                self._look_at(now + seconds + 1e-9)
                return
            self._limits.begin(now)
            self._calls += 1
            self._take_slot(now)
            batch = self._next_jobs(now)
            self._counts.requested(now, many=self._has_many)
            self._busy_until = max(now, self._busy_until) + self._case.cpu_many * len(batch)
            self._clock.at(now + self._case.latency, partial(self._found, batch))
        if self._queue and self._calls < known_jobs._MOST_CALLS:
            self._look_at(max(self._queue[0][0], now + 1e-9))

    def _next_jobs(self, now: float) -> list[_Job]:
        batch: list[_Job] = []
        until = now + self._max_age / 4
        while len(batch) < self._most:
            self._discard()
            if not self._queue or (batch and self._queue[0][0] > until):
                break
            job = heapq.heappop(self._queue)[2]
            job.due = math.inf
            batch.append(job)
        return batch

    def _found(self, batch: list[_Job], now: float) -> None:
        self._calls -= 1
        for job in batch:
            if job.is_known:
                job.tried, job.has_state, job.is_final, job.due = now, True, self._ends[job.number] <= now, None
                job.is_new = True
                if self._has_many and not job.is_final:
                    self._schedule(job, now + self._max_age / 2, now)
        self._look_at(now)

    def forget(self, now: float) -> None:
        """Forget the jobs that no client has asked for lately."""
        while self._jobs and next(iter(self._jobs.values())).asked <= now - known_jobs._FORGOTTEN:
            self._drop(next(iter(self._jobs)))


class _Shard:
    """One executor with its workers."""

    def __init__(self, number: int, model: Model) -> None:
        self._number, self._model = number, model
        self.queue = PollQueue(model.case.executor)
        self._idle = model.case.executor.workers
        self._polls = 0
        self._wakes = math.inf

    def resync(self, now: float) -> None:
        """Queue what is to be polled again, and so on."""
        self.queue.resync(now)
        self._model.clock.at(now + self._model.case.executor.resync + DRIFT, self.resync)
        self.start(now)

    def create(self, job: int, now: float) -> None:
        """Begin to poll a job."""
        self.queue.add(job, now)
        self.start(now)

    def start(self, now: float) -> None:
        """Let idle workers take what they may."""
        model = self._model
        while self._idle:
            job = self.queue.take(now)
            if job is None:
                if (time := self.queue.next_time()) is not None and time < self._wakes:
                    self._wakes = time
                    model.clock.at(time, self._wake)
                return
            self._idle -= 1
            replica = model.replicas[model.case.replica_of(self._number, job, self._polls)]
            self._polls += 1
            model.counts.polled(now)
            replica.poll(job, now, self._answered)

    def _wake(self, now: float) -> None:
        self._wakes = math.inf
        self.start(now)

    def _answered(self, job: int, is_final: bool, now: float) -> None:
        self._idle += 1
        if is_final and self.queue.end(job):
            self._model.ended(job, now)
            self.queue.add(self._model.new_job(now), now)
        self.start(now)


class Model:
    """All executors and replicas of a case."""

    def __init__(self, case: Case) -> None:
        self.case, self.clock, self.counts = case, _Clock(), Tally(case)
        self.ends: list[float] = []
        self._unseen: set[int] = set()
        self.replicas = [_Replica(case, self.clock, self.ends, self.counts) for _ in range(case.replicas)]
        self._shards = [_Shard(number, self) for number in range(case.executor.shards)]

    def new_job(self, now: float) -> int:
        """Create a job in the place of one that has ended."""
        self._unseen.add(len(self.ends))
        self.ends.append(self.case.later_end(len(self.ends), now))
        return len(self.ends) - 1

    def ended(self, job: int, now: float) -> None:
        """Note that the executor knows of a job's end."""
        self._unseen.discard(job)
        self.counts.ended(self.ends[job], now)

    def run(self) -> dict[str, Any]:
        """Simulate; return the figures."""
        case, shards = self.case, self._shards
        for number in range(case.jobs):
            created, end = case.first_end(number)
            self._unseen.add(number)
            self.ends.append(end)
            self.clock.at(created, partial(shards[number % len(shards)].create, number))
        for number, shard in enumerate(shards):
            self.clock.at(case.executor.resync * (1 + number / len(shards)), shard.resync)
        self.clock.at(0.0, self._tidy)
        self.clock.at(case.warm + case.seconds / 2, lambda _: self.counts.halfway(self._queued))
        self.clock.run(case.until)
        unseen = [self.ends[job] for job in self._unseen]
        known = max(replica.most_known for replica in self.replicas)
        return self.counts.result(queued=self._queued, unseen=unseen, known=known)

    @property
    def _queued(self) -> int:
        return sum(len(shard.queue) for shard in self._shards)

    def _tidy(self, now: float) -> None:
        for replica in self.replicas:
            replica.forget(now)
        self.clock.at(now + 1.0, self._tidy)


def simulate(case: Case) -> dict[str, Any]:
    """Simulate a case; return its figures."""
    return Model(case).run()
