"""An asyncio event loop in a thread of its own, for hosted code."""

from __future__ import annotations

import asyncio  # noqa: TID251 - the loop that hosted code runs on; the host's own may be trio's
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from connectrio.logs import get_logger

__all__ = ["LoopThread", "resolve"]

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


def resolve(future: asyncio.Future[None]) -> None:
    """Let whoever awaits `future` go on, unless it has been cancelled or resolved already."""
    if not future.done():
        future.set_result(None)
