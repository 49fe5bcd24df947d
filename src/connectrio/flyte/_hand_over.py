"""Between an event loop of a host and the threads that run hosted code: few wake-ups for many calls.

To wake the other side costs more than a call itself: a system call, and often a change of the thread that runs Python.
So the calls that a host starts in one turn of its loop are announced together, and those that end together are brought
back together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from anyio.lowlevel import EventLoopToken, RunVar, current_token

__all__ = ["HostLoop"]


class HostLoop:
    """An event loop of a host, for the hosted calls that its tasks wait for.

    `anyio.from_thread` waits, so a busy host would block the hosted loop. This never waits.

    :ivar calls: the number of hosted calls whose end the loop does not know yet. For the loop's own thread
    """

    def __init__(self, token: EventLoopToken) -> None:
        native: Any = token.native_token
        self._call_from_thread: Callable[[Callable[[], object]], object]
        self._call_soon: Callable[[Callable[[], object]], object]
        if hasattr(native, "call_soon_threadsafe"):
            self._call_from_thread, self._call_soon = native.call_soon_threadsafe, native.call_soon
        else:  # trio's
            self._call_from_thread = self._call_soon = native.run_sync_soon
        self._news: deque[Callable[[], object]] = deque()
        self._is_woken = False
        self.calls = 0

    @classmethod
    def current(cls) -> HostLoop:
        """Return the one of the running event loop."""
        loop = _current.get(None)
        if loop is None:
            loop = cls(current_token())
            _current.set(loop)
        return loop

    def after_this_turn(self, function: Callable[[], object]) -> None:
        """Call `function` when the tasks that are ready now have run. For the loop's own thread."""
        self._call_soon(function)

    def add(self, function: Callable[[], object]) -> None:
        """Let the loop call `function` once it is woken. May be called in any thread, as `wake`."""
        self._news.append(function)

    def wake(self) -> None:
        """Let the loop call what was added, soon. Do nothing if it has closed: nothing waits there any more."""
        if self._news and not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):
                self._call_from_thread(self._call_all)

    def _call_all(self) -> None:
        self._is_woken = False  # first: what is added from now on may wake the loop again
        while self._news:
            self._news.popleft()()


_current: RunVar[HostLoop | None] = RunVar("_current")
