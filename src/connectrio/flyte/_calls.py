"""One coroutine of hosted code, awaited by the host on another event loop, in another thread."""

from __future__ import annotations

import asyncio  # noqa: TID251 - hosted code is asyncio's; the host that waits for it is anyio's
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
"""Hands an item over, and waits until somebody comes back for the next one."""

PATIENCE = 0.03
"""Seconds that one step may keep the home loop before calls that wait for it go elsewhere. A step that only computes
takes a few milliseconds; ten times that is still far below what a call to another system takes."""

# seconds; a call's slot is held until the hosted coroutine has ended, but not for longer than this
_CANCEL_TIMEOUT = 2.0
# what asyncio, async_lru and others say of an object that is used on another loop than its own
_WRONG_LOOP = re.compile(r"(different|another|other|across)( event)? loops?\b|bound to a different")


class Pool(Protocol):
    """The part of `LoopPool` that a call uses."""

    def withdraw(self, call: Call[Any]) -> bool: ...

    def relieve_home(self) -> None: ...

    def loop_mattered(self, error: BaseException) -> None: ...


class Call(Generic[T]):
    """One coroutine of hosted code.

    Made in a task of the host, which alone uses what has no leading underscore but `begin` and `refuse`: these are the
    pool's.

    :param function: makes the coroutine; what it emits, `items` yields
    :param name: what runs, for the log
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
        """Wait for the coroutine's end."""
        while not self._ended:
            await self._wait_for_change()

    def result(self) -> T:
        """What the coroutine returned, or raised, once it has ended."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # breaks the cycle of the error and this frame
        return self._value

    async def items(self) -> AsyncGenerator[Any, None]:
        """What the coroutine emits, until it ends.

        :raises BaseException: whatever it raises
        """
        while True:
            while self._items:
                item, taken = self._items.popleft()
                yield item
                self._release(taken)
            if self._ended:
                break
            await self._wait_for_change()
        self.result()

    async def cancel(self) -> None:
        """Cancel the coroutine and wait for its end, within bounds.

        :raises BaseException: what it made of that, unless it let itself be cancelled
        """
        if self._ended or self._pool.withdraw(self):
            return
        self._is_cancelled = True
        if self._thread is not None:
            self._thread.call_soon(self._cancel_task)
        with anyio.move_on_after(_CANCEL_TIMEOUT, shield=True) as scope:
            await self.wait()
        if scope.cancelled_caught:
            self._report_stuck()
        elif self._error is not None and not isinstance(self._error, asyncio.CancelledError):
            self.result()

    async def _wait_for_change(self) -> None:
        while self._thread is None and not self._changed.is_set():
            with anyio.move_on_after(PATIENCE):
                await self._changed.wait()
            self._pool.relieve_home()
        await self._changed.wait()
        self._changed = anyio.Event()

    def _release(self, taken: asyncio.Future[None]) -> None:
        if self._thread is not None:
            self._thread.call_soon(partial(resolve, taken))

    def _report_stuck(self) -> None:
        logger.warning(
            "a hosted call was cancelled and goes on",
            ran=self._name,
            position=self._thread.position() if self._thread is not None else "",
        )

    def _end(self) -> None:
        self._ended = True
        self._changed.set()

    def _offer(self, item: Any, taken: asyncio.Future[None]) -> None:
        self._items.append((item, taken))
        self._changed.set()

    # the hosted loop's part

    def begin(self, thread: LoopThread, then: Callable[[], None] | None = None) -> None:
        """Run the coroutine on this loop, whose thread this must be called in.

        :param then: called once it has ended; given for calls that are not on the home loop
        """
        self._thread = thread
        self._task = thread.loop.create_task(self._run(), name=self._name, context=self._context)
        self._task.add_done_callback(partial(self._finish, then))
        if self._is_cancelled:  # while it was on its way to this loop
            self._task.cancel()

    def refuse(self, reason: str) -> None:
        """End the call, which has not been begun. In any thread."""
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
        with suppress(RuntimeError):  # the host's loop has closed, and whoever waited is gone with it
            self._wake(self._end)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _waker(token: EventLoopToken) -> Callable[[Callable[[], object]], object]:
    """What calls a function on the host's loop, from any thread and without waiting for it.

    `anyio.from_thread` waits, and so a host that is busy for a moment would hold up the hosted loop.
    """
    native: Any = token.native_token
    wake: Callable[[Callable[[], object]], object] = (
        native.call_soon_threadsafe if hasattr(native, "call_soon_threadsafe") else native.run_sync_soon
    )
    return wake


def _for_asyncio(context: Context) -> Context:
    """`context`, which says that the library is asyncio: a host on trio has set it to trio, for all that it calls."""
    with suppress(ModuleNotFoundError):  # trio brings it; without it nobody asks
        context.run(import_module("sniffio").current_async_library_cvar.set, "asyncio")
    return context
