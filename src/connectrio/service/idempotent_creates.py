"""One job for each CreateTask, however often it is sent.

1. The first request for a job starts it. Once the connector's code has begun, it is shielded: if its client goes away,
   the job is recorded nevertheless. Before that (while it waits for a thread, say), it is dropped with its client.
2. The same request, sent meanwhile, waits for the answer to the first one, and takes its place if that is dropped. Sent
   later, it gets that answer again.
3. A later attempt at the same task takes over the job of an earlier one that nobody has asked for since, if it may and
   that job is alive. The answer to that attempt was lost: had it arrived, the job would have been polled.
4. Failures go to the current waiters and are not remembered. The next request tries again.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from grpclib import GRPCError
from grpclib.const import Status

from connectrio.connector.context import Start
from connectrio.diagnostics import continue_traceback
from connectrio.logs import get_logger
from connectrio.rpc.exceptions import is_cancellation
from connectrio.service.job_identity import JobIdentity
from connectrio.service.settings import ServiceSettings
from connectrio.service.wanted_job import Origin, WantedJob

if TYPE_CHECKING:
    from connectrio.service.shared_creates import SharedCreates

__all__ = ["IdempotentCreates"]

logger = get_logger("connectrio.service")

# how many times as long as usual a job may take that begins just in time
_MARGIN = 1.25


@dataclass(slots=True, eq=False)
class _Record:
    """A job, from the first request for it.

    :ivar earlier: the job of the task's attempt before
    :ivar begun: set once the job cannot be dropped any more, or has ended
    :ivar is_dropped: whether its client has gone before the connector's code began
    :ivar ended: when there was an answer
    :ivar waiting: how many requests wait, beside the first
    :ivar is_shared: whether any of them waited when there was an answer
    """

    identity: JobIdentity
    earlier: _Record | None
    ended: float = math.inf
    begun: anyio.Event = field(default_factory=anyio.Event)
    finished: anyio.Event = field(default_factory=anyio.Event)
    meta: bytes | None = None
    error: BaseException | None = None
    is_dropped: bool = False
    asked_for: bool = False
    waiting: int = 0
    is_shared: bool = False


class IdempotentCreates:
    """The jobs that were created lately.

    Those that were finished first are forgotten first. What is still being created is never forgotten: a repeated
    request would make a second job of it. If `create_memory` is 0, nothing else is remembered.

    :param shared: what this host shares with others; None for a host that remembers for itself
    """

    def __init__(self, settings: ServiceSettings, shared: SharedCreates | None = None) -> None:
        self._shared = shared
        self._most = settings.create_memory_size
        self._most_bytes = settings.create_memory_bytes
        self._age = settings.create_memory
        self._records: dict[str, _Record] = {}
        self._finished: deque[_Record] = deque()
        self._bytes = 0  # of the `resource_meta` of the finished ones
        self._latest: dict[str, _Record] = {}
        self._unasked: dict[bytes, _Record] = {}
        self._scopes: set[anyio.CancelScope] = set()
        # by task type, the seconds that creating a job takes: the longest of late
        self._usual: dict[str, float] = {}
        self._end = math.inf

    def __len__(self) -> int:
        return len(self._records)

    def asked_for(self, resource_meta: bytes) -> None:
        """Note that a client knows the job with this `resource_meta`: its answer was not lost."""
        record = self._unasked.pop(resource_meta, None)
        if record is not None:
            record.asked_for = True
        if self._shared is not None:
            self._shared.asked_for(resource_meta)

    def end_by(self, time: float) -> None:
        """Cancel at `time`, on the event loop's clock, what is still being created then."""
        self._end = time
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, time)

    async def once(self, wanted: WantedJob) -> bytes:
        """Return the `resource_meta` of the job that is wanted.

        :raises BaseException: what creating it has raised
        """
        self._forget()
        record = self._records.get(wanted.identity.key)
        if record is not None:
            origin = Origin.REPLAYED if record.finished.is_set() else Origin.JOINED
            while record is not None and not await self._has_answer(record, wanted):
                record = self._records.get(wanted.identity.key)
            if record is not None:
                wanted.count(origin)
        if record is None:
            record = _Record(wanted.identity, self._latest.get(wanted.identity.task))
            await self._create(record, wanted)
        if record.error is not None:
            raise record.error
        if record.meta is None:
            raise AssertionError("a job that was created has a resource_meta")
        return record.meta

    async def _has_answer(self, record: _Record, wanted: WantedJob) -> bool:
        """Wait for the end of a job that another request creates; return False if that was dropped.

        Repeats of a request may be large and many, so each keeps its inputs only as long as it may have to take over.
        """
        record.waiting += 1
        try:
            await record.begun.wait()
            if not record.is_dropped:
                wanted.release()
            await record.finished.wait()
        finally:
            record.waiting -= 1
        return not record.is_dropped

    async def _create(self, record: _Record, wanted: WantedJob) -> None:
        """Create the job, or take over an earlier attempt's. Once it has begun, it does not end with the client."""
        self._records[record.identity.key] = self._latest[record.identity.task] = record
        ends = anyio.current_time() + wanted.limit
        places: TracebackType | None = None  # where it was when it was cancelled
        with anyio.CancelScope(deadline=min(ends, self._end)) as scope:
            start = Start(scope, lambda: _MARGIN * self._usual.get(wanted.task_type, 0.0), record.begun.set)
            self._scopes.add(scope)
            try:
                earlier = record.earlier
                if self._shared is not None:
                    meta = await self._shared.obtain(wanted, start, partial(self._lost_job, wanted, earlier))
                else:
                    lost = await self._lost_job(wanted, earlier) if wanted.adopts and earlier is not None else None
                    wanted.count(Origin.FRESH if lost is None else Origin.ADOPTED)
                    meta = await wanted.create(wanted.identity.key, start) if lost is None else lost
                self._succeeded(record, meta)
                if start.began is not None:
                    took = time.monotonic() - start.began
                    self._usual[wanted.task_type] = max(took, 0.9 * self._usual.get(wanted.task_type, 0.0))
            except BaseException as error:
                record.is_dropped = start.began is None and not scope.cancel_called and is_cancellation(error)
                if is_cancellation(error):
                    places = error.__traceback__
                    # those who wait would take it for their own
                    self._failed(record, GRPCError(Status.UNAVAILABLE, self._why_ended(wanted, ends)))
                else:
                    self._failed(record, error)
                raise
            finally:
                self._scopes.discard(scope)
                record.begun.set()
        try:
            await checkpoint_if_cancelled()
        except BaseException as error:
            if record.meta is not None and not record.is_shared:
                wanted.orphaned(record.meta)
            if places is not None:
                continue_traceback(error, places)
            raise
        finally:
            del places  # it holds this frame

    async def _lost_job(self, wanted: WantedJob, earlier: _Record | None) -> bytes | None:
        """Return the job of an earlier attempt, if nobody but this host knows of it and it is alive."""
        while earlier is not None:
            # may still be going on: its client has waited for ten seconds, say, and given up
            await earlier.finished.wait()
            if earlier.meta is not None:
                break
            earlier = earlier.earlier
        if (
            earlier is None
            or earlier.meta is None
            or earlier.asked_for
            or earlier.identity.attempt >= wanted.identity.attempt
            or not await wanted.is_alive(earlier.meta)
        ):
            return None
        earlier.asked_for = True
        logger.warning(
            "the answer to an earlier attempt was lost; its job serves this one",
            key=wanted.identity.key,
            earlier_key=earlier.identity.key,
        )
        return earlier.meta

    def _succeeded(self, record: _Record, meta: bytes) -> None:
        record.meta = meta
        record.earlier = None
        record.is_shared = record.waiting > 0
        record.finished.set()
        if len(meta) > self._most_bytes or self._age == 0:
            self._drop(record)
            return
        record.ended = anyio.current_time()
        self._unasked[meta] = record
        self._finished.append(record)
        self._bytes += len(meta)
        while self._bytes > self._most_bytes:
            self._forget_first()

    def _why_ended(self, wanted: WantedJob, ends: float) -> str:
        """Return why a create was cancelled whose own time ends at `ends`."""
        if self._end < ends:
            return (
                "the host is shutting down, and its time for that (grace) has passed before the job was created; try"
                " again"
            )
        return f"creating the job took longer than create_limit, {wanted.limit:g} s; try again, or raise it"

    def _failed(self, record: _Record, error: BaseException) -> None:
        """Tell all who wait for the job."""
        record.error = error
        record.finished.set()
        self._drop(record)
        if record.earlier is not None and record.earlier.identity.key in self._records:
            self._latest.setdefault(record.identity.task, record.earlier)

    def _forget(self) -> None:
        """Forget what is too old, and make room for one more record."""
        oldest = anyio.current_time() - self._age
        while self._finished and (len(self._records) >= self._most or self._finished[0].ended <= oldest):
            self._forget_first()

    def _forget_first(self) -> None:
        record = self._finished.popleft()
        self._bytes -= len(record.meta or b"")
        self._drop(record)

    def _drop(self, record: _Record) -> None:
        self._records.pop(record.identity.key, None)
        if self._latest.get(record.identity.task) is record:
            del self._latest[record.identity.task]
        if record.meta is not None and self._unasked.get(record.meta) is record:
            del self._unasked[record.meta]
