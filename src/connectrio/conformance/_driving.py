"""Running a method step by step: from one suspension to the next, and cancelled at a chosen one."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Coroutine, Generator
from pathlib import Path
from types import FrameType
from typing import Any, Self

import anyio

__all__ = ["Blocked", "CancelAt", "Watch", "driven"]

# seconds that an event loop may be kept from its other tasks: Flyte's health checks and polls wait meanwhile
_THRESHOLD = 0.1
_SAMPLE = 0.01


class Watch:
    """Told of each step of a coroutine. This one does nothing."""

    def begin(self) -> None:
        """A step begins."""

    def suspended(self) -> None:
        """The step has ended with a wait."""

    def resumed(self, error: BaseException | None) -> None:
        """The wait has ended, with `error` if there is one."""


@types.coroutine
def driven(coroutine: Coroutine[Any, Any, Any], watch: Watch) -> Generator[Any, Any, Any]:
    """Await `coroutine` with `watch` looking on; what it returns."""
    value: Any = None
    error: BaseException | None = None
    while True:
        watch.begin()
        try:
            waits_for = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as end:
            return end.value
        watch.suspended()
        value = error = None
        try:
            value = yield waits_for
        except BaseException as raised:  # noqa: BLE001 - it is the coroutine's, which gets it at once
            error = raised
        # trio hands an error over as a value, an `outcome.Error`, which its own code below raises
        watch.resumed(error or getattr(value, "error", None))


class CancelAt(Watch):
    """Cancels a scope at the n-th suspension.

    :ivar reached: whether there was an n-th suspension
    :ivar delivered: whether the cancellation was raised in the coroutine
    """

    def __init__(self, scope: anyio.CancelScope, number: int) -> None:
        self.reached = False
        self.delivered = False
        self._scope = scope
        self._left = number

    def suspended(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.reached = True
            self._scope.cancel()

    def resumed(self, error: BaseException | None) -> None:
        if self.reached and isinstance(error, anyio.get_cancelled_exc_class()):
            self.delivered = True


class Blocked(Watch):
    """Measures how long steps take, and looks where the longest of them spends its time.

    :ivar seconds: the longest step
    :ivar line: where it was last seen, "reports.py:17"
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.line = ""
        self._began: float | None = None
        self._thread_id = threading.get_ident()
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._sampler.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end_step()
        self._ended.set()
        self._sampler.join()

    @property
    def is_too_long(self) -> bool:
        """Whether a step has blocked the event loop."""
        return self.seconds > _THRESHOLD

    def begin(self) -> None:
        self._began = time.perf_counter()

    def suspended(self) -> None:
        self._end_step()

    def _end_step(self) -> None:
        if self._began is not None:
            self.seconds = max(self.seconds, time.perf_counter() - self._began)
            self._began = None

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE):
            began = self._began
            if began is not None and time.perf_counter() - began > max(_THRESHOLD, self.seconds):
                frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - documented, in spite of its name
                self.line = _line(frame) or self.line


def _line(frame: FrameType | None) -> str:
    """The innermost line that is not the standard library's or the event loop's, by its file's name."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.exists() and not {"site-packages", "asyncio"} & {*path.parts} and path.parent != _STDLIB:
            return f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


_STDLIB = Path(threading.__file__).parent
