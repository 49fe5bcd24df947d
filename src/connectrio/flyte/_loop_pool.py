"""Asyncio event loops in threads of their own, for code that may block them.

Connectors for flyte-sdk were written for one asyncio event loop that they share with nobody they know of. Two things
follow, and they pull apart. Some of them block: they call a synchronous client from `async def`, and all else on that
loop waits. And some of them keep what belongs to the loop that it was made on, from one call to the next: a lock, an
HTTP session, a cache of `async_lru`, which forgets all it has when it is used from another loop (older versions raise).
The first wants many loops, the second wants one. So there is a *pool* of loops for each package of connectors, and:

- Calls run on the pool's *home* loop, all of them, as they would in flyte-sdk's own host. Connectors that never block
  see no other loop, whatever they keep.
- Only while a step of a coroutine keeps the home loop for longer than `PATIENCE`, the calls that it has not begun go to
  *further* loops, one call each at a time, and as many loops as the host has `worker` threads for plain functions.
- Not if the package keeps something that is bound to a loop (`affinity.py` looks for that first), nor ever again once a
  call on a further loop has failed because of the loop. Such a pool stays at home: its calls wait for each other, as
  they always did, and nobody else's do.

What we do not do is hand one loop from a blocked thread to another one, as Go's scheduler does: until Python 3.14
asyncio has one current task per loop, so that two threads at once in the tasks of one loop mistake each other's.

A pool knows nothing of flyte; asyncio it needs, because that is what hosted code is written for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from connectrio.flyte._calls import PATIENCE, Call, Emit
from connectrio.flyte._loop_thread import LoopThread
from connectrio.logs import get_logger

__all__ = ["LoopPool"]

logger = get_logger("connectrio.flyte")


class LoopPool:
    """The loops that one package of hosted connectors runs on; see the module's docstring.

    :param name: of the package
    :param limit: how many further loops there may be
    :param bound_state: names something of the package's that is bound to a loop, or returns None
    :param patience: see `PATIENCE`
    """

    def __init__(
        self, name: str, limit: int, bound_state: Callable[[], str | None], *, patience: float = PATIENCE
    ) -> None:
        self.name = name
        self._limit = limit
        self._patience = patience
        self._bound_state = bound_state
        self._lock = threading.Lock()
        self._pending: deque[Call[Any]] = deque()
        self._home = LoopThread(f"{name} (home)", limit)
        self._further: list[LoopThread] = []
        self._home_takes = False
        # how many further loops have been asked to take a call, and have not looked yet
        self._asked = 0
        self._overflows = False
        self._stays_home = False

    @property
    def loops(self) -> int:
        """How many loops there are."""
        return 1 + len(self._further)

    async def run(self, function: Callable[[], Coroutine[Any, Any, Any]], *, name: str) -> Any:
        """Await `function()` on one of the loops, with the caller's context variables.

        Cancelled, this cancels that coroutine, and waits a moment for its end.

        :param name: what runs, for the log
        :raises BaseException: whatever the coroutine raises
        """
        call = self.start(lambda _: function(), name=name)
        try:
            await call.wait()
        except BaseException:
            await call.cancel()
            raise
        return call.result()

    def start(self, function: Callable[[Emit], Coroutine[Any, Any, Any]], *, name: str) -> Call[Any]:
        """Begin `function(emit)` on one of the loops, as soon as one has time. Whoever starts a call sees to its end.

        :param function: what it awaits `emit(item)` with is what the call's `items` yields
        """
        call = Call(function, name, self)
        with self._lock:
            self._pending.append(call)
            wake_home, self._home_takes = not self._home_takes, True
        if wake_home:
            self._home.call_soon(self._take_at_home)
        return call

    def withdraw(self, call: Call[Any]) -> bool:
        """Whether `call` had not been begun; it will not be."""
        with self._lock:
            try:
                self._pending.remove(call)
            except ValueError:
                return False
            return True

    def relieve_home(self) -> None:
        """Let a further loop take a call if the home loop is blocked. For calls that have waited for `PATIENCE`."""
        with self._lock:
            if len(self._pending) <= self._asked or self._stays_home:
                return
            if not self._overflows and (self._home.busy_for < self._patience or self._find_bound_state()):
                return
            self._overflows = True
            thread = self._idle_thread()
        if thread is not None:
            thread.call_soon(lambda: self._take_elsewhere(thread, was_asked=True))

    def loop_mattered(self, error: BaseException) -> None:
        """A call on a further loop has failed, because of the loop."""
        if not self._stays_home:
            self._stays_home = True
            logger.warning(
                "a hosted connector needs one and the same event loop; its calls will share one from now on",
                package=self.name,
                error=str(error),
            )

    def stop(self) -> list[LoopThread]:
        """Stop all loops; their threads. Returns at once, and no call is begun any more."""
        with self._lock:
            pending, self._pending = self._pending, deque()
            threads = [self._home, *self._further]
        for call in pending:
            call.refuse(f"the event loop of {self.name} has closed")
        for thread in threads:
            thread.stop()
        return threads

    def _find_bound_state(self) -> bool:
        state = self._bound_state()
        if state is None:
            return False
        self._stays_home = True
        logger.info(
            "a hosted connector blocks its event loop, and has state that belongs to this loop: its calls wait for"
            " each other",
            package=self.name,
            state=state,
            position=self._home.position(),
        )
        return True

    def _idle_thread(self) -> LoopThread | None:
        thread = next((found for found in self._further if not found.is_taken), None)
        if thread is None and len(self._further) < self._limit:
            thread = LoopThread(f"{self.name} ({self.loops + 1})", self._limit)
            self._further.append(thread)
        if thread is not None:
            thread.is_taken = True
            self._asked += 1
        return thread

    def _next(self) -> Call[Any] | None:
        """The call that has waited the longest. Needs the lock."""
        if self._pending:
            return self._pending.popleft()
        self._overflows = False
        return None

    def _take_at_home(self) -> None:
        """Begin one call, and come back after its first step: a call that has not been begun can still go elsewhere."""
        with self._lock:
            call = self._next()
            self._home_takes = call is not None
        if call is not None:
            call.begin(self._home)
            self._home.call_soon(self._take_at_home)

    def _take_elsewhere(self, thread: LoopThread, *, was_asked: bool = False) -> None:
        with self._lock:
            self._asked -= was_asked
            call = self._next()
            thread.is_taken = call is not None
        if call is not None:
            call.begin(thread, then=lambda: self._take_elsewhere(thread))
