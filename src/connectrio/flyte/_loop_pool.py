"""Pools of asyncio event loops in threads of their own, for code that may block them.

Connectors for flyte-sdk were written for a single asyncio event loop. Some of them block: their `async def` calls a
synchronous client, and everything else on that loop waits. Some keep objects of one loop from one call to the next: a
lock, an HTTP session, a cache of `async_lru`, which drops its content when it is used from another loop (older versions
raise). The first need many loops, the second need one. So each package of connectors has a *pool* of loops:

- Calls run on the pool's *home* loop, as in flyte-sdk's own host. Connectors that never block see no other loop.
- While a step of a coroutine blocks the home loop for longer than `PATIENCE`, calls that have not begun go to *further*
  loops, one call on each at a time. There are at most as many as the host has `worker` threads for plain functions.
- Only calls of methods that are proved to bear that leave (`_proof.py`): one has succeeded at home, and the package
  keeps nothing that is bound to a loop (`_loop_state.py`). Calls of other packages do not wait for each other.
- A call that fails on a further loop because of the loop begins again at home, unless it creates a job: perhaps the job
  exists. From then on all calls of the package stay at home.
- A future that is set from another thread does not wake the loop that waits for it. So while calls run on further
  loops, loops do not sleep for longer than `_LONGEST_SLEEP`: what waits across loops goes on.

A blocked loop is not handed to another thread, as Go's scheduler does: until Python 3.14 asyncio has one current task
per loop, and two threads in the tasks of one loop would get each other's.

A pool knows nothing of flyte. It uses asyncio, because hosted code does.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - hosted code needs asyncio; the host that waits for it uses anyio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from importlib import import_module
from types import TracebackType
from typing import Any, Generic, TypeVar

import anyio

from connectrio.connector.context import begin_work, pending_start
from connectrio.connector.failures import TransientError
from connectrio.diagnostics import continue_traceback, text_of
from connectrio.flyte._hand_over import HostLoop
from connectrio.flyte._loop_thread import LoopThread, resolve
from connectrio.flyte._proof import BoundState, Permission, Proof, comes_from_loop
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

# calls of one package that the home loop is woken for, even if every turn of the host's loop starts more
_MOST_TOGETHER = 64
# seconds; a cancelled call keeps its place until the hosted coroutine has ended, but not for longer than this
_CANCEL_TIMEOUT = 2.0
# seconds
_LONGEST_SLEEP = 0.1

try:
    _library: Any = import_module("sniffio").current_async_library_cvar
except ModuleNotFoundError:  # trio depends on sniffio; without sniffio nothing reads it
    _library = None


class LoopPool:
    """The loops for one package of hosted connectors; see the module's docstring.

    :param name: the name of the package
    :param limit: the most further loops
    :param bound_state: see `BoundState`
    :param says: returns whether the package says of itself that its calls may use any loop; None if it does not
    :param patience: see `PATIENCE`
    """

    def __init__(
        self,
        name: str,
        limit: int,
        bound_state: BoundState,
        says: Callable[[], bool | None] = lambda: None,
        *,
        patience: float = PATIENCE,
    ) -> None:
        self.name = name
        self._limit = limit
        self._patience = patience
        self._proof = Proof(bound_state, says)
        self._lock = threading.Lock()
        self._pending: deque[Call[Any]] = deque()
        self._home = LoopThread(f"{name} (home)", limit)
        self._further: list[LoopThread] = []
        self._home_takes = False
        # the calls since the home loop was woken the last time
        self._together = 0
        # the number of further loops that were asked to take a call and have not yet tried
        self._asked = 0
        self._overflows = False
        self._has_stopped = False
        # the host's loop that has news of calls that ended at home, and is not woken yet
        self._uninformed: HostLoop | None = None

    @property
    def loops(self) -> int:
        """The number of loops."""
        return 1 + len(self._further)

    async def run(self, function: Callable[[], Coroutine[Any, Any, Any]], *, name: str, repeatable: bool = True) -> Any:
        """Await `function()` on one of the loops, with the caller's context variables.

        When this is cancelled, it cancels that coroutine and waits for it, for two seconds at most. A call that creates
        a job does not begin any more when it is cancelled or too late, and is the host's to shield once it has begun.

        :param name: the name of the method, for the log
        :param repeatable: whether it may begin again after it has failed because of the loop
        :raises TransientError: it creates a job, and it is too late for that
        :raises BaseException: the error of the coroutine
        """
        call = self.start(lambda _: function(), name=name, repeatable=repeatable)
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

    def start(
        self, function: Callable[[Emit], Coroutine[Any, Any, Any]], *, name: str, repeatable: bool = True
    ) -> Call[Any]:
        """Begin `function(emit)` on one of the loops as soon as one is free. The caller must wait for it or cancel it.

        :param function: each item that it passes to `emit` is one of the call's `items`
        :param repeatable: as for `run`; a call that has emitted an item does not begin again
        """
        call = Call(function, name, self, repeatable=repeatable)
        with self._lock:
            self._pending.append(call)
            wake_home, self._home_takes = not self._home_takes, True
            came_together, self._together = self._together, 1 if wake_home else self._together + 1
        if wake_home and came_together <= 1 and call.host.calls == 1:
            self._home.call_soon(self._take_at_home)  # calls come one by one: this one would wait for nothing
        elif wake_home:
            call.host.after_this_turn(partial(self._wake_home, call.host, 1))
        return call

    def _wake_home(self, host: HostLoop, seen: int) -> None:
        """Let the home loop begin calls, once a turn of the host's loop has started no more of them.

        :param seen: the calls that waited a turn ago
        """
        waiting = len(self._pending)
        if seen < waiting < _MOST_TOGETHER:
            host.after_this_turn(partial(self._wake_home, host, waiting))
        else:
            self._home.call_soon(self._take_at_home)

    def begin_again(self, call: Call[Any]) -> bool:
        """Let a call that has failed on a further loop begin at home, before others. Return False if it is too late."""
        with self._lock:
            if self._has_stopped:
                return False
            self._pending.appendleft(call)
            wake_home, self._home_takes = not self._home_takes, True
        if wake_home:
            self._home.call_soon(self._take_at_home)
        return True

    def withdraw(self, call: Call[Any]) -> bool:
        """Remove `call` from the queue. Return whether it was there; if not, it has begun."""
        with self._lock:
            try:
                self._pending.remove(call)
            except ValueError:
                return False
        call.host.calls -= 1
        return True

    def inform(self, host: HostLoop | None = None) -> None:
        """Wake the host's loop for calls that have ended at home; not while the home loop goes on to begin calls, which
        may end as soon.

        If one of these blocks, the host calls this `PATIENCE` after it has started a call.

        :param host: has news; None to wake whoever has
        """
        with self._lock:
            previous, self._uninformed = self._uninformed, host if self._home_takes else None
            waits = self._uninformed
        for each in (previous, host):
            if each is not None and each is not waits:
                each.wake()

    def relieve_home(self, call: Call[Any]) -> None:
        """Let a further loop take calls if the home loop is blocked. For `call`, which has waited for `PATIENCE`."""
        with self._lock:
            if len(self._pending) <= self._asked or self._has_stopped:
                return
            if not self._overflows and self._home.busy_for < self._patience:
                return
            if len(self._further) == self._limit and all(thread.is_taken for thread in self._further):
                return
            permission = self._proof.permission(call.name)
            if permission is Permission.WAIT:
                return
            self._overflows = True
            thread = self._idle_thread()
        take = self._search if permission is Permission.SEARCH else self._take_elsewhere
        thread.call_soon(lambda: take(thread, was_asked=True))

    def ended(self, name: str, error: BaseException | None, thread: LoopThread) -> None:
        """Note that a call has ended, on the loop of `thread`."""
        with self._lock:
            self._proof.ended(name, error, at_home=thread is self._home)

    def loop_mattered(self, name: str, error: BaseException) -> None:
        """Keep all further calls at home: a call on a further loop has failed because of the loop."""
        with self._lock:
            is_known, self._proof.is_refuted = self._proof.is_refuted, True
        if not is_known:
            logger.warning(
                "a hosted connector needs one and the same event loop; its calls will share one from now on",
                package=self.name,
                method=name,
                error=text_of(error),
            )

    def stop(self) -> list[LoopThread]:
        """Stop all loops and refuse the calls that have not begun. Return their threads, without waiting for them."""
        with self._lock:
            self._has_stopped = True
            pending, self._pending = self._pending, deque()
            threads = [self._home, *self._further]
        for call in pending:
            call.refuse(RuntimeError(f"the event loop of {self.name} has closed"))
        for thread in threads:
            thread.stop()
        return threads

    def _search(self, thread: LoopThread, *, was_asked: bool) -> None:
        """Search for state that is bound to a loop, and take calls if there is none. Runs in `thread`."""
        try:
            found = self._proof.bound_state([self._home.loop, *(further.loop for further in self._further)])
        except Exception as error:  # noqa: BLE001 - what cannot be searched is not proved
            found = f"the search failed: {text_of(error)}"
        with self._lock:
            self._proof.searched(found)
        if found is not None:
            logger.info(
                "a hosted connector blocks its event loop, and has state that belongs to this loop: its calls wait for"
                " each other",
                package=self.name,
                object=found,
                where=self._home.position(),
            )
        self._take_elsewhere(thread, was_asked=was_asked)

    def _idle_thread(self) -> LoopThread:
        """Return a further loop that has no call. The caller holds the lock, and there is or may be one."""
        thread = next((found for found in self._further if not found.is_taken), None)
        if thread is None:
            thread = LoopThread(f"{self.name} ({self.loops + 1})", self._limit)
            self._further.append(thread)
        thread.is_taken = True
        self._asked += 1
        self._home.longest_sleep = thread.longest_sleep = _LONGEST_SLEEP
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
        if call is None:
            self.inform()
        else:
            call.begin(self._home)
            self._home.loop.call_soon(self._take_at_home)

    def _take_elsewhere(self, thread: LoopThread, *, was_asked: bool = False) -> None:
        with self._lock:
            self._asked -= was_asked
            call = next((each for each in self._pending if self._proof.may_leave(each.name)), None)
            if call is not None:
                self._pending.remove(call)
            else:
                self._overflows = False
                thread.longest_sleep = None
            thread.is_taken = call is not None
            if not any(each.is_taken for each in self._further):
                self._home.longest_sleep = None
        if call is not None:
            call.begin(thread, then=lambda: self._take_elsewhere(thread))


class Call(Generic[T]):
    """One coroutine of hosted code.

    It is created in a task of the host. That task alone uses the public methods, except `begin` and `refuse`, which are
    for the pool.

    :param function: makes the coroutine; `items` yields what it emits
    :param name: the name of the method, for the log and the proof
    :param repeatable: whether it may begin again after it has failed because of the loop
    """

    def __init__(
        self, function: Callable[[Emit], Coroutine[Any, Any, T]], name: str, pool: LoopPool, *, repeatable: bool = True
    ) -> None:
        self.name = name
        self._function = function
        self._is_repeatable = repeatable
        self._pool = pool
        self._context = _for_asyncio(copy_context())
        self._start = pending_start()
        self.host = HostLoop.current()
        self.host.calls += 1
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
                self._pool.inform()
                self._pool.relieve_home(self)

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
        self._pool.inform()  # it may block, and does not look after that itself any more
        self._is_cancelled = True
        if self._thread is not None:
            self._thread.call_soon(self._cancel_task)
        with anyio.move_on_after(_CANCEL_TIMEOUT, shield=True) as scope:
            await self.wait()
        if scope.cancelled_caught:
            logger.warning(
                "a hosted call was cancelled and goes on",
                method=self.name,
                where=self._thread.position() if self._thread is not None else "",
            )
        elif self._error is not None and not isinstance(self._error, asyncio.CancelledError):
            self.result()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed = anyio.Event()

    def _end(self) -> None:
        self.host.calls -= 1
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
        self._task = thread.loop.create_task(self._run(thread, then), name=self.name, context=self._context)
        self._task.add_done_callback(partial(self._cancelled_early, thread, then))
        if self._is_cancelled:  # before it reached this loop
            self._task.cancel()

    def refuse(self, error: Exception) -> None:
        """End a call that has not begun with `error`. May be called in any thread."""
        self._error = error
        self._inform(self._end)

    async def _emit(self, item: Any) -> None:
        self._is_repeatable = False
        taken = asyncio.get_running_loop().create_future()
        self._inform(partial(self._offer, item, taken))
        await taken

    async def _run(self, thread: LoopThread, then: Callable[[], None] | None) -> None:
        try:
            self._value = await self._function(self._emit)
        except BaseException as error:  # noqa: BLE001 - raised again by `result`, in the task that waits for it
            self._error = error
        self._finish(thread, then)

    def _cancelled_early(self, thread: LoopThread, then: Callable[[], None] | None, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step
            self._error = asyncio.CancelledError()
            self._finish(thread, then)

    def _finish(self, thread: LoopThread, then: Callable[[], None] | None) -> None:
        self._pool.ended(self.name, self._error, thread)
        lost = self._error if then is not None and comes_from_loop(self._error) else None
        if lost is not None:
            self._pool.loop_mattered(self.name, lost)
        if then is not None:
            then()
        if lost is not None and self._is_repeatable and not self._is_cancelled:
            self._error = None
            if self._pool.begin_again(self):
                return
            self._error = lost
        if then is not None:
            self._inform(self._end)
        else:
            self.host.add(self._end)
            self._pool.inform(self.host)

    def _inform(self, function: Callable[[], object]) -> None:
        """Call `function` on the host's loop, at once."""
        self.host.add(function)
        self.host.wake()

    def _cancel_task(self) -> None:
        # a call that begins again at home finds out there that it is cancelled
        if self._task is not None and self._task.get_loop() is asyncio.get_running_loop():
            self._task.cancel()


def _for_asyncio(context: Context) -> Context:
    """Set sniffio's library to asyncio in `context`, where a host on trio has set it to trio. Return `context`."""
    if _library is not None and context.get(_library) is not None:
        context.run(_library.set, "asyncio")
    return context


for _waits in (Call.wait, Call.items):
    follow(_waits.__code__, lambda frame: frame.f_locals["self"].where())
