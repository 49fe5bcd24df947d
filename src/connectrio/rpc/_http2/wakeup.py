"""Waking tasks from synchronous code."""

from __future__ import annotations

import anyio


class Wakeup:
    """Lets tasks sleep until synchronous code says that something has changed.

    It carries no state of its own: a waiter checks its condition, waits, and checks again. Because nothing awaits
    between the check and the wait, no wake-up is lost. The core calls `wake` without an event loop being there.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def wake(self) -> None:
        """Wake every task that waits now."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Sleep until the next `wake`. Cancelled here, nothing has changed."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
