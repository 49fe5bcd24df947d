"""Pools of asyncio event loops in threads of their own, for code that may block them.

Connectors for flyte-sdk were written for a single asyncio event loop. Some of them block: their `async def` calls a
synchronous client, and everything else on that loop waits. Some keep objects of one loop from one call to the next: a
lock, an HTTP session, a cache of `async_lru`, which drops its content when it is used from another loop (older versions
raise). The first need many loops, the second need one. So each package of connectors has a *pool* of loops:

- Calls run on the pool's *home* loop, as in flyte-sdk's own host. Connectors that never block see no other loop.
- While a step of a coroutine blocks the home loop for longer than `PATIENCE`, calls that have not begun go to *further*
  loops, one call on each at a time. There are at most as many as the host has `worker` threads for plain functions.
- Calls stay at home if the package keeps something that is bound to a loop (`affinity.py` looks for that first), and
  for good once a call on a further loop has failed because of the loop. Then calls of the package wait for each other,
  but other packages do not wait for them.

A blocked loop is not handed to another thread, as Go's scheduler does: until Python 3.14 asyncio has one current task
per loop, and two threads in the tasks of one loop would get each other's.

A pool knows nothing of flyte. It uses asyncio, because hosted code does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio import to_thread

from connectrio.flyte._calls import PATIENCE, Call, Emit
from connectrio.flyte._loop_thread import LoopThread
from connectrio.flyte.affinity import loop_bound_state
from connectrio.logs import get_logger

__all__ = ["LoopPool", "LoopPools"]

logger = get_logger("connectrio.flyte")

# seconds; less than a host gives a lifespan to close. A thread that blocks longer cannot be stopped, and is abandoned
_CLOSE_TIMEOUT = 5.0


class LoopPool:
    """The loops for one package of hosted connectors; see the module's docstring.

    :param name: the name of the package
    :param limit: the most further loops
    :param bound_state: returns the name of something in the package that is bound to a loop, or None
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
        # the number of further loops that were asked to take a call and have not yet tried
        self._asked = 0
        self._overflows = False
        self._stays_home = False

    @property
    def loops(self) -> int:
        """The number of loops."""
        return 1 + len(self._further)

    async def run(self, function: Callable[[], Coroutine[Any, Any, Any]], *, name: str) -> Any:
        """Await `function()` on one of the loops, with the caller's context variables.

        When this is cancelled, it cancels that coroutine and waits for it, for two seconds at most.

        :param name: the name of the method, for the log
        :raises BaseException: the error of the coroutine
        """
        call = self.start(lambda _: function(), name=name)
        try:
            await call.wait()
        except BaseException:
            await call.cancel()
            raise
        return call.result()

    def start(self, function: Callable[[Emit], Coroutine[Any, Any, Any]], *, name: str) -> Call[Any]:
        """Begin `function(emit)` on one of the loops as soon as one is free. The caller must wait for it or cancel it.

        :param function: each item that it passes to `emit` is one of the call's `items`
        """
        call = Call(function, name, self)
        with self._lock:
            self._pending.append(call)
            wake_home, self._home_takes = not self._home_takes, True
        if wake_home:
            self._home.call_soon(self._take_at_home)
        return call

    def withdraw(self, call: Call[Any]) -> bool:
        """Remove `call` from the queue. Return whether it was there; if not, it has begun."""
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
        """Keep all further calls at home: a call on a further loop has failed because of the loop."""
        if not self._stays_home:
            self._stays_home = True
            logger.warning(
                "a hosted connector needs one and the same event loop; its calls will share one from now on",
                package=self.name,
                error=str(error),
            )

    def stop(self) -> list[LoopThread]:
        """Stop all loops and refuse the calls that have not begun. Return their threads, without waiting for them."""
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
        """Return the call that has waited the longest. The caller holds the lock."""
        if self._pending:
            return self._pending.popleft()
        self._overflows = False
        return None

    def _take_at_home(self) -> None:
        """Begin one call, and the next one after its first step: a call that has not begun can still go elsewhere."""
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


@dataclass
class _Open:
    """A pool, and the connectors whose lifespans keep it open; one connector may be in several hosts of a process."""

    pool: LoopPool
    connectors: list[object] = field(default_factory=list)


class LoopPools:
    """The open pools, by package."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()

    def get(self, package: str) -> LoopPool:
        """Return the open pool of a package.

        :raises RuntimeError: it is not open
        """
        try:
            return self._open[package].pool
        except KeyError:
            raise RuntimeError(
                f"the hosted connectors of {package} have no event loop: call them within their lifespan()"
            ) from None

    @asynccontextmanager
    async def open(self, package: str, limit: int, connector: object) -> AsyncIterator[None]:
        """Keep the package's pool open. The last one to leave closes it, and waits for its threads, within bounds.

        :param limit: the most loops in addition to the home loop; an open pool keeps its limit
        """
        with self._lock:
            held = self._open.get(package)
            if held is None:
                connectors: list[object] = []
                pool = LoopPool(package, limit, partial(loop_bound_state, package, connectors))
                held = self._open[package] = _Open(pool, connectors)
            held.connectors.append(connector)
        try:
            yield
        finally:
            with self._lock:
                held.connectors.remove(connector)
                is_last = not held.connectors
                if is_last:
                    del self._open[package]
            if is_last:
                await _close(held.pool)


async def _close(pool: LoopPool) -> None:
    threads = pool.stop()

    def join() -> None:
        for thread in threads:
            thread.join()

    with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
        await to_thread.run_sync(join, abandon_on_cancel=True)
    for thread in threads:
        if thread.is_alive:
            logger.warning("a hosted connector's thread did not end", thread=thread.name, position=thread.position())
