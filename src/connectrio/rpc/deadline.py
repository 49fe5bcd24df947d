"""Deadlines on the event loop's own clock."""

from __future__ import annotations

from typing import Self

import anyio
import grpclib.metadata


class Deadline(grpclib.metadata.Deadline):
    """A point in time by which a call must be done, as grpclib's.

    It is on the clock of the running event loop, so that it agrees with cancel scopes and with a test's virtual clock.
    """

    def __init__(self, *, _timestamp: float) -> None:
        super().__init__(_timestamp=_timestamp)
        self.at = _timestamp

    @classmethod
    def from_timeout(cls, timeout: float) -> Self:
        """Return the deadline `timeout` seconds from now."""
        return cls(_timestamp=anyio.current_time() + timeout)

    @classmethod
    def convert(cls, deadline: grpclib.metadata.Deadline) -> Deadline:
        """Return any deadline as one on this clock."""
        return deadline if isinstance(deadline, Deadline) else cls.from_timeout(deadline.time_remaining())

    def time_remaining(self) -> float:
        """Return the seconds left; 0 once it has passed."""
        return max(0.0, self.at - anyio.current_time())
