"""Long work on the event loop, in turns with the tasks that answer calls."""

from __future__ import annotations

import time

from anyio.lowlevel import checkpoint

__all__ = ["Turns"]

# seconds: what a call may wait for
_TURN = 0.001


class Turns:
    """Lets other tasks run as often as the work has taken a millisecond."""

    def __init__(self) -> None:
        self._end = time.perf_counter() + _TURN

    async def end(self) -> None:
        """End the turn if it has taken its time. Call this after each small piece of the work."""
        if time.perf_counter() >= self._end:
            await checkpoint()
            self._end = time.perf_counter() + _TURN
