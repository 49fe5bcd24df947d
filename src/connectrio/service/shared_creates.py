"""One job for each CreateTask, whichever of several hosts it reaches: what `IdempotentCreates` asks of a store.

1. The host that claims a job creates it. Others that are asked for the same job wait for its answer.
2. If that host ends before the connector's code has begun, another one creates the job: nothing has happened.
3. If it ends after that, without an answer, the job is *in doubt*. A connector whose `create` is idempotent is called
   again under the same key, and finds the job that may exist. One that is `at_most_once` is not called again: the
   client gets an error. Any other is called again, and the log says that the job may exist twice.
4. A later attempt at the task takes over the job of an earlier one that nobody has asked for, as on one host; also one
   in doubt, by asking under the key of the earlier attempt, if `create` is idempotent.
5. While the store is away, each host creates jobs by its own memory; unless the store is required, by the settings or
   because the connector is `at_most_once`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import anyio
from grpclib.const import Status
from prometheus_client import CollectorRegistry

from connectrio.connector.context import Start
from connectrio.logs import get_logger
from connectrio.rpc.backoff import Backoff
from connectrio.rpc.exceptions import is_cancellation
from connectrio.service.errors import RequestError
from connectrio.service.job_store.jobs import Answered, Claim, Earlier, Held, InDoubt
from connectrio.service.job_store.store import JobStore, JobStoreAwayError
from connectrio.service.settings import ServiceSettings
from connectrio.service.wanted_job import Origin, WantedJob

__all__ = ["SharedCreates", "share_creates"]

logger = get_logger("connectrio.service")


@asynccontextmanager
async def share_creates(settings: ServiceSettings, registry: CollectorRegistry) -> AsyncIterator[SharedCreates]:
    """Open the store that `settings` name, with its metrics in `registry`; close it at the end.

    :raises ImportError: the extra `postgres` is not installed
    """
    store = JobStore(settings.job_store or "", lease=settings.job_lease, memory=settings.create_memory)
    registry.register(store)
    try:
        await store.open()
        yield SharedCreates(store, is_required=settings.job_store_required)
    finally:
        await store.aclose()


class SharedCreates:
    """Creates jobs that no other host creates at the same time.

    :param is_required: whether no job is created while the store is away
    :ivar store: the memory that the hosts share
    """

    def __init__(self, store: JobStore, *, is_required: bool) -> None:
        self.store = store
        self._is_required = is_required

    def asked_for(self, resource_meta: bytes) -> None:
        """Note that a client knows this job, on whatever host it was created."""
        self.store.asked_for(resource_meta)

    async def obtain(self, wanted: WantedJob, start: Start, lost_here: Callable[[], Awaitable[bytes | None]]) -> bytes:
        """Return the job's `resource_meta`: of the job that another host has created, of an earlier attempt, or new.

        :param start: of the new job; its `record` is set
        :param lost_here: returns the job of an earlier attempt that this host knows of
        :raises RequestError: nobody may create the job now
        :raises BaseException: what creating it has raised
        """
        try:
            claim, earlier = await self._claim(wanted)
        except JobStoreAwayError as error:
            self._refuse_if_required(wanted, error)
            return await self._create_alone(wanted, start, lost_here)
        if isinstance(claim, Answered):
            return claim.meta
        try:
            return await self._create(wanted, start, claim, earlier, lost_here)
        except BaseException as error:
            # an error is the connector's word that there is no job; where it was stopped, there may be one
            self.store.give_up(claim, in_doubt=start.began is not None and is_cancellation(error))
            raise

    async def _claim(self, wanted: WantedJob) -> tuple[Claim | Answered, list[Earlier]]:
        """Return the claim, or the answer of another host, for which this waits.

        :raises RequestError: the job is in doubt, or its host cannot be heard of any more
        :raises JobStoreAwayError: the store is away
        """
        pauses = Backoff(0.02, factor=1.6, maximum=0.5)
        has_waited = False
        while True:
            try:
                found, earlier = await self.store.claim(
                    wanted.identity,
                    retakes=not wanted.at_most_once,
                    with_earlier=wanted.adopts or wanted.at_most_once,
                )
            except JobStoreAwayError as error:
                if has_waited:
                    _unavailable(f"another host was creating this job when the job store was lost ({error})")
                raise
            match found:
                case Held(seconds):
                    has_waited = True
                    await anyio.sleep(min(pauses.next(), seconds))
                case InDoubt(begun):
                    self._refuse_doubtful(wanted, begun)
                case Answered():
                    wanted.count(Origin.JOINED if has_waited else Origin.REPLAYED)
                    return found, earlier
                case Claim():
                    return found, earlier

    async def _create(
        self,
        wanted: WantedJob,
        start: Start,
        claim: Claim,
        earlier: list[Earlier],
        lost_here: Callable[[], Awaitable[bytes | None]],
    ) -> bytes:
        under = claim.begun
        if under is None:
            meta, under = await self._from_earlier(wanted, claim, earlier)
            if meta is None and wanted.adopts and not earlier:
                meta = await lost_here()
                if meta is not None:
                    meta = await self.store.finish(claim, meta, "adopted")
            if meta is not None:
                wanted.count(Origin.ADOPTED)
                return meta
        else:
            self._doubt(wanted, under)
        start.record = _Begin(self.store, claim, under, lambda error: self._refuse_if_required(wanted, error))
        wanted.count(Origin.FRESH)
        meta = await wanted.create(under, start)
        official = await self.store.finish(claim, meta, "fresh")
        if official == meta:
            return meta
        if wanted.is_idempotent:  # both hosts have found the same job
            return official or meta
        logger.error(
            "a job exists twice: this host was stopped while it created the job, and another one took over; delete this"
            " one in the other system",
            key=wanted.identity.key,
            resource_meta=meta[:_LONGEST_SHOWN].decode(errors="replace"),
        )
        if official is None:
            _unavailable("another host has taken over the creation of this job")
        return official

    async def _from_earlier(self, wanted: WantedJob, claim: Claim, earlier: list[Earlier]) -> tuple[bytes | None, str]:
        """Return the job of an earlier attempt that serves this one; or None, and the key under which to create one.

        :raises RequestError: an earlier attempt is in doubt, and the connector is `at_most_once`
        """
        own = wanted.identity.key
        pauses = Backoff(0.02, factor=1.6, maximum=0.5)
        while True:
            for each in earlier:
                if each.meta is not None:
                    return await self._lost_job(wanted, claim, each), own
                if each.seconds > 0 or (each.begun is None and not await self._withdraw(each)):
                    break  # its client has given up, and the job may be there soon
                if each.begun is None:
                    continue
                if wanted.at_most_once:
                    self._refuse_doubtful(wanted, each.begun)
                self._doubt(wanted, each.begun)
                if wanted.is_idempotent:
                    return None, each.begun
            else:
                return None, own
            await anyio.sleep(pauses.next())
            earlier = await self._ask(wanted)

    async def _withdraw(self, earlier: Earlier) -> bool:
        """Take the claim of an earlier attempt away, whose host is gone or frozen; return False if it goes on."""
        try:
            return await self.store.withdraw(earlier.key)
        except JobStoreAwayError as error:
            _unavailable(f"an earlier attempt of the task may go on, but the job store was lost ({error})")

    async def _ask(self, wanted: WantedJob) -> list[Earlier]:
        try:
            return await self.store.earlier_attempts(wanted.identity)
        except JobStoreAwayError as error:
            _unavailable(f"another host was creating the task's earlier attempt when the job store was lost ({error})")

    async def _lost_job(self, wanted: WantedJob, claim: Claim, earlier: Earlier) -> bytes | None:
        if not wanted.adopts or earlier.asked or earlier.meta is None or not await wanted.is_alive(earlier.meta):
            return None
        try:
            meta = await self.store.adopt(claim, earlier.key)
        except JobStoreAwayError as error:
            _unavailable(f"an earlier attempt's job serves this one, but the job store was lost ({error})")
        if meta is not None:
            logger.warning(
                "the answer to an earlier attempt was lost; its job serves this one",
                key=wanted.identity.key,
                earlier_key=earlier.key,
            )
        return meta

    async def _create_alone(
        self, wanted: WantedJob, start: Start, lost_here: Callable[[], Awaitable[bytes | None]]
    ) -> bytes:
        """Create the job by this host's memory alone; the store is told when it is back."""
        meta = await lost_here() if wanted.adopts else None
        if meta is None:
            wanted.count(Origin.FRESH)
            meta = await wanted.create(wanted.identity.key, start)
        else:
            wanted.count(Origin.ADOPTED)
        self.store.record(wanted.identity, meta)
        return meta

    def _refuse_if_required(self, wanted: WantedJob, error: JobStoreAwayError) -> None:
        if self._is_required or wanted.at_most_once:
            why = "job_store_required is set" if self._is_required else "this connector is at_most_once"
            _unavailable(f"the job store does not answer ({error}), and {why}; nothing was created")

    def _doubt(self, wanted: WantedJob, begun: str) -> None:
        """Note that a job is created again of which nobody knows whether it exists."""
        self.store.doubts[wanted.task_type] += 1
        if wanted.is_idempotent:
            logger.warning(
                "a host ended while it created a job; the other system is asked again under the same key",
                key=wanted.identity.key,
                earlier_key=begun,
            )
        else:
            logger.warning(
                "a host ended while it created a job; it is created again, and may exist twice in the other system",
                key=wanted.identity.key,
                earlier_key=begun,
            )

    def _refuse_doubtful(self, wanted: WantedJob, begun: str) -> NoReturn:
        self.store.doubts[wanted.task_type] += 1
        raise RequestError(
            f"a host has ended while it created this job, under the key {begun}, and whether the job exists is not"
            " known. The connector is at_most_once, so it is not created again as long as this is remembered"
            " (create_memory); look for the key in the other system",
            Status.FAILED_PRECONDITION,
        )


# bytes of a resource_meta in the log
_LONGEST_SHOWN = 500


class _Begin:
    """Writes down, once, that the connector's code begins."""

    def __init__(self, store: JobStore, claim: Claim, under: str, refuse: Callable[[JobStoreAwayError], None]) -> None:
        self.store = store
        self._claim = claim
        self._under = under
        self._refuse = refuse
        self._is_done = False

    async def __call__(self) -> None:
        """Write it down, unless that was done before: a `create` may be tried again.

        :raises RequestError: the connector's code must not begin
        """
        if self._is_done:
            return
        try:
            if not await self.store.begin(self._claim, self._under):
                _unavailable(
                    "this host was stopped for longer than its lease (job_lease), and another one may create the job"
                )
        except JobStoreAwayError as error:
            self._refuse(error)
        self._is_done = True


def _unavailable(why: str) -> NoReturn:
    raise RequestError(f"{why}; try again", Status.UNAVAILABLE)
