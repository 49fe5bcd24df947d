"""What is known of the jobs that clients poll, for connectors that are not asked at each poll.

1. A job that clients poll is known, until none has asked for it for five minutes, or it was deleted. When too many are,
   a further one becomes known when another has ended and its client knows that. Until then it is polled when its client
   asks, if 2. allows it: not at all where the known ones use up the limit.
2. A poll asks the other system itself if a limit of the policy allows that now, and no job waits to be polled.
3. Otherwise it is answered with what is known, and the job waits. The jobs of an account are polled in the background,
   those first that were not polled for longest. So each has its turn, however many there are and whenever clients ask.
4. With `get_many`, all known jobs that are not final are polled again when half of `poll_max_age` has passed, many at a
   time. What it does not list, or cannot report without raising, is polled with `get`.
5. What is found in the background is what `get` would have returned or raised at the client's next poll: the state, or
   the error, with all that follows from it. A final state is kept until it is forgotten as its job is.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup, TaskStatus
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from connectrio.idl.flyteidl2.connector import GetTaskRequest, Resource
from connectrio.idl.flyteidl2.core import Connection
from connectrio.logs import get_logger, line_fields
from connectrio.rpc.codec import encode
from connectrio.service.job_polls import BackgroundPolls, KnownJob
from connectrio.service.methods import ConnectorMethod
from connectrio.service.operations import Operation
from connectrio.service.settings import ServiceSettings
from connectrio.service.slots import NoRoomError, Slots
from connectrio.service.vendor_gate import CallKind, VendorAccount, VendorCall, account_key
from connectrio.service.workers import Workers
from connectrio.telemetry.jobs import JobName

__all__ = ["AccountJobs", "JobRefresh"]

logger = get_logger("connectrio.service")

# jobs that are known of each account
_MOST_JOBS = 20_000
# bytes of all large states together, beyond which clients have to fetch some before more jobs are polled
_MOST_BYTES = 64 * 1024 * 1024
# bytes up to which a state is small
_SMALL = 1024
# seconds without a poll after which a job is forgotten; the executor polls twice a minute
_FORGOTTEN = 300.0
# calls in the background at once, of each account
_MOST_CALLS = 32
# seconds between two looks for jobs to forget, and until the next try where there is no room
_PERIOD = 30.0
_PAUSE = 1.0


class AccountJobs:
    """The known jobs of one account of another system.

    :param get: the connector's method
    :param many: its `get_many`; None if it has none
    :ivar account: where calls have to pass
    """

    def __init__(
        self, refresh: JobRefresh, account: VendorAccount, get: ConnectorMethod, many: ConnectorMethod | None
    ) -> None:
        self.account = account
        self.task_type = get.owner
        self._refresh = refresh
        self._has_many = many is not None
        self._polls = BackgroundPolls(get, many, refresh.workers, refresh.limit, partial(refresh.count, get.owner))
        self._max_age = account.gate.policy.poll_max_age
        self._jobs: OrderedDict[JobName, KnownJob] = OrderedDict()
        self._connections: WeakValueDictionary[bytes, Connection] = WeakValueDictionary()
        # (when it is due, a number, the job); an entry counts only if the job is known and still due then
        self._queue: list[tuple[float, int, KnownJob]] = []
        self._numbers = itertools.count()
        self._woken = anyio.Event()
        self._is_running = False

    def __len__(self) -> int:
        return len(self._jobs)

    def oldest(self) -> float:
        """Return when the job that was polled longest ago, and is not final, was polled; `inf` if there is none."""
        return min((job.tried for job in list(self._jobs.values()) if not job.is_final), default=math.inf)

    # a client's poll

    def asked(self, name: JobName, request: GetTaskRequest) -> KnownJob:
        """Return the job that a client polls; it is known from now on, if there is room."""
        now = anyio.current_time()
        connection = self._shared(request.connection)
        job = self._jobs.get(name)
        if job is None:
            job = KnownJob(name, request.resource_meta, request.output_prefix, connection, asked=now, tried=now)
            if len(self._jobs) >= _MOST_JOBS:
                # not whichever was asked for longest ago: jobs are asked for in turn, so each would be forgotten just
                # before its client could get what was found
                oldest = next(iter(self._jobs.values()))
                if not (oldest.is_final and not oldest.is_new) and oldest.asked > now - _FORGOTTEN:
                    return job
                self._drop(oldest)
            self._jobs[name] = job
            self.account.is_needed = True
        else:
            self._jobs.move_to_end(name)
            job.asked, job.output_prefix, job.connection = now, request.output_prefix, connection
        return job

    def kept(self, job: KnownJob) -> Resource | None:
        """Return the state of a job if there is no need to ask the other system.

        :raises Exception: what the last call of `get_many` has raised
        """
        if job.is_final:
            return self._delivered(job)
        if not self._has_many:
            return None
        if job.error is not None:  # the places where it was caught before do not count
            raise job.error.with_traceback(job.places)
        is_fresh = job.resource is not None and anyio.current_time() - job.tried <= self._max_age
        return self._delivered(job) if is_fresh else None

    def try_begin(self) -> VendorCall | None:
        """Begin a call for a client's poll, which is to be `with`ed at once, if no job has waited for longer."""
        self._discard()
        is_due = bool(self._queue) and self._queue[0][0] <= anyio.current_time()
        if is_due and self._refresh.is_running:
            return None
        return self.account.try_begin()

    def wait(self, job: KnownJob) -> Resource | None:
        """Let a job wait for its poll in the background. Return its state if no client has got that yet.

        :raises Exception: what the last poll in the background has raised; once
        """
        if job.due is None and self._is_known(job):
            self._schedule(job, job.tried)
        error, job.error = job.error, None
        if error is not None:
            raise error.with_traceback(job.places)
        return self._delivered(job) if job.is_new else None

    def reported(self, job: KnownJob, resource: Resource, *, is_new: bool = False) -> None:
        """Keep the state of a job.

        :param is_new: whether no client has got it yet
        """
        if not self._is_known(job):
            return
        now = anyio.current_time()
        size = _size(resource)
        self._refresh.bytes += size - job.size
        job.resource, job.size, job.is_new, job.error, job.places = resource, size, is_new, None, None
        job.tried, job.at, job.due = now, self._refresh.clock(), None
        if self._has_many and not job.is_final:
            self._schedule(job, now + self._max_age / 2)

    def forget(self, name: JobName) -> None:
        """Forget a job that was deleted."""
        if (job := self._jobs.get(name)) is not None:
            self._drop(job)

    def _shared(self, connection: Connection | None) -> Connection | None:
        """Return `connection`, the same object for all jobs that have the same."""
        return None if connection is None else self._connections.setdefault(account_key(connection), connection)

    def _delivered(self, job: KnownJob) -> Resource:
        """Return a copy of the state, which the caller may change."""
        job.is_new = False
        kept = job.resource
        if kept is None:
            raise AssertionError("a job whose state is delivered has one")
        return Resource(
            phase=kept.phase,
            message=kept.message,
            log_links=kept.log_links,
            outputs=kept.outputs,
            custom_info=kept.custom_info,
        )

    def _drop(self, job: KnownJob) -> None:
        self._jobs.pop(job.name, None)
        self._refresh.bytes -= job.size
        job.size = 0
        if not self._jobs:
            self.account.is_needed = False
            self._refresh.forget(self)

    # the polls in the background

    def _schedule(self, job: KnownJob, due: float) -> None:
        """Let a job be polled at the time `due`. Where nothing polls in the background, only its clients do."""
        if self._refresh.is_running:
            job.due = due
            heapq.heappush(self._queue, (due, next(self._numbers), job))
            if not self._is_running:
                self._is_running = True
                self._refresh.start(self._run)
            elif self._queue[0][2] is job:
                self._woken.set()

    def _discard(self) -> None:
        """Remove entries that do not count from the front of the queue."""
        while self._queue and (self._queue[0][2].due != self._queue[0][0] or not self._is_known(self._queue[0][2])):
            heapq.heappop(self._queue)

    def _is_known(self, job: KnownJob) -> bool:
        return self._jobs.get(job.name) is job

    async def _run(self) -> None:
        """Poll jobs in the background, as long as any is known."""
        line_fields.set(self._polls.identity)
        places = anyio.Semaphore(_MOST_CALLS)
        try:
            async with anyio.create_task_group() as calls:
                while await self._job_is_due():
                    await places.acquire()
                    try:
                        slot = await self._refresh.slots.enter(self.task_type)
                    except NoRoomError:
                        places.release()
                        await anyio.sleep(_PAUSE)
                        continue
                    try:
                        call = await self.account.turn(CallKind.POLL, evenly=True)
                    except BaseException:
                        slot.__exit__(None, None, None)
                        raise
                    calls.start_soon(self._poll, self._next_jobs(), slot, call, places.release)
        finally:
            self._is_running = False
            for job in self._jobs.values():
                job.due = None  # it does not wait any more; its client's next poll decides

    async def _job_is_due(self) -> bool:
        """Wait until a job is due; return False if none is known any more."""
        while True:
            now = anyio.current_time()
            while self._jobs and (job := next(iter(self._jobs.values()))).asked <= now - _FORGOTTEN:
                self._drop(job)
            if not self._jobs:
                return False
            self._discard()
            is_full = self._refresh.bytes >= _MOST_BYTES
            if is_full:
                self._drop_delivered()
                seconds = _PAUSE if self._refresh.bytes >= _MOST_BYTES else 0.0
            else:
                seconds = self._queue[0][0] - now if self._queue else _PERIOD
            if seconds <= 0:
                return True
            with anyio.move_on_after(min(seconds, _PERIOD)):
                await self._woken.wait()
            self._woken = anyio.Event()

    def _drop_delivered(self) -> None:
        """Forget states that clients have got, and that are large."""
        for job in self._jobs.values():
            if job.size and not job.is_new:
                self._refresh.bytes -= job.size
                job.resource, job.size = None, 0

    def _next_jobs(self) -> list[KnownJob]:
        """Take the next jobs from the queue: one, or those that `get_many` can report together."""
        jobs: list[KnownJob] = []
        others: list[KnownJob] = []
        # what is due soon is polled with what is due now, so that jobs come together
        until = anyio.current_time() + self._max_age / 4
        most = self.account.gate.policy.many_limit if self._has_many else 1
        while len(jobs) < most and len(others) < most:
            self._discard()
            if not self._queue or (jobs and self._queue[0][0] > until):
                break
            _, _, job = heapq.heappop(self._queue)
            if jobs and (job.alone or job.connection is not jobs[0].connection):
                others.append(job)
                continue
            jobs.append(job)
            job.due = math.inf
            if job.alone:
                break
        for job in others:
            heapq.heappush(self._queue, (job.due or 0.0, next(self._numbers), job))
        return jobs

    async def _poll(
        self,
        jobs: list[KnownJob],
        slot: AbstractContextManager[None],
        call: VendorCall,
        release: Callable[[], None],
    ) -> None:
        """Poll these jobs with one call, and keep what it has returned or raised."""
        try:
            with slot:
                if not jobs:  # the one that was due was polled by a client, or deleted
                    call.give_back()
                    return
                for job, result in zip(jobs, await self._polls.ask(jobs, call), strict=True):
                    self._keep(job, result)
        finally:
            release()

    def _keep(self, job: KnownJob, result: Any) -> None:
        """Keep the state of a job, or the error; poll it with `get` if there is neither."""
        if not self._is_known(job):
            return
        if isinstance(result, Resource):
            self.reported(job, result, is_new=True)
            return
        job.due = None
        if result is None:
            job.alone = max(1, job.alone)
            self._schedule(job, job.tried)
            return
        now = anyio.current_time()
        job.tried, job.error, job.places = now, result, result.__traceback__
        if self._has_many:
            self._schedule(job, now + self._max_age / 2)


class JobRefresh(Collector):
    """The known jobs of all accounts, and the tasks that poll them.

    In a registry of metrics, it is asked at each scrape how many jobs it knows, and how old their states are.

    :param slots: where polls take their place among the calls
    :param clock: the account's, for the times of states
    :ivar method: returns a connector's method
    :ivar limit: seconds for one call
    :ivar bytes: of all large states together
    """

    def __init__(
        self,
        settings: ServiceSettings,
        workers: Workers,
        slots: Slots,
        method: Callable[[Any, Operation], ConnectorMethod],
        clock: Callable[[], float],
    ) -> None:
        self.workers = workers
        self.slots = slots
        self.clock = clock
        self.limit = settings.get_limit
        self.bytes = 0
        # where the polls in the background run, and the context variables there: not those of a client's poll
        self._tasks: TaskGroup | None = None
        self._context = copy_context()
        self.method = method
        self._accounts: dict[VendorAccount, AccountJobs] = {}
        self._counts: dict[tuple[str, str], int] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Poll jobs in the background until `stop`, or until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks, self._context = tasks, copy_context()
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None

    @property
    def is_running(self) -> bool:
        """Whether jobs are polled in the background."""
        return self._tasks is not None

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that polls jobs."""
        if self._tasks is not None:
            self._context.copy().run(partial(self._tasks.start_soon, self._guarded, work))

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do `work`; a fault of the host's own there is no reason to end the host."""
        try:
            await work()
        except Exception:
            logger.exception("polls in the background have failed; the next poll of a client starts them")

    def stop(self) -> None:
        """End all polls in the background."""
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            self._tasks = None

    def of(self, get: ConnectorMethod, connection: Connection | None) -> AccountJobs:
        """Return the jobs of the account that a request with this connection uses."""
        account = get.gate.account(connection)
        jobs = self._accounts.get(account)
        if jobs is None:
            many = self.method(get.connector, Operation.GET_MANY) if get.gate.has_many else None
            jobs = self._accounts[account] = AccountJobs(self, account, get, many)
        return jobs

    def deleted(self, name: JobName, account: VendorAccount) -> None:
        """Forget a job that was deleted."""
        if (jobs := self._accounts.get(account)) is not None:
            jobs.forget(name)

    def forget(self, jobs: AccountJobs) -> None:
        """Forget an account without jobs."""
        self._accounts.pop(jobs.account, None)

    def count(self, task_type: str, operation: Operation) -> None:
        """Count a call in the background."""
        key = task_type, operation.value
        self._counts[key] = self._counts.get(key, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers for `CollectorRegistry`."""
        calls = CounterMetricFamily(
            "connectrio_background_polls",
            "Calls with which the host has polled jobs by itself, by method",
            labels=["task_type", "operation"],
        )
        for labels, count in list(self._counts.items()):
            calls.add_metric(labels, count)
        known = GaugeMetricFamily(
            "connectrio_known_jobs", "Jobs that clients poll and the host polls by itself", labels=["task_type"]
        )
        counts: dict[str, int] = {}
        for each in list(self._accounts.values()):
            counts[each.task_type] = counts.get(each.task_type, 0) + len(each)
        for task_type, count in counts.items():
            known.add_metric([task_type], count)
        yield from (calls, known)


def _size(resource: Resource) -> int:
    """Return the bytes of a large state, 0 for a small one."""
    if resource.outputs is None and resource.custom_info is None and len(resource.log_links) <= 1:
        return 0 if len(resource.message) <= _SMALL else len(encode(resource))
    size = len(encode(resource))
    return size if size > _SMALL else 0
