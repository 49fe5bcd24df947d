"""Where the tasks of the event loop and the threads of the process are."""

from __future__ import annotations

import gc
import linecache
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

import anyio

from connectrio.diagnostics import shorten, text_of
from connectrio.telemetry.report import StackReport

__all__ = [
    "FurtherLoop", "all_stacks", "each_stack", "follow", "frames_of", "further_loops", "line_of", "lines_of",
    "thread_frames",
]  # fmt: skip

# frames of a stack that are shown, and tasks and threads
_MOST_FRAMES = 100
_MOST_STACKS = 2000
# characters of a line of a stack, and of the source in it, which may be generated
_LONGEST_SOURCE = 200
_LONGEST_LINE = 1000
# what one task may wait for in turn: more is an object that says that it waits for itself, or a deep recursion
_MOST_AWAITED = 2000


@dataclass(frozen=True)
class FurtherLoop:
    """An event loop in a thread of its own, beside the host's. All may be called from any thread.

    :ivar tasks: returns names and coroutines of its tasks
    :ivar busy_for: returns the seconds for which it has run one step, 0 while it waits
    :ivar runs: returns the name of the task that runs now; "" if none does
    :ivar frames: returns the frames of its thread, the innermost last
    """

    name: str
    tasks: Callable[[], list[tuple[str, Any]]]
    busy_for: Callable[[], float]
    runs: Callable[[], str]
    frames: Callable[[], list[FrameType]]


further_loops: dict[int, FurtherLoop] = {}
"""The event loops that run beside the host's, by their `id`. Who runs a loop adds and removes it."""


def all_stacks() -> list[StackReport]:
    """Return the stacks of the tasks of the running event loop, if there is one, of further loops, and of all
    threads."""
    return list(each_stack())


def each_stack() -> Iterator[StackReport]:
    """Yield what `all_stacks` returns. What has ended before its turn has no frames."""
    try:
        tasks = anyio.get_running_tasks()
    except RuntimeError:  # no event loop runs
        tasks = []
    for task in tasks[:_MOST_STACKS]:
        yield StackReport(kind="task", name=text_of(task.name), what="", frames=lines_of(frames_of(task.coro)))
    for loop in list(further_loops.values()):
        for name, coro in loop.tasks()[:_MOST_STACKS]:
            what = f"on the loop {loop.name}"
            yield StackReport(kind="task", name=text_of(name), what=what, frames=lines_of(frames_of(coro)))
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    current = list(sys._current_frames().items())[:_MOST_STACKS]  # noqa: SLF001 - documented, for debuggers
    # all at once: the threads go on
    lines = [(ident, lines_of(thread_frames(frame))) for ident, frame in current]
    for ident, frames in lines:
        yield StackReport(kind="thread", name=text_of(names.get(ident, ident)), what="", frames=frames)


def lines_of(frames: Iterable[FrameType]) -> list[str]:
    """Return a line for each frame; of a deep stack, the innermost ones."""
    return [line_of(frame) for frame in list(frames)[-_MOST_FRAMES:]]


def line_of(frame: FrameType) -> str:
    """Return a frame as "/path/my_connector.py:42 in MyConnector.get: time.sleep(60)"."""
    code, line = frame.f_code, frame.f_lineno
    source = linecache.getline(code.co_filename, line or 0).strip()
    where = f"{code.co_filename}:{line} in {code.co_qualname}"
    return shorten(f"{where}: {shorten(source, _LONGEST_SOURCE)}" if source else where, _LONGEST_LINE)


def thread_frames(frame: FrameType | None) -> list[FrameType]:
    """Return the frames of a thread, the innermost last, given the innermost one."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


# the functions that wait for a coroutine elsewhere, and what returns it, given their frame
_elsewhere: dict[CodeType, Callable[[FrameType], Any]] = {}


def follow(code: CodeType, find: Callable[[FrameType], Any]) -> None:
    """Let `frames_of` go on behind the frames of a function that waits for a coroutine on another event loop.

    :param code: of the function
    :param find: returns that coroutine, given the function's frame, or a list of the frames of the thread that runs
        it; None if there is none yet
    """
    _elsewhere[code] = find


def frames_of(awaitable: Any) -> Iterator[FrameType]:
    """Yield the frames of a task that is suspended: its coroutine's, and that of each that it waits for in turn.

    Raises nothing; the frames end at what fails to say what it waits for.
    """
    for _ in range(_MOST_AWAITED):
        if awaitable is None:
            return
        try:
            frame, awaitable = _parts(awaitable)
        except BaseException:  # noqa: BLE001 - a property of a foreign object; a diagnostic harms nothing
            return
        if frame is not None:
            yield frame
            if frame.f_code in _elsewhere and (found := _elsewhere[frame.f_code](frame)) is not None:
                if isinstance(found, list):
                    yield from found
                    return
                awaitable = found


def _parts(awaitable: Any) -> tuple[FrameType | None, Any]:
    """Return the frame of what is awaited, and what it awaits itself."""
    match awaitable:
        case CoroutineType():
            return awaitable.cr_frame, awaitable.cr_await
        case AsyncGeneratorType():
            return awaitable.ag_frame, awaitable.ag_await
        case GeneratorType():
            return awaitable.gi_frame, awaitable.gi_yieldfrom
    if type(awaitable).__name__.startswith(("async_generator_a", "coroutine_wrapper", "anext_awaitable")):
        return None, next(filter(_is_awaitable, gc.get_referents(awaitable)), None)
    return None, awaitable.cr_await if _says_what_it_awaits(awaitable) else None


def _is_awaitable(value: object) -> bool:
    if isinstance(value, CoroutineType | AsyncGeneratorType | GeneratorType):
        return True
    return type(value).__name__.startswith("async_generator_a") or _says_what_it_awaits(value)


def _says_what_it_awaits(value: object) -> bool:
    """Return whether an object that is no coroutine has their `cr_await`, as those of `connectrio.rpc` do."""
    return isinstance(getattr(type(value), "cr_await", None), property)
