"""Keeps errors that pass from Flyte's executor when it polls.

The executor counts the errors of GetTask over a task's whole life. After the sixth it gives the task up, or stops to
ask for it. So the host tries a failed poll again, then answers with the last phase that it knows, and lets the error
out only when that has gone on for too long.
"""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from prometheus_client import Counter

from connectrio.connector.base import AsyncConnector, TaskLog
from connectrio.connector.phases import FINAL_PHASES
from connectrio.diagnostics import type_name
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.logs import get_logger
from connectrio.rpc.backoff import Backoff
from connectrio.rpc.exceptions import only_leaf
from connectrio.service.errors import OutageError, OverloadError, TimeLimitError
from connectrio.service.operations import JobName
from connectrio.service.outputs import OutputStoreError
from connectrio.service.settings import ServiceSettings

__all__ = ["PollShield", "is_transient"]

logger = get_logger("connectrio.service")

T = TypeVar("T")

_MOST_JOBS = 10_000
# log links that are kept of each job, and the characters in them
_MOST_LINKS = 20
_MOST_CHARACTERS = 4096

# seconds between two attempts, at first and at most
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


@dataclass(slots=True)
class _Known:
    """What a host knows of a job.

    :ivar phase: the last one that is not final
    :ivar seen: when; None: never
    :ivar failing_since: since when polls have failed, if the last one did
    """

    phase: Phase = Phase.RUNNING
    links: list[TaskLog] = field(default_factory=list)
    seen: float | None = None
    failing_since: float | None = None


class PollShield:
    """Answers for polls that fail transiently, from the last known phases of the jobs that this host was asked for.

    :param clock: returns seconds, from any start
    """

    def __init__(self, settings: ServiceSettings, clock: Callable[[], float]) -> None:
        self._retry = settings.poll_retry
        self._absorb = settings.poll_absorb
        self._clock = clock
        self._jobs: OrderedDict[JobName, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._jobs)

    async def retrying(self, work: Callable[[], Awaitable[T]], connector: AsyncConnector[Any], retries: Counter) -> T:
        """Do `work`, and again while it fails transiently, after pauses that double.

        It goes on for at most half of what is left until the call's deadline: the rest is for an attempt that takes its
        time, and for the answer.

        :param retries: counts the further attempts, by task type
        :raises Exception: the last error of `work`, when the time has passed or the error is not transient
        """
        try:
            return await work()
        except Exception as first_error:
            if self._retry == 0 or not is_transient(connector, first_error):
                raise
            error = first_error
        now = anyio.current_time()
        end = now + min(self._retry, (anyio.current_effective_deadline() - now) / 2)
        backoff = Backoff(_FIRST_PAUSE, factor=2, maximum=_LONGEST_PAUSE, jitter=0.5)
        while True:
            pause = backoff.next()
            if anyio.current_time() + pause > end:
                raise error
            await anyio.sleep(pause)
            retries.labels(connector.task_type_name).inc()
            try:
                return await work()
            except Exception as next_error:
                if not is_transient(connector, next_error):
                    raise
                error = next_error

    def succeeded(self, job: JobName, resource: idl.Resource) -> None:
        """Remember the answer to a poll."""
        if self._absorb == 0:
            return
        if resource.phase in FINAL_PHASES:
            self._jobs.pop(job, None)
            return
        known = self._known(job)
        known.phase, known.links = resource.phase, _kept(resource.log_links)
        known.seen, known.failing_since = self._clock(), None

    def failed(self, job: JobName, connector: AsyncConnector[Any], error: Exception, text: str) -> idl.Resource | None:
        """Return the answer in place of an error; None if the error is to come out.

        It is not kept back if it is not transient, or if polls for the job have failed for too long. A job that this
        host knows nothing of, because it has restarted or other replicas were asked before, counts as RUNNING: `create`
        has returned its `resource_meta`, so it has begun, and every other phase can follow RUNNING.

        :param text: about the error, for the client
        """
        ours = TimeLimitError | OverloadError | OutageError | OutputStoreError
        if not issubclass(type(only_leaf(error)), ours) and not is_transient(connector, error):
            return None
        known = self._known(job)
        now = self._clock()
        if known.failing_since is None:
            known.failing_since = now
        if now - known.failing_since >= self._absorb:
            return None
        seen = "not seen by this host yet" if known.seen is None else f"as of {now - known.seen:.0f} s ago"
        message = f"{known.phase.name}, {seen}: the job's state could not be read, which will be tried again. {text}"
        return idl.Resource(phase=known.phase, message=message, log_links=known.links)

    def _known(self, job: JobName) -> _Known:
        known = self._jobs.get(job)
        if known is None:
            known = self._jobs[job] = _Known()
            if len(self._jobs) > _MOST_JOBS:
                self._jobs.popitem(last=False)
        else:
            self._jobs.move_to_end(job)
        return known


def is_transient(connector: AsyncConnector[Any], error: BaseException) -> bool:
    """Return whether the connector says that `error` may pass."""
    error = only_leaf(error)
    try:
        return isinstance(error, Exception) and bool(connector.is_transient(error))
    except BaseException as failure:  # noqa: BLE001 - SystemExit as well, from the connector's code or its error's
        # neither the text of this error nor that of the poll's, which it follows: they may hold secrets
        logger.error(  # noqa: TRY400 - same
            "is_transient failed; the error counts as lasting",
            connector=connector.name,
            exception=f"{''.join(traceback.format_tb(failure.__traceback__))}{type_name(failure)}",
        )
        return False


def _kept(links: list[TaskLog]) -> list[TaskLog]:
    """Return the first links: at most `_MOST_LINKS`, with at most `_MOST_CHARACTERS` in their names and URIs."""
    kept = links[:_MOST_LINKS]
    while kept and sum(len(link.name) + len(link.uri) for link in kept) > _MOST_CHARACTERS:
        kept.pop()
    return kept
