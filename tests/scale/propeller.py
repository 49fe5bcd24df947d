"""A model of how Flyte's executor decides which job it polls next, and when.

1. Every `resync` seconds it queues each job that has not ended and is not queued already. A new job is queued at once.
2. Its rate limiter says when a queued job may be taken: `burst` at once, then `qps` a second. It has no upper limit:
   the time can be far in the future.
3. `workers` take the jobs in this order. Each polls one, and waits for the answer.
4. A job that was queued more than five `resync` ago counts as lost, and is queued again. The first entry stays.

Nothing here waits: the simulations say what time it is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

# the least delay of an entry, in seconds
_LEAST = 0.005
# after so many intervals an entry counts as lost
_LOST = 5
# by how much an interval is longer than `resync`: its timer starts anew when the jobs have been queued
DRIFT = 0.001


@dataclass(frozen=True)
class Executor:
    """The settings below `plugins.connector-service.webApi`, with Flyte's defaults.

    :ivar qps: `readRateLimiter.qps`
    :ivar burst: `readRateLimiter.burst`
    :ivar workers: `caching.workers`
    :ivar resync: `caching.resyncInterval`, in seconds
    :ivar shards: how many executors there are; each has its part of the jobs, and all of the above
    """

    qps: float = 10.0
    burst: int = 100
    workers: int = 10
    resync: float = 30.0
    shards: int = 1


# the largest values that Flyte 1.16.8 and 2.0.43 take: `internal/webapi/core.go` of its plugins
LARGEST_QPS, LARGEST_BURST, MOST_WORKERS, LARGEST_CACHE = 100_000, 10_000, 10_000, 500_000

# how many polls of a task may fail in its whole life (`caching.maxSystemFailures`)
MOST_FAILURES = 5


class PollQueue:
    """The jobs of one executor, by number, and when each is polled."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._tokens = float(executor.burst)
        self._filled = 0.0
        # when each live job was queued; None if it is not
        self._live: dict[int, float | None] = {}
        self._queue: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def live(self) -> int:
        """How many jobs have not ended, as far as the executor knows."""
        return len(self._live)

    def add(self, job: int, now: float) -> None:
        """Queue a job."""
        executor = self._executor
        self._tokens = min(executor.burst, self._tokens + (now - self._filled) * executor.qps) - 1
        self._filled = now
        self._queue.append((now + max(_LEAST, -self._tokens / executor.qps), job))
        self._live[job] = now

    def resync(self, now: float) -> None:
        """Queue the jobs that are to be polled again."""
        oldest = now - _LOST * self._executor.resync
        for job in [job for job, queued in self._live.items() if queued is None or queued < oldest]:
            self.add(job, now)

    def next_time(self) -> float | None:
        """Return when the next job may be taken; None if none is queued."""
        return self._queue[0][0] if self._queue else None

    def take(self, now: float) -> int | None:
        """Take the next job; None if none may be taken now."""
        while self._queue and self._queue[0][0] <= now:
            _, job = self._queue.popleft()
            if job in self._live:
                self._live[job] = None
                return job
        return None

    def end(self, job: int) -> bool:
        """Forget a job that was seen to have ended; return whether that is new."""
        return self._live.pop(job, _MISSING) is not _MISSING


_MISSING = object()
