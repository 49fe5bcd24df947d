"""Waking tasks from synchronous code."""

from __future__ import annotations

import anyio


class Wakeup:
    """Lets tasks wait until synchronous code says that something has changed.

    It holds no state of its own: a waiter checks its condition, waits, and checks again. Nothing awaits between the
    check and the wait, so no wake-up is lost. `wake` needs no event loop.
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
        """Wait until the next `wake`. Cancelled here, nothing has changed."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
