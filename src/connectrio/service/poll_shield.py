"""Keeps errors that pass from Flyte's executor when it polls.

The executor counts the errors of GetTask over a task's whole life. After the sixth it gives the task up, or stops to
ask for it. So the host tries a failed poll again, then answers with the last phase that it knows, and lets the error
out only when that has gone on for too long.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from connectrio.connector.base import AsyncConnector
from connectrio.connector.policy import ConnectorPolicy
from connectrio.connector.retry_after import retry_after
from connectrio.connector.transient import is_one_of
from connectrio.diagnostics import type_name
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.logs import get_logger
from connectrio.rpc.backoff import Backoff
from connectrio.rpc.exceptions import only_leaf
from connectrio.service.errors import OutageError, OverloadError, RequestError, TimeLimitError
from connectrio.service.outputs import OutputStoreError
from connectrio.service.settings import ServiceSettings
from connectrio.telemetry.jobs import JobRecord

__all__ = ["PollShield", "is_transient"]

logger = get_logger("connectrio.service")

T = TypeVar("T")

# seconds between two attempts, at first and at most
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class PollShield:
    """Answers for polls that fail transiently, from what the account knows of the jobs.

    :param clock: the account's
    """

    def __init__(self, settings: ServiceSettings, clock: Callable[[], float]) -> None:
        self._retry = settings.poll_retry
        self._absorb = settings.poll_absorb
        self._clock = clock
        self._policies = settings.policies

    async def retrying(
        self, work: Callable[[], Awaitable[T]], connector: AsyncConnector[Any], retried: Callable[[Exception], None]
    ) -> T:
        """Do `work`, and again while it fails transiently, after pauses that double, or that the vendor asks for.

        It goes on for at most half of what is left until the call's deadline: the rest is for an attempt that takes its
        time, and for the answer.

        :param retried: called before each further attempt, with the error of the one before
        :raises Exception: the last error of `work`, when the time has passed or the error is not transient
        """
        try:
            return await work()
        except Exception as first_error:
            policy = self._policies.of(connector.task_type_name, connector.policy)
            if self._retry == 0 or not is_transient(connector, first_error, policy):
                raise
            error = first_error
        now = anyio.current_time()
        end = now + min(self._retry, (anyio.current_effective_deadline() - now) / 2)
        backoff = Backoff(_FIRST_PAUSE, factor=2, maximum=_LONGEST_PAUSE, jitter=0.5)
        while True:
            pause = max(backoff.next(), retry_after(error) or 0.0)
            if anyio.current_time() + pause > end:
                raise error
            await anyio.sleep(pause)
            retried(error)
            try:
                return await work()
            except Exception as next_error:
                if not is_transient(connector, next_error, policy):
                    raise
                error = next_error

    def absorbs(self, error: Exception, *, is_vendors: bool) -> bool:
        """Return whether a poll that failed with `error` may be answered with the last known phase.

        :param is_vendors: whether the system behind the connector is at fault
        """
        ours = OverloadError | OutageError | OutputStoreError | TimeLimitError
        return self._absorb > 0 and (is_vendors or issubclass(type(only_leaf(error)), ours))

    def answer(self, job: JobRecord, text: str) -> idl.Resource | None:
        """Return the answer in place of an error; None if polls for the job have failed for too long.

        :param text: about the error, for the client
        """
        if job.failing_since is not None and self._clock() - job.failing_since >= self._absorb:
            return None
        return self.last_known(job, f"the job's state could not be read, which will be tried again. {text}")

    def last_known(self, job: JobRecord, text: str) -> idl.Resource:
        """Return what is known of a job, with its age and `text`, which says why it is not newer.

        A job that this host knows nothing of, because it has restarted or other replicas were asked before, counts as
        RUNNING: `create` has returned its `resource_meta`, so it has begun, and every other phase can follow RUNNING.
        """
        is_known = job.polled is not None and not job.is_final  # the outputs of a job that is over are not known
        phase = job.phase if is_known else Phase.RUNNING
        seen = f"as of {self._clock() - (job.polled or 0):.0f} s ago" if is_known else "not seen by this host yet"
        return idl.Resource(phase=phase, message=f"{phase.name}, {seen}: {text}", log_links=job.links)


def is_transient(connector: AsyncConnector[Any], error: BaseException, policy: ConnectorPolicy) -> bool:
    """Return whether the connector or its policy says that `error` may pass."""
    error = only_leaf(error)
    if not isinstance(error, Exception) or issubclass(type(error), RequestError):
        return False  # the host's own word on a request, whatever it was raised from
    try:
        return bool(policy.transient and is_one_of(error, policy.transient)) or bool(connector.is_transient(error))
    except BaseException as failure:  # noqa: BLE001 - SystemExit as well, from the connector's code or its error's
        # neither the text of this error nor that of the poll's, which it follows: they may hold secrets
        logger.error(  # noqa: TRY400 - same
            "is_transient failed; the error counts as lasting",
            connector=connector.name,
            exception=f"{''.join(traceback.format_tb(failure.__traceback__))}{type_name(failure)}",
        )
        return False
