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

import asyncio  # noqa: TID251 - the loops that hosted code runs on; the host's own may be trio's
import os
import selectors
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from connectrio.flyte._calls import PATIENCE, Call, Emit, resolve
from connectrio.logs import get_logger

__all__ = ["LoopPool", "LoopThread"]

logger = get_logger("connectrio.flyte")

# seconds; for tasks that are cancelled because their loop closes
_UNWIND_TIMEOUT = 1.0


class LoopThread:
    """An event loop, running in a thread of its own from the start until `stop`.

    :param name: of the thread, and the beginning of the names of its executor's threads
    :param workers: how many threads its default executor may have: what hosted code uses to avoid blocking
    :ivar is_taken: whether it has a call, or is about to get one; only of further loops
    """

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.is_taken = False
        self._selector = _WatchedSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self._executor = ThreadPoolExecutor(max(workers, (os.cpu_count() or 1) + 4), thread_name_prefix=name)
        self.loop.set_default_executor(self._executor)
        self._stopped: asyncio.Future[None] = self.loop.create_future()
        # a daemon: a step that blocks for ever must not keep the process from ending
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def busy_for(self) -> float:
        """For how many seconds the loop has not looked for anything new to do."""
        since = self._selector.busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def position(self) -> str:
        """Where the thread is in its code: "get in connector.py:7"; "" if it has ended."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - documented, for just this
        if frame is None:
            return ""
        return f"{frame.f_code.co_name} in {frame.f_code.co_filename}:{frame.f_lineno}"

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call `function` in the loop's thread; not if the loop has closed."""
        with suppress(RuntimeError):  # what asyncio raises for a closed loop, and nothing else here
            self.loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        """Cancel what runs on the loop, and end the thread once that has ended. Returns at once."""
        self.call_soon(partial(resolve, self._stopped))

    def join(self) -> None:
        """Wait until the threads have ended, those of the executor included. It blocks."""
        self._thread.join()
        self._executor.shutdown(wait=True)

    def _run(self) -> None:
        try:
            self._run_until_stopped()
            self.loop.run_until_complete(self._unwind())
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self.loop.close()

    def _run_until_stopped(self) -> None:
        while not self._stopped.done():
            try:
                self.loop.run_until_complete(self._stopped)
            except (SystemExit, KeyboardInterrupt) as error:
                # from a task that hosted code has started: asyncio lets these two end the loop, and all other calls
                logger.warning("a hosted task tried to end the process", loop=self.name, exc_info=error)

    async def _unwind(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_UNWIND_TIMEOUT)
        await self.loop.shutdown_asyncgens()


class _WatchedSelector(selectors.DefaultSelector):
    """Knows since when its loop has been running callbacks.

    :ivar busy_since: by `time.monotonic`; None while the loop waits
    """

    busy_since: float | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.busy_since = None
        try:
            return super().select(timeout)
        finally:
            self.busy_since = time.monotonic()


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
