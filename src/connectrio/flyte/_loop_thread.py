"""An asyncio event loop in a thread of its own, for hosted code."""

from __future__ import annotations

import asyncio  # noqa: TID251 - the loop that hosted code runs on; the host's own may be trio's
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from connectrio.diagnostics import raised_in, type_name
from connectrio.logs import get_logger
from connectrio.telemetry.stacks import FurtherLoop, further_loops, thread_frames

__all__ = ["LoopThread", "resolve"]

logger = get_logger("connectrio.flyte")

P = ParamSpec("P")
T = TypeVar("T")

# seconds for which a loop with ready callbacks does not look for new events
_LOOK_AFTER = 0.001
# seconds; for tasks that are cancelled because their loop closes
_UNWIND_TIMEOUT = 1.0


class LoopThread:
    """An event loop that runs in a thread of its own until `stop`.

    :param name: the name of the thread, and the prefix of the names of its executor's threads
    :param workers: the threads that the default executor has at least, for hosted code that avoids blocking
    :ivar is_taken: whether it has a call, or is about to get one; only for further loops
    """

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.is_taken = False
        self._selector = _WatchedSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self._executor = _ContextExecutor(max(workers, (os.cpu_count() or 1) + 4), thread_name_prefix=name)
        self.loop.set_default_executor(self._executor)
        self._stopped: asyncio.Future[None] = self.loop.create_future()
        # a daemon: code that blocks for ever must not keep the process from ending
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        further_loops[id(self)] = FurtherLoop(name, self._tasks, lambda: self.busy_for, self._runs, self.frames)
        self._thread.start()

    @property
    def busy_for(self) -> float:
        """The seconds for which the loop has run callbacks without looking for new events."""
        since = self._selector.busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def longest_sleep(self) -> float | None:
        """The seconds after which the loop looks for callbacks that another thread has scheduled without waking it.

        None: it sleeps until it is woken.
        """
        return self._selector.longest_sleep

    @longest_sleep.setter
    def longest_sleep(self, seconds: float | None) -> None:
        was, self._selector.longest_sleep = self._selector.longest_sleep, seconds
        if was is None and seconds is not None:
            self.call_soon(lambda: None)  # it may sleep already

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def frames(self) -> list[FrameType]:
        """Return the frames of the thread, the innermost last; none if it has ended."""
        return thread_frames(sys._current_frames().get(self._thread.ident or 0))  # noqa: SLF001 - as below

    def _tasks(self) -> list[tuple[str, Any]]:
        return [(task.get_name(), task.get_coro()) for task in asyncio.all_tasks(self.loop)]

    def _runs(self) -> str:
        task = asyncio.current_task(self.loop)
        return "" if task is None else task.get_name()

    def position(self) -> str:
        """Return the line that the thread executes: "get in connector.py:7"; "" if it has ended."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - documented, for debuggers
        if frame is None:
            return ""
        return f"{frame.f_code.co_name} in {frame.f_code.co_filename}:{frame.f_lineno}"

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call `function` in the loop's thread. Do nothing if the loop has closed."""
        with suppress(RuntimeError):  # the loop has closed
            self.loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        """Let the loop cancel its tasks, wait for them, and end the thread. Return at once."""
        self.call_soon(partial(resolve, self._stopped))

    def join(self) -> None:
        """Block until the thread and the threads of the executor have ended."""
        self._thread.join()
        self._executor.shutdown(wait=True)

    def _run(self) -> None:
        try:
            while not self._stopped.done():
                try:
                    self.loop.run_until_complete(self._stopped)
                except (SystemExit, KeyboardInterrupt) as error:
                    # raised by a task that hosted code has started: asyncio lets these two end the loop and all calls
                    where, module = raised_in(error)
                    logger.warning(
                        "a hosted task tried to end the process",
                        thread=self.name,
                        raised=type_name(error),
                        where=where,
                        module=module,
                        exc_info=error,
                    )
            self.loop.run_until_complete(self._unwind())
        finally:
            further_loops.pop(id(self), None)
            self._executor.shutdown(wait=False, cancel_futures=True)
            self.loop.close()

    async def _unwind(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_UNWIND_TIMEOUT)
        await self.loop.shutdown_asyncgens()


class _ContextExecutor(ThreadPoolExecutor):
    """Runs functions in the context of who submits them: their log lines have the fields of the call."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return super().submit(partial(copy_context().run, fn), *args, **kwargs)


class _WatchedSelector(selectors.DefaultSelector):
    """Notes the time since which its loop has run callbacks, and lets these follow each other without a system call.

    :ivar busy_since: on the clock of `time.monotonic`; None while the loop waits
    :ivar longest_sleep: see `LoopThread`
    """

    busy_since: float | None = None
    longest_sleep: float | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        since = self.busy_since
        if timeout is not None and timeout <= 0 and since is not None and time.monotonic() - since < _LOOK_AFTER:
            # callbacks are ready: a look for events costs more than most of them, and lets other threads interrupt
            return []
        self.busy_since = None
        if self.longest_sleep is not None and (timeout is None or timeout > self.longest_sleep):
            timeout = self.longest_sleep
        try:
            return super().select(timeout)
        finally:
            self.busy_since = time.monotonic()


def resolve(future: asyncio.Future[None]) -> None:
    """Set the result of `future`, unless it is done."""
    if not future.done():
        future.set_result(None)
