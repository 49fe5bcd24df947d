"""The secrets of the jobs that this host was asked for lately, to keep them out of logs and metrics of these jobs.

Flyte sends secrets with CreateTask, GetTask and DeleteTask only. What a connector reports for GetTaskLogs and
GetTaskMetrics, and its errors there, can hold them nevertheless: a job may have printed its environment.
"""

from __future__ import annotations

from collections import OrderedDict

from connectrio.masking import SecretMask
from connectrio.telemetry.jobs import JobName

__all__ = ["JobSecrets"]

_MOST_JOBS = 4096
_MOST_CHARACTERS = 2 * 1024 * 1024


class JobSecrets:
    """Remembers the masks of jobs; forgets the ones that were used least lately."""

    def __init__(self) -> None:
        self._masks: OrderedDict[JobName, SecretMask] = OrderedDict()
        self._characters = 0

    def __len__(self) -> int:
        return len(self._masks)

    def remember(self, job: JobName, mask: SecretMask) -> None:
        """Keep the secrets of a job, in place of those that it had before."""
        before = self._masks.pop(job, None)
        self._characters += mask.size - (0 if before is None else before.size)
        self._masks[job] = mask
        while len(self._masks) > _MOST_JOBS or self._characters > _MOST_CHARACTERS:
            _, forgotten = self._masks.popitem(last=False)
            self._characters -= forgotten.size

    def find(self, job: JobName) -> SecretMask | None:
        """Return what finds the secrets of a job; None if it has none, or this host does not know them."""
        return self._masks.get(job)
