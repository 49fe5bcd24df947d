"""Tasks that failed for good while they were created.

There is no job, so the failure itself travels as the task's `resource_meta`: any host, also one that has restarted, and
another replica, can answer for it. The mark is a random number that no connector's encoding begins with by chance, and
`encode_resource_meta` refuses what begins with it on purpose.
"""

from __future__ import annotations

from connectrio.idl.flyteidl2 import connector as idl
from connectrio.idl.flyteidl2.core import TaskExecutionPhase
from connectrio.rpc.status import fit_status_message

__all__ = ["encode_failure", "failed_resource", "failure_in", "is_failure"]

_MARK = b"connectrio/permanent-failure/1/a9f0c4d2e37b4c58b1d6\n"


def encode_failure(message: str) -> bytes:
    """The `resource_meta` of a task that failed with `message`, which Flyte's executor logs."""
    return _MARK + fit_status_message(message).encode()


def is_failure(resource_meta: bytes) -> bool:
    """Whether `encode_failure` has made this."""
    return resource_meta.startswith(_MARK)


def failure_in(resource_meta: bytes) -> str:
    """What the task failed with."""
    return resource_meta[len(_MARK) :].decode("utf-8", "replace")


def failed_resource(message: str) -> idl.Resource:
    """The state of a job, or of none, that failed with `message`."""
    return idl.Resource(phase=TaskExecutionPhase.FAILED, message=message)
