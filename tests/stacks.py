"""Where the tasks and threads of this process are."""

from __future__ import annotations

import gc
import linecache
import sys
import threading
import traceback
from collections.abc import Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

import anyio

from connectrio.rpc._server.call_tasks import Watched


def all_stacks() -> str:
    """The stacks of all tasks of the running event loop, if there is one, and of all threads."""
    return "\n".join([*_tasks(), *_threads()])


def _tasks() -> Iterator[str]:
    try:
        tasks = anyio.get_running_tasks()
    except RuntimeError:  # no event loop runs
        return
    for task in tasks:
        yield f"task {task.name}:"
        for frame in frames(task.coro):
            code, line = frame.f_code, frame.f_lineno
            yield f"  {code.co_filename}:{line} in {code.co_name}: {linecache.getline(code.co_filename, line).strip()}"


def _threads() -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        yield f"thread {names.get(ident, ident)}:"
        yield "".join(traceback.format_stack(frame))


def frames(coroutine: Any) -> Iterator[FrameType]:
    """The frames of a task, the outermost first: its innermost await, and every one that waits for that."""
    while coroutine is not None:
        frame, coroutine = _parts(coroutine)
        if frame is not None:
            yield frame


def _parts(awaitable: Any) -> tuple[FrameType | None, Any]:
    match awaitable:
        case CoroutineType():
            return awaitable.cr_frame, awaitable.cr_await
        case AsyncGeneratorType():
            return awaitable.ag_frame, awaitable.ag_await
        case GeneratorType():
            return awaitable.gi_frame, awaitable.gi_yieldfrom
        case Watched():
            return None, awaitable.cr_await
    name = type(awaitable).__name__
    if name.startswith(("async_generator_a", "coroutine_wrapper", "anext_awaitable")):
        return None, next(filter(_is_awaitable, gc.get_referents(awaitable)), None)
    return None, None


def _is_awaitable(value: object) -> bool:
    kinds = CoroutineType | AsyncGeneratorType | GeneratorType | Watched
    return isinstance(value, kinds) or type(value).__name__.startswith("async_generator_a")
