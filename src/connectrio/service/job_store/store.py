"""The store of jobs, as the event loop uses it: threads, time-outs, leases, and times in which the database is away.

Only creates wait for the database, each in a thread, for two seconds at most. When it has not answered by then it is
*away*, and until it is back nobody asks it but one thread in the background. That thread also renews the leases, which
must not depend on an event loop that a connector may block, and writes what could not be written in time.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

import anyio
from anyio import to_thread
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from connectrio.logs import get_logger
from connectrio.masking.credentials import describe_error
from connectrio.service.job_identity import JobIdentity
from connectrio.service.job_store import jobs
from connectrio.service.job_store.jobs import Answered, Claim, Earlier, Held, InDoubt, JobStoreSchemaError, Session
from connectrio.service.job_store.url import check_url, passwords_in, shown_url

__all__ = ["LONGEST_META", "JobStore", "JobStoreAwayError"]

logger = get_logger("connectrio.service")

T = TypeVar("T")

# seconds that a call waits for the database. With the three calls of a create, and those that wait for a job of another
# host, it stays well below the executor's ten
_TIMEOUT = 2.0
# seconds between attempts at a database that restarts
_PAUSE = 0.1
# calls that are in the database at once; each takes some milliseconds
_SESSIONS = 4
# the parts of a lease, after each of which it is renewed
_RENEWALS = 4
# seconds between looks for work in the background, and between two cleanings
_LONGEST_INTERVAL = 0.5
_CLEANING = 30.0
# what waits to be written while the database is away, and jobs of which it has been told that clients know them
_MOST_PENDING = 10_000
_MOST_KNOWN = 20_000
# jobs in the database, of all hosts together
_MOST_JOBS = 200_000
# seconds for the thread in the background to end
_END = 3.0

LONGEST_META = 256 * 1024
"""Bytes of a `resource_meta` that is stored. A usual one has a few hundred."""


class JobStoreAwayError(Exception):
    """The database does not answer; the text says why."""


class JobStore(Collector):
    """The jobs of all hosts that share a database. `open` it before use; its owner closes it with `aclose`.

    In a registry of metrics, it tells whether the database answers, and how many creates were in doubt.

    :param url: see `check_url`
    :param lease: seconds after which another host takes over what this host was creating, if it gives no sign of life
    :param memory: seconds for which a job is kept after it was created
    :param make_session: makes a session with the database; by default as `url` says
    :raises ValueError: the URL names no database
    :raises ImportError: the extra `postgres` is not installed
    :ivar doubts: by task type, the creates that found a claim in doubt
    """

    def __init__(
        self, url: str, *, lease: float, memory: float, make_session: Callable[[], Session] | None = None
    ) -> None:
        check_url(url)
        self._url = url
        self._make_session = make_session or _sessions(url)
        self._lease = lease
        self._memory = memory
        self._owner = uuid.uuid4().hex
        self._places = anyio.CapacityLimiter(_SESSIONS)
        self._threads = anyio.CapacityLimiter(math.inf)
        # the fields below belong to all threads
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._has_schema = False
        self._active: dict[str, Claim] = {}
        self._pending: deque[Callable[[Session], object]] = deque(maxlen=_MOST_PENDING)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._asked: set[str] = set()
        self._away: str | None = None
        self._away_since = 0.0
        # those of the thread in the background
        self._wake = threading.Event()
        self._is_closing = False
        self._failing_since = math.inf
        self._renewed_at = self._cleaned_at = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="connectrio job store", daemon=True)
        self.doubts: Counter[str] = Counter()

    # what creates ask

    async def claim(
        self, identity: JobIdentity, *, retakes: bool, with_earlier: bool
    ) -> tuple[Claim | Answered | Held | InDoubt, list[Earlier]]:
        """Claim a job, see `jobs.claim`. The caller ends a `Claim` with `finish`, `adopt` or `give_up`.

        :param with_earlier: whether to return the earlier attempts at the task as well
        :raises JobStoreAwayError: the database does not answer
        """
        key, task, attempt = identity.key, identity.task, identity.attempt

        def ask(session: Session) -> tuple[Claim | Answered | Held | InDoubt, list[Earlier]]:
            found = jobs.claim(
                session,
                key=key,
                task=task,
                attempt=attempt,
                owner=self._owner,
                lease=self._lease,
                memory=self._memory,
                retakes=retakes,
            )
            wants = with_earlier and attempt > 0 and isinstance(found, Claim)
            return found, jobs.earlier_attempts(session, task, attempt) if wants else []

        found, earlier = await self._call(ask)
        if isinstance(found, Claim):
            self._active[key] = found
        return found, earlier

    async def earlier_attempts(self, identity: JobIdentity) -> list[Earlier]:
        """Return the earlier attempts at a task, the last one first.

        :raises JobStoreAwayError: the database does not answer
        """
        return await self._call(partial(jobs.earlier_attempts, task=identity.task, attempt=identity.attempt))

    async def withdraw(self, key: str) -> bool:
        """Remove a claim that has passed before it was begun, see `jobs.withdraw`.

        :raises JobStoreAwayError: the database does not answer
        """
        return await self._call(partial(jobs.withdraw, key=key))

    async def begin(self, claim: Claim, under: str) -> bool:
        """Write down that the connector's code begins; return False if it must not, see `jobs.begin`.

        :raises JobStoreAwayError: the database does not answer
        """
        return await self._call(partial(jobs.begin, mine=claim, owner=self._owner, lease=self._lease, under=under))

    async def adopt(self, claim: Claim, earlier: str) -> bytes | None:
        """Answer a claim with an earlier attempt's job, see `jobs.adopt`.

        :raises JobStoreAwayError: the database does not answer
        """
        meta = await self._call(
            partial(jobs.adopt, mine=claim, owner=self._owner, earlier=earlier, memory=self._memory)
        )
        if meta is not None:
            self._active.pop(claim.key, None)
        return meta

    async def finish(self, claim: Claim, meta: bytes, origin: str) -> bytes | None:
        """Write a job down, see `jobs.finish`. If the database is away or too slow, do so later, and return `meta`."""
        write = partial(jobs.finish, mine=claim, owner=self._owner, meta=meta, memory=self._memory, origin=origin)
        if len(meta) > LONGEST_META:
            self.give_up(claim, in_doubt=True)  # other hosts only know that there may be a job
            return meta
        official: bytes | None = meta
        try:
            # the job exists. Many creates may wait for their turn, so it may take longer than the call itself
            with anyio.move_on_after(2 * _TIMEOUT, shield=True) as scope:
                official = await self._call(write)
            is_written = not scope.cancelled_caught
        except JobStoreAwayError:
            is_written = False
        finally:
            self._active.pop(claim.key, None)
        if not is_written:
            self._later(write)
        return official

    # what is written in the background

    def give_up(self, claim: Claim, *, in_doubt: bool) -> None:
        """End a claim without a job.

        :param in_doubt: whether the connector's code was stopped in the middle, so that the job may exist
        """
        self._active.pop(claim.key, None)
        end = jobs.abandon if in_doubt else jobs.release
        self._later(partial(end, mine=claim, owner=self._owner))

    def record(self, identity: JobIdentity, meta: bytes) -> None:
        """Write a job down that was created while the database was away."""
        if len(meta) <= LONGEST_META:
            self._later(
                partial(
                    jobs.record,
                    key=identity.key,
                    task=identity.task,
                    attempt=identity.attempt,
                    owner=self._owner,
                    meta=meta,
                    memory=self._memory,
                )
            )

    def asked_for(self, meta: bytes) -> None:
        """Note that a client knows a job. The database is told soon, once for each job."""
        name = jobs.meta_hash(meta)
        if name in self._known:
            return
        self._known[name] = None
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        with self._lock:
            if len(self._asked) < _MOST_KNOWN:
                self._asked.add(name)

    # its life

    async def open(self) -> None:
        """Connect, and make the tables. If the database is away, log that, and try again in the background."""
        self._thread.start()
        try:
            await self._call(lambda session: session.execute("SELECT 1"))
        except JobStoreAwayError:
            return  # the log says so

    async def aclose(self) -> None:
        """Write what is left, if the database answers, and close all sessions."""
        self._is_closing = True
        self._wake.set()
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._thread.join, _END, limiter=self._threads)
        self._close_idle()

    @property
    def is_up(self) -> bool:
        """Whether the database answers, as far as is known."""
        return self._away is None

    @property
    def why_away(self) -> str:
        """Return why the database is away; "" if it is not."""
        return self._away or ""

    @property
    def away_seconds(self) -> float:
        """Return for how long the database has been away; 0 if it is not."""
        return 0.0 if self.is_up else time.monotonic() - self._away_since

    def collect(self) -> Iterator[Metric]:
        """Yield whether the database answers, and the creates that were in doubt."""
        yield GaugeMetricFamily(
            "connectrio_job_store_up", "Whether the database of job_store answers: 1, else 0", self.is_up
        )
        doubts = CounterMetricFamily(
            "connectrio_creates_in_doubt",
            "CreateTask requests for jobs that a host had begun to create, and has ended without an answer",
            labels=["task_type"],
        )
        for task_type, count in self.doubts.items():
            doubts.add_metric([task_type], count)
        yield doubts

    # threads

    async def _call(self, function: Callable[[Session], T]) -> T:
        """Call `function`, which may be called twice, in a thread.

        :raises JobStoreAwayError: the database does not answer
        """
        async with self._places:
            if self._away is not None:
                raise JobStoreAwayError(self._away)
            call = _Call(self, function)
            try:
                with anyio.fail_after(_TIMEOUT):
                    return await to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._threads)
            except TimeoutError:
                reason = call.failure or f"no answer within {_TIMEOUT:g} s"
                self._went_away(reason)
                raise JobStoreAwayError(reason) from None
            except JobStoreAwayError as error:
                self._went_away(str(error))
                raise
            finally:
                call.abandon()

    def _later(self, write: Callable[[Session], object]) -> None:
        self._pending.append(write)
        self._wake.set()

    def _work(self) -> None:
        """Do the work in the background, until the store is closed."""
        session: Session | None = None
        while not self._is_closing:
            self._wake.wait(min(_LONGEST_INTERVAL, self._lease / _RENEWALS))
            self._wake.clear()
            if self._away is None and not self._has_work():
                continue
            session = self._background(session)
            if session is None:
                time.sleep(_PAUSE)
        if self._pending and self._away is None:
            session = self._background(session)
        if session is not None:
            session.close()

    def _has_work(self) -> bool:
        now = time.monotonic()
        return bool(
            self._pending
            or self._asked
            or (self._active and now - self._renewed_at >= self._lease / _RENEWALS)
            or now - self._cleaned_at >= _CLEANING
        )

    def _background(self, session: Session | None) -> Session | None:
        """Do what is due; return the session, or None if the database is away."""
        try:
            if session is None:
                session = self._connect()
            with _aborted_in_time(session):
                self._do_work(session)
        except Exception as error:  # noqa: BLE001 - each database has its own errors
            if session is not None:
                session.close()
            now = time.monotonic()
            self._failing_since = min(self._failing_since, now)
            if now - self._failing_since >= _TIMEOUT:  # it may only restart
                self._went_away(self._describe(error))
            return None
        self._failing_since = math.inf
        self._came_back()
        return session

    def _do_work(self, session: Session) -> None:
        if self._away is None:
            session.execute("SELECT 1")
        else:  # also what is read-only or full answers a question
            jobs.try_writing(session)
        now = time.monotonic()
        if self._active:
            jobs.renew(session, self._owner, list(self._active), self._lease)
        self._renewed_at = now
        while self._pending:
            self._pending[0](session)
            self._pending.popleft()
        with self._lock:
            asked, self._asked = self._asked, set()
        try:
            jobs.mark_asked(session, asked)
        except BaseException:
            with self._lock:
                self._asked |= asked
            raise
        if now - self._cleaned_at >= _CLEANING:
            self._cleaned_at = now
            jobs.clean(session, _MOST_JOBS)

    def _connect(self) -> Session:
        session = self._make_session()
        try:
            with self._lock:
                has_schema = self._has_schema
            if not has_schema:
                with _aborted_in_time(session):
                    jobs.create_schema(session)
                self._has_schema = True
        except BaseException:
            session.close()
            raise
        return session

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Lend a session to this thread; it is closed if the block raises, and so are those that are idle."""
        with self._lock:
            session = self._idle.pop() if self._idle else None
        if session is None:
            session = self._connect()
        try:
            yield session
        except BaseException:
            session.close()
            self._close_idle()
            raise
        with self._lock:
            self._idle.append(session)

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def _went_away(self, reason: str) -> None:
        with self._lock:
            if self._away is not None:
                return
            self._away, self._away_since = reason, time.monotonic()
        logger.warning("the job store does not answer", reason=reason, store=shown_url(self._url))
        self._wake.set()

    def _came_back(self) -> None:
        with self._lock:
            if self._away is None:
                return
            self._away = None
            seconds = time.monotonic() - self._away_since
        logger.info("the job store answers again", seconds=round(seconds, 3), store=shown_url(self._url))

    def _describe(self, error: BaseException) -> str:
        """Return the text of an error, without the password of the URL."""
        text = describe_error(error)
        for each in sorted(passwords_in(self._url), key=len, reverse=True):
            text = text.replace(each, "***")
        return text.strip()


@contextmanager
def _aborted_in_time(session: Session) -> Iterator[None]:
    """End what a session waits for, if the block takes longer than a call may."""
    stop = threading.Timer(_TIMEOUT, session.abort)
    stop.daemon = True
    stop.start()
    try:
        yield
    finally:
        stop.cancel()


class _Call(Generic[T]):
    """A function that is called in a thread, until it succeeds or its time has passed.

    :ivar failure: why it has failed last; "" if it has not
    """

    def __init__(self, store: JobStore, function: Callable[[Session], T]) -> None:
        self._store = store
        self._function = function
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._is_abandoned = False
        self.failure = ""

    def __call__(self) -> T:
        """Call it.

        :raises JobStoreAwayError: it has failed for as long as a call may take
        """
        end = time.monotonic() + _TIMEOUT - 2 * _PAUSE
        while True:
            try:
                with self._store.session() as session:
                    self._use(session)
                    result = self._function(session)
                    self._use(None)
                    return result
            except Exception as error:  # noqa: BLE001 - each database has its own errors
                self._use(None)
                self.failure = self._store._describe(error)  # noqa: SLF001 - of this module
                is_final = isinstance(error, JobStoreSchemaError) or self._is_abandoned or time.monotonic() > end
                if is_final:
                    raise JobStoreAwayError(self.failure) from None
            time.sleep(_PAUSE)

    def abandon(self) -> None:
        """Stop it, if it still runs."""
        with self._lock:
            self._is_abandoned = True
            if self._session is not None:
                self._session.abort()

    def _use(self, session: Session | None) -> None:
        with self._lock:
            self._session = session
            if session is not None and self._is_abandoned:
                session.abort()


def _sessions(url: str) -> Callable[[], Session]:
    if url.startswith("sqlite:"):
        from connectrio.service.job_store.sqlite import SqliteSession

        return partial(SqliteSession, url)
    from connectrio.service.job_store.postgres import PostgresSession

    return partial(PostgresSession, url)
