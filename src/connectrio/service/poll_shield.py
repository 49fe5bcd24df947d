"""Keeps errors that pass from Flyte's executor when it polls.

The executor counts the errors of GetTask over a task's whole life. After the sixth it gives the task up, or stops to
ask for it. So the host tries a failed poll again, then answers with the last phase that it knows, and lets the error
out only when that has gone on for too long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from connectrio.connector.retry_after import retry_after
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.rpc.backoff import Backoff
from connectrio.rpc.exceptions import only_leaf
from connectrio.service.errors import OutageError, OverloadError, TimeLimitError
from connectrio.service.outputs import OutputStoreError
from connectrio.service.settings import ServiceSettings
from connectrio.service.vendor_gate import VendorGate
from connectrio.telemetry.jobs import JobRecord

__all__ = ["PollShield"]

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

    async def retrying(
        self, work: Callable[[], Awaitable[T]], gate: VendorGate, retried: Callable[[Exception], None]
    ) -> T:
        """Do `work`, and again while it fails transiently, after pauses that double, or that the vendor asks for.

        It goes on for at most half of what is left until the call's deadline: the rest is for an attempt that takes its
        time, and for the answer.

        :param gate: the connector's
        :param retried: called before each further attempt, with the error of the one before
        :raises Exception: the last error of `work`, when the time has passed or the error is not transient
        """
        try:
            return await work()
        except Exception as first_error:
            if self._retry == 0 or not gate.is_vendors(first_error):
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
                if not gate.is_vendors(next_error):
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
