"""One report for all who ask at once: to make it takes time of the event loop that answers calls."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from connectrio.telemetry.report import HostReport, StackReport

if TYPE_CHECKING:
    from connectrio.host.exporter import ExporterSource

__all__ = ["SharedReports"]

T = TypeVar("T")

# the next report is begun after this many times what the last one took, so that all take a quarter of the time at most
_IDLE_SHARE = 3
# seconds between two reports at most
_LONGEST_PAUSE = 5.0


class SharedReports:
    """What a host tells of itself. No answer is older than the request for it."""

    def __init__(self, source: ExporterSource) -> None:
        self._reports = _Shared(source.report)
        self._stacks = _Shared(source.stacks)

    async def report(self) -> HostReport:
        """Return what the status page and /api show."""
        return await self._reports.get()

    async def stacks(self) -> list[StackReport]:
        """Return where all tasks and threads are."""
        return await self._stacks.get()


class _Shared(Generic[T]):
    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._lock = anyio.Lock()
        self._made: T | None = None
        self._began = self._next = -math.inf

    async def get(self) -> T:
        """Return what is made after this was called, for all who wait for it."""
        asked = anyio.current_time()
        async with self._lock:
            if self._made is None or self._began < asked:
                await anyio.sleep_until(self._next)
                self._began = anyio.current_time()
                self._made = await self._make()
                took = anyio.current_time() - self._began
                self._next = anyio.current_time() + min(_IDLE_SHARE * took, _LONGEST_PAUSE)
            return self._made
