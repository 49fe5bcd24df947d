"""What is answered to a poll that failed for reasons that pass.

Flyte's executor counts the errors of GetTask over a task's whole life, and gives the task up, or stops to ask for it,
after the sixth. So a host keeps them from it: it tries again, then answers with the last phase it knows, and lets the
error out only when that has gone on for too long.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from connectrio.connector.base import AsyncConnector, TaskLog
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase

__all__ = ["JobName", "Polls", "name_of"]

JobName = tuple[str, int, bytes]
"""Task type, its version, `resource_meta`."""

_FINAL = {Phase.SUCCEEDED, Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED}
# each keeps the bytes that find its job
_MOST_JOBS = 10_000


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


class Polls:
    """The last known phases of the jobs that this host was asked for.

    :param retry: seconds for which a failed poll is tried again; 0: it is not
    :param absorb: seconds for which failed polls are answered with the last known phase; 0: they are not
    :param clock: seconds since whenever
    """

    def __init__(self, *, retry: float, absorb: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.retry = retry
        self.absorb = absorb
        self._clock = clock
        self._jobs: OrderedDict[JobName, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._jobs)

    def succeeded(self, name: JobName, resource: idl.Resource) -> None:
        """A poll was answered with `resource`."""
        if self.absorb == 0:
            return
        if resource.phase in _FINAL:
            self._jobs.pop(name, None)
            return
        known = self._known(name)
        known.phase, known.links = resource.phase, resource.log_links
        known.seen, known.failing_since = self._clock(), None

    def failed(self, name: JobName, error: str) -> idl.Resource | None:
        """What to answer instead; None: polls have failed for too long.

        A job that this host knows nothing of, since it has restarted or other replicas were asked before, counts as
        RUNNING: `create` has returned its `resource_meta`, so it was begun, and from there each other phase can follow.
        """
        known = self._known(name)
        now = self._clock()
        if known.failing_since is None:
            known.failing_since = now
        if now - known.failing_since >= self.absorb:
            return None
        seen = "not seen by this host yet" if known.seen is None else f"as of {now - known.seen:.0f} s ago"
        message = f"{known.phase.name}, {seen}: the job's state could not be read, which will be tried again. {error}"
        return idl.Resource(phase=known.phase, message=message, log_links=known.links)

    def _known(self, name: JobName) -> _Known:
        known = self._jobs.get(name)
        if known is None:
            known = self._jobs[name] = _Known()
            if len(self._jobs) > _MOST_JOBS:
                self._jobs.popitem(last=False)
        else:
            self._jobs.move_to_end(name)
        return known


def name_of(connector: AsyncConnector[Any], resource_meta: bytes) -> JobName:
    """The job of `connector` that has this `resource_meta`."""
    return connector.task_type_name, connector.task_type_version, resource_meta
