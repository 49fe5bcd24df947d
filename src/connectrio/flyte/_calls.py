"""Calls of hosted code: a coroutine on a hosted loop, awaited by the host in another thread and event loop."""

from __future__ import annotations

import asyncio  # noqa: TID251 - hosted code needs asyncio; the host that waits for it uses anyio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from connectrio.flyte._loop_thread import LoopThread, resolve
from connectrio.logs import get_logger

__all__ = ["PATIENCE", "Call", "Emit"]

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


class Pool(Protocol):
    """The part of `LoopPool` that a call uses."""

    def withdraw(self, call: Call[Any]) -> bool: ...

    def relieve_home(self) -> None: ...

    def loop_mattered(self, error: BaseException) -> None: ...


class Call(Generic[T]):
    """One coroutine of hosted code.

    It is created in a task of the host. That task alone uses the public methods, except `begin` and `refuse`, which are
    for the pool.

    :param function: makes the coroutine; `items` yields what it emits
    :param name: the name of the method, for the log
    """

    def __init__(self, function: Callable[[Emit], Coroutine[Any, Any, T]], name: str, pool: Pool) -> None:
        self._function = function
        self._name = name
        self._pool = pool
        self._context = _for_asyncio(copy_context())
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

    async def wait(self) -> None:
        """Wait until the coroutine has ended."""
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
                ran=self._name,
                position=self._thread.position() if self._thread is not None else "",
            )
        elif self._error is not None and not isinstance(self._error, asyncio.CancelledError):
            self.result()

    async def _wait_for_change(self) -> None:
        while self._thread is None and not self._changed.is_set():
            with anyio.move_on_after(PATIENCE):
                await self._changed.wait()
            self._pool.relieve_home()
        await self._changed.wait()
        self._changed = anyio.Event()

    def _end(self) -> None:
        self._ended = True
        self._changed.set()

    def _offer(self, item: Any, taken: asyncio.Future[None]) -> None:
        self._items.append((item, taken))
        self._changed.set()

    # the hosted loop's part

    def begin(self, thread: LoopThread, then: Callable[[], None] | None = None) -> None:
        """Run the coroutine on the loop of `thread`. Must be called in that thread.

        :param then: called when the coroutine has ended; only for calls that are not on the home loop
        """
        self._thread = thread
        self._task = thread.loop.create_task(self._run(), name=self._name, context=self._context)
        self._task.add_done_callback(partial(self._finish, then))
        if self._is_cancelled:  # before it reached this loop
            self._task.cancel()

    def refuse(self, reason: str) -> None:
        """End a call that has not begun. May be called in any thread."""
        self._error = RuntimeError(reason)
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
            if isinstance(self._error, RuntimeError) and _WRONG_LOOP.search(str(self._error)):
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
