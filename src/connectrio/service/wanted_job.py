"""A job that a client asks for, and where the answer may come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from connectrio.connector.context import Start
from connectrio.service.job_identity import JobIdentity

__all__ = ["Origin", "WantedJob"]


class Origin(StrEnum):
    """Where the answer to a CreateTask comes from."""

    FRESH = "fresh"
    JOINED = "joined"
    REPLAYED = "replayed"
    ADOPTED = "adopted"


@dataclass(frozen=True)
class WantedJob:
    """A job that a client asks for.

    :ivar task_type: for the log
    :ivar create: starts it under a key, tells the `Start` when the connector's code begins, and returns its
        `resource_meta`
    :ivar adopts: whether the job of an earlier attempt will do
    :ivar is_idempotent: whether `create` finds the job that exists under the key
    :ivar at_most_once: whether it is rather not created than perhaps twice
    :ivar is_alive: returns whether the job with this `resource_meta` has not failed
    :ivar limit: seconds that `create` may take
    :ivar count: told where the answer comes from
    :ivar orphaned: called with the `resource_meta` if no client waits for the job any more
    :ivar release: gives up what only `create` needs; called as soon as another request is sure to create the job
    """

    identity: JobIdentity
    task_type: str
    create: Callable[[str, Start], Awaitable[bytes]]
    adopts: bool
    is_idempotent: bool
    at_most_once: bool
    is_alive: Callable[[bytes], Awaitable[bool]]
    limit: float
    count: Callable[[Origin], None]
    orphaned: Callable[[bytes], None]
    release: Callable[[], None]
