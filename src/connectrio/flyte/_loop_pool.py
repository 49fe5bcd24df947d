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

import asyncio  # noqa: TID251 - hosted code needs asyncio; the host that waits for it uses anyio
import re
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from importlib import import_module
from types import TracebackType
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from connectrio.connector.context import begin_work, pending_start
from connectrio.connector.failures import TransientError
from connectrio.diagnostics import continue_traceback, text_of
from connectrio.flyte._loop_thread import LoopThread, resolve
from connectrio.logs import get_logger
from connectrio.telemetry.stacks import follow, frames_of

__all__ = ["Call", "Emit", "LoopPool"]

logger = get_logger("connectrio.flyte")

T = TypeVar("T")

Emit = Callable[[Any], Coroutine[Any, Any, None]]
"""Passes an item to the host, and waits until the host asks for the next one."""

PATIENCE = 0.03
"""Seconds for which one step may block the home loop before waiting calls go to other loops. A step that only computes
takes a few milliseconds; ten times that is still far less than a call to another system."""

# seconds; a cancelled call keeps its place until the hosted coroutine has ended, but not for longer than this
_CANCEL_TIMEOUT = 2.0
# the errors of asyncio, async_lru and others for an object that is used on a loop other than its own
_WRONG_LOOP = re.compile(r"(different|another|other|across)( event)? loops?\b|bound to a different")


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

        When this is cancelled, it cancels that coroutine and waits for it, for two seconds at most. A call that creates
        a job does not begin any more when it is cancelled or too late, and is the host's to shield once it has begun.

        :param name: the name of the method, for the log
        :raises TransientError: it creates a job, and it is too late for that
        :raises BaseException: the error of the coroutine
        """
        call = self.start(lambda _: function(), name=name)
        try:
            await call.wait_for_turn()
        except BaseException:
            if self.withdraw(call):
                raise
            if not begin_work():
                await call.cancel()
                raise
        begin_work()
        try:
            await call.wait()
        except BaseException as error:
            await call.cancel()
            call.explain(error)
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
                error=text_of(error),
            )

    def stop(self) -> list[LoopThread]:
        """Stop all loops and refuse the calls that have not begun. Return their threads, without waiting for them."""
        with self._lock:
            pending, self._pending = self._pending, deque()
            threads = [self._home, *self._further]
        for call in pending:
            call.refuse(RuntimeError(f"the event loop of {self.name} has closed"))
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
            object=state,
            where=self._home.position(),
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


class Call(Generic[T]):
    """One coroutine of hosted code.

    It is created in a task of the host. That task alone uses the public methods, except `begin` and `refuse`, which are
    for the pool.

    :param function: makes the coroutine; `items` yields what it emits
    :param name: the name of the method, for the log
    """

    def __init__(self, function: Callable[[Emit], Coroutine[Any, Any, T]], name: str, pool: LoopPool) -> None:
        self._function = function
        self._name = name
        self._pool = pool
        self._context = _for_asyncio(copy_context())
        self._start = pending_start()
        self._wake = _waker(current_token())
        self._changed = anyio.Event()
        self._ended = False
        self._is_cancelled = False
        self._items: deque[tuple[Any, asyncio.Future[None]]] = deque()
        # set by the hosted loop's thread
        self._thread: LoopThread | None = None
        self._task: asyncio.Task[None] | None = None
        self._value: T
        self._error: BaseException | None = None

    # the host's part

    async def wait_for_turn(self) -> None:
        """Wait until the coroutine has begun, or was refused."""
        while self._thread is None and not self._ended:
            with anyio.move_on_after(PATIENCE):
                await self._changed.wait()
            if not self._ended:
                self._pool.relieve_home()

    async def wait(self) -> None:
        """Wait until the coroutine has ended."""
        await self.wait_for_turn()
        while not self._ended:
            await self._wait_for_change()

    def result(self) -> T:
        """Return what the coroutine has returned, or raise its error. It must have ended."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # breaks the cycle of the error and this frame
        return self._value

    async def items(self) -> AsyncGenerator[Any, None]:
        """Yield what the coroutine emits, until it ends.

        :raises BaseException: the error of the coroutine
        """
        await self.wait_for_turn()
        while True:
            while self._items:
                item, taken = self._items.popleft()
                yield item
                if self._thread is not None:
                    self._thread.call_soon(partial(resolve, taken))
            if self._ended:
                break
            await self._wait_for_change()
        self.result()

    async def cancel(self) -> None:
        """Cancel the coroutine and wait until it has ended, for two seconds at most.

        :raises BaseException: the error of the coroutine, unless that is the cancellation
        """
        if self._ended or self._pool.withdraw(self):
            return
        self._is_cancelled = True
        if self._thread is not None:
            self._thread.call_soon(self._cancel_task)
        with anyio.move_on_after(_CANCEL_TIMEOUT, shield=True) as scope:
            await self.wait()
        if scope.cancelled_caught:
            logger.warning(
                "a hosted call was cancelled and goes on",
                method=self._name,
                where=self._thread.position() if self._thread is not None else "",
            )
        elif self._error is not None and not isinstance(self._error, asyncio.CancelledError):
            self.result()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed = anyio.Event()

    def _end(self) -> None:
        self._ended = True
        self._changed.set()

    def _offer(self, item: Any, taken: asyncio.Future[None]) -> None:
        self._items.append((item, taken))
        self._changed.set()

    def where(self) -> Any:
        """Return the coroutine on the hosted loop, or the frames of the thread if it is not suspended; None before it
        begins. For those who show where it waits."""
        task, thread = self._task, self._thread
        if task is None or thread is None:
            return None
        coroutine: Any = task.get_coro()
        return thread.frames() if coroutine is not None and coroutine.cr_running else coroutine

    def explain(self, error: BaseException) -> None:
        """Let the traceback of the error that has cancelled this call go on where the hosted coroutine was then."""
        places: TracebackType | None = None
        if self._error is not None:
            places = self._error.__traceback__
        elif (where := self.where()) is not None and not self._ended:
            frames = where if isinstance(where, list) else list(frames_of(where))
            for frame in reversed(frames):
                places = TracebackType(places, frame, frame.f_lasti, frame.f_lineno or 0)
        continue_traceback(error, places)

    # the hosted loop's part

    def begin(self, thread: LoopThread, then: Callable[[], None] | None = None) -> None:
        """Run the coroutine on the loop of `thread`. Must be called in that thread.

        :param then: called when the coroutine has ended; only for calls that are not on the home loop
        """
        if self._start is not None:
            try:
                self._start.check()
            except TransientError as error:
                self.refuse(error)
                if then is not None:
                    then()
                return
            self._start.began = time.monotonic()
        self._thread = thread
        self._task = thread.loop.create_task(self._run(), name=self._name, context=self._context)
        self._task.add_done_callback(partial(self._finish, then))
        if self._is_cancelled:  # before it reached this loop
            self._task.cancel()

    def refuse(self, error: Exception) -> None:
        """End a call that has not begun with `error`. May be called in any thread."""
        self._error = error
        with suppress(RuntimeError):  # as in _finish
            self._wake(self._end)

    async def _emit(self, item: Any) -> None:
        taken = asyncio.get_running_loop().create_future()
        self._wake(partial(self._offer, item, taken))
        await taken

    async def _run(self) -> None:
        try:
            self._value = await self._function(self._emit)
        except BaseException as error:  # noqa: BLE001 - raised again by `result`, in the task that waits for it
            self._error = error

    def _finish(self, then: Callable[[], None] | None, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step
            self._error = asyncio.CancelledError()
        if then is not None:
            if isinstance(self._error, RuntimeError) and _WRONG_LOOP.search(text_of(self._error)):
                self._pool.loop_mattered(self._error)
            then()
        with suppress(RuntimeError):  # the host's loop has closed, and nothing waits any more
            self._wake(self._end)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _waker(token: EventLoopToken) -> Callable[[Callable[[], object]], object]:
    """Return a function that schedules another one on the host's loop, from any thread, without waiting for it.

    `anyio.from_thread` waits, so a busy host would block the hosted loop.
    """
    native: Any = token.native_token
    wake: Callable[[Callable[[], object]], object] = (
        native.call_soon_threadsafe if hasattr(native, "call_soon_threadsafe") else native.run_sync_soon
    )
    return wake


def _for_asyncio(context: Context) -> Context:
    """Set sniffio's library to asyncio in `context`, where a host on trio has set it to trio. Return `context`."""
    with suppress(ModuleNotFoundError):  # trio depends on sniffio; without sniffio nothing reads it
        context.run(import_module("sniffio").current_async_library_cvar.set, "asyncio")
    return context


for _waits in (Call.wait, Call.items):
    follow(_waits.__code__, lambda frame: frame.f_locals["self"].where())
