"""The simulation with the service's own code: hosts without a network, in virtual time.

The executors call `AsyncConnectorService.get_task` as a gRPC server would. The vendor's system is an `anyio.sleep`.
"""

from __future__ import annotations

import math
import time
from typing import Any

import anyio
from anyio.abc import TaskGroup
from grpclib import GRPCError

from connectrio import ConnectorPolicy, Phase, Resource, TransientError
from rpc.kit.virtual_time import JumpingEventLoop
from scale.cases import Case, Design, Tally
from scale.propeller import DRIFT, MOST_FAILURES, PollQueue
from service.harness import Base, Job, Service


class _OneByOne(Base):
    """Asks the vendor for one job at a time."""

    def __init__(self, world: World, policy: ConnectorPolicy) -> None:
        self._world = world
        self.policy = policy

    async def get(self, resource_meta: Job, **kwargs: Any) -> Resource:
        await self._world.request(many=False)
        return self._world.state(resource_meta)


class _Together(_OneByOne):
    """Asks the vendor for many jobs at a time."""

    async def get_many(self, resource_metas: list[Job], **kwargs: Any) -> list[Resource]:
        await self._world.request(many=True)
        return [self._world.state(meta) for meta in resource_metas]


class World:
    """The vendor, the hosts and the executors of a case.

    :ivar services: the hosts
    :ivar told: how often the vendor has told the state of a job
    """

    def __init__(self, case: Case) -> None:
        self.case, self.counts = case, Tally(case)
        self._ends: list[float] = []
        self._unseen: set[int] = set()
        self._failures: dict[int, int] = {}
        self._seconds: dict[int, int] = {}
        self._failed = self._refused = self._given_up = 0
        policy = ConnectorPolicy(rate_calls=case.rate)
        shield = {"poll_retry": 4, "poll_absorb": 600} if case.shielded else {}
        limits = {"max_calls_per_connector": case.slots, "max_calls": 2 * case.slots, "max_waiting_calls": case.waiting}
        connector = _Together if case.design is Design.MANY else _OneByOne
        self.services = [
            Service(connector(self, policy), clock=anyio.current_time, **shield, **limits) for _ in range(case.replicas)
        ]
        self._known = 0
        self.told = 0

    def add(self, jobs: int) -> None:
        """Have jobs that do not end."""
        self._ends += [math.inf] * jobs

    async def request(self, *, many: bool) -> None:
        """Take part in a request to the vendor.

        :raises TransientError: the vendor has answered as many in this second as it allows
        """
        case, now = self.case, anyio.current_time()
        self.counts.requested(now, many=many)
        number = self._seconds[int(now)] = self._seconds.get(int(now), 0) + 1
        await anyio.sleep(case.latency)
        if 0 < case.allowed < number:
            self._refused += now >= case.warm
            raise TransientError("429 Too Many Requests", retry_after=case.retry_after or None)

    def state(self, job: Job) -> Resource:
        """Return the state of a job."""
        self.told += 1
        has_ended = self._ends[int(job.id)] <= anyio.current_time()
        return Resource(Phase.SUCCEEDED if has_ended else Phase.RUNNING)

    async def run(self) -> dict[str, Any]:
        """Simulate; return the figures."""
        case, executor = self.case, self.case.executor
        async with anyio.create_task_group() as tasks:
            shards = [_Shard(number, self, tasks) for number in range(executor.shards)]
            for service in self.services:
                await tasks.start(service.servicer.known_jobs.run)
            tasks.start_soon(self._begin, shards)
            tasks.start_soon(self._watch)
            await anyio.sleep(case.warm + case.seconds / 2)
            self.counts.halfway(sum(len(shard.queue) for shard in shards))
            await anyio.sleep(case.seconds / 2)
            tasks.cancel_scope.cancel()
        unseen = [self._ends[job] for job in self._unseen]
        queued = sum(len(shard.queue) for shard in shards)
        result = self.counts.result(queued=queued, unseen=unseen, known=self._known)
        refused = {
            "vendor_refused_per_s": round(self._refused / case.seconds, 2),
            "failed_polls_per_s": round(self._failed / case.seconds, 2),
            "tasks_given_up": self._given_up,
        }
        return result | refused if case.allowed else result

    async def _begin(self, shards: list[_Shard]) -> None:
        for number in range(self.case.jobs):
            created, end = self.case.first_end(number)
            await anyio.sleep(max(0.0, created - anyio.current_time()))
            self._ends.append(end)
            self._unseen.add(number)
            shards[number % len(shards)].create(number)

    async def _watch(self) -> None:
        while True:
            for service in self.services:
                accounts = (
                    service.servicer.known_jobs._accounts.values()
                )  # a scrape would take more time than the polls
                self._known = max(self._known, *map(len, accounts), 0)
            await anyio.sleep(1)

    async def poll(self, shard: int, number: int, job: int) -> bool:
        """Poll a job; return whether the executor polls it no more: it has ended, or too many polls have failed."""
        self.counts.polled(anyio.current_time())
        service = self.services[self.case.replica_of(shard, job, number)]
        await anyio.sleep(self.case.network)
        try:
            answer = await service.get(resource_meta=Job(str(job)).encode())
        except GRPCError:
            counted = anyio.current_time() >= self.case.warm
            self._failed += counted
            self._failures[job] = self._failures.get(job, 0) + 1
            is_given_up = self._failures[job] == MOST_FAILURES + 1
            self._given_up += is_given_up and counted
            return is_given_up
        return answer.resource is not None and answer.resource.phase is Phase.SUCCEEDED

    def replace(self, job: int) -> int:
        """Note that the executor knows of a job's end; return the job that begins in its place."""
        now = anyio.current_time()
        if self._failures.get(job, 0) <= MOST_FAILURES:
            self.counts.ended(self._ends[job], now)
        self._unseen.discard(job)
        created = len(self._ends)
        self._ends.append(self.case.later_end(created, now))
        self._unseen.add(created)
        return created


class _Shard:
    """One executor. A task takes the jobs for its workers, because many that wait would take most of the time."""

    def __init__(self, number: int, world: World, tasks: TaskGroup) -> None:
        self._number, self._world, self._tasks = number, world, tasks
        self.queue = PollQueue(world.case.executor)
        self._idle = world.case.executor.workers
        self._polls = 0
        self._changed = anyio.Event()
        tasks.start_soon(self._resync)
        tasks.start_soon(self._take)

    def create(self, job: int) -> None:
        """Begin to poll a job."""
        self.queue.add(job, anyio.current_time())
        self._changed.set()

    async def _resync(self) -> None:
        executor = self._world.case.executor
        await anyio.sleep(executor.resync * self._number / executor.shards)
        while True:
            await anyio.sleep(executor.resync + DRIFT)
            self.queue.resync(anyio.current_time())
            self._changed.set()

    async def _take(self) -> None:
        while True:
            now = anyio.current_time()
            job = self.queue.take(now) if self._idle else None
            if job is not None:
                self._idle -= 1
                self._tasks.start_soon(self._poll, job, self._polls)
                self._polls += 1
                continue
            self._changed = anyio.Event()
            ready = self.queue.next_time() if self._idle else None
            with anyio.move_on_after(None if ready is None else max(0.0, ready - now)):
                await self._changed.wait()

    async def _poll(self, job: int, number: int) -> None:
        has_ended = await self._world.poll(self._number, number, job)
        self._idle += 1
        self._changed.set()
        if has_ended and self.queue.end(job):
            self.create(self._world.replace(job))


def simulate(case: Case) -> dict[str, Any]:
    """Simulate a case with the service's code; return its figures, and the processor's time for each poll."""
    began = time.process_time()
    result = anyio.run(_run, case, backend="asyncio", backend_options={"loop_factory": JumpingEventLoop})
    polls = max(1.0, result["polls_per_s"] * case.seconds)
    return {**result, "cpu_us_per_poll": round((time.process_time() - began) / polls * 1e6)}


async def _run(case: Case) -> dict[str, Any]:
    return await World(case).run()
