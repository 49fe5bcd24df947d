"""The worker threads for methods of connectors that are plain functions."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from threading import Lock
from typing import Any, Generic, TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import current_token

from connectrio.connector.context import begin_work, pending_start
from connectrio.logs import get_logger
from connectrio.service.slots import Slots

__all__ = ["Workers", "call_soon_from_threads"]

logger = get_logger("connectrio.service")

T = TypeVar("T")


def call_soon_from_threads() -> Callable[..., object]:
    """Return the function of this event loop that threads give a function, and its arguments, to be called soon.

    It raises RuntimeError once the event loop is gone. It does not wait, unlike anyio's `from_thread`, which waits for
    ever if the event loop ends before it comes to the call.
    """
    loop: Any = current_token().native_token
    call_soon: Callable[..., object] = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
    return call_soon  # asyncio's, or trio's


class Workers:
    """Runs functions in threads, at most `limit` at once.

    Each owner has an equal share of them. If others have taken an owner's share, it gets threads beyond the limit, of
    which there can be as many again.

    A cancelled `run` returns at once. Its thread cannot be stopped and goes on; until it ends, it counts as busy. The
    function can ask `anyio.from_thread.check_cancelled` whether anybody still waits for it.

    :ivar limit: how many functions may run at once
    :raises ValueError: `limit` is less than 1
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"there must be at least one worker thread, not {limit}")
        self.limit = limit
        self._slots = Slots(limit, elastic=True)
        # never the bound: on asyncio, anyio releases its limiter as soon as a thread is abandoned
        self._unbounded = anyio.CapacityLimiter(math.inf)
        self._freed: anyio.Event | None = None

    @property
    def busy(self) -> int:
        """How many threads run now, including those that nobody waits for any more."""
        return self._slots.active

    async def run(self, function: Callable[[], T], *, name: str, owner: str = "") -> T:
        """Wait for a free worker and call `function` in it, with the caller's context variables.

        :param name: what runs, for the log
        :param owner: whose share of the workers it takes
        :raises TransientError: it creates a job, and it is too late for that
        :raises BaseException: whatever `function` raises, `SystemExit` included
        """
        run = _Run(function, name, owner, self._free)
        await self._slots.enter(owner)
        try:
            if (start := pending_start()) is not None:
                start.check()
            begin_work()
            await to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._unbounded)
        except BaseException:
            run.abandon()
            raise
        self._free(run)
        return run.result()

    async def wait_idle(self) -> None:
        """Wait until no thread runs."""
        while self.busy:
            if self._freed is None:
                self._freed = anyio.Event()
            await self._freed.wait()

    def _free(self, run: _Run[T]) -> None:
        self._slots.leave(run.owner)
        if self._freed is not None:
            self._freed.set()
            self._freed = None


class _State(Enum):
    PENDING = auto()
    RUNNING = auto()
    ENDED = auto()
    ABANDONED = auto()


class _Run(Generic[T]):
    """One function that runs in a thread. The last of the two, the task or the thread, frees the worker."""

    def __init__(self, function: Callable[[], T], name: str, owner: str, free: Callable[[_Run[T]], None]) -> None:
        self._function = function
        self._name = name
        self.owner = owner
        self._free = free
        self._lock = Lock()
        self._state = _State.PENDING
        self._value: T
        self._error: BaseException | None = None
        self._call_soon: Callable[..., object]

    def __call__(self) -> None:
        """Run the function in the thread. Raises nothing: anyio's own code in the thread does not expect it."""
        if not self._move(_State.PENDING, _State.RUNNING):
            return
        started = time.monotonic()
        try:
            self._value = self._function()
        except BaseException as error:  # noqa: BLE001 - raised again by `result`, in the task that waits for it
            self._error = error
        if not self._move(_State.RUNNING, _State.ENDED):
            self._end_late(time.monotonic() - started)

    def result(self) -> T:
        """Return what the function returned, or raise what it raised; only once the thread has ended."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # breaks the cycle of the error and this frame
        return self._value

    def abandon(self) -> None:
        """Tell the thread that the task was cancelled and will not look at the result."""
        self._call_soon = call_soon_from_threads()
        if self._move(_State.RUNNING, _State.ABANDONED):
            return
        if not self._move(_State.PENDING, _State.ABANDONED):
            self._discard()
        self._free(self)

    def _move(self, before: _State, after: _State) -> bool:
        with self._lock:
            if self._state is not before:
                return False
            self._state = after
            return True

    def _end_late(self, seconds: float) -> None:
        raised = None if self._error is None else type(self._error).__name__
        logger.warning(
            "a worker thread ended after its call, and kept a worker busy until then",
            ran=self._name,
            seconds=round(seconds, 3),
            raised=raised,
        )
        self._discard()
        with suppress(RuntimeError):  # the event loop is gone, and with it all who waited for a worker
            self._call_soon(self._free, self)

    def _discard(self) -> None:
        """Close the coroutine that was returned, if any: nobody will await it."""
        if self._error is None and inspect.iscoroutine(self._value):
            self._value.close()
        self._error = None
