"""Where the source awaits, and where the tasks that run now are waiting."""

from __future__ import annotations

import ast
import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import sniffio
import trio

import connectrio.rpc
from connectrio.telemetry.stacks import frames_of as frames
from syntax import parsed

SOURCE = Path(connectrio.rpc.__file__).parent


@dataclass(frozen=True)
class Position:
    """An `await`, `async for` or `async with`.

    :ivar name: "module.Class.method: what is awaited", and " #2" when it is the second there that reads like this; it
        stays the same when lines move
    """

    name: str
    module: str
    line: int
    last_line: int
    column: int


@cache
def positions() -> tuple[Position, ...]:
    """Every place in rpc/ where a task can be cancelled."""
    found = [each for path in SOURCE.rglob("*.py") for each in _in(parsed(path), _module(path))]
    found.sort(key=lambda each: (each.module, each.line, each.column))
    return tuple(_numbered(found))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def _numbered(found: Iterable[Position]) -> Iterator[Position]:
    seen: Counter[str] = Counter()
    for each in found:
        seen[each.name] += 1
        yield each if seen[each.name] == 1 else replace(each, name=f"{each.name} #{seen[each.name]}")


def _in(node: ast.AST, module: str, qualname: str = "") -> Iterator[Position]:
    for child in ast.iter_child_nodes(node):
        inside = qualname
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{qualname}.{child.name}"
        awaited = _awaited(child)
        if awaited is not None:
            where, text = awaited
            yield Position(
                f"{module}{inside}: {text[:60]}",
                module,
                where.lineno,
                where.end_lineno or where.lineno,
                where.col_offset,
            )
        yield from _in(child, module, inside)


def _awaited(node: ast.AST) -> tuple[ast.expr, str] | None:
    """Where it is, and what is awaited there; a whole `async with` is one place, in whichever of its items it waits."""
    match node:
        case ast.Await():
            return node, ast.unparse(node.value)
        case ast.AsyncFor() | ast.comprehension(is_async=1):
            return node.iter, "for " + ast.unparse(node.iter)
        case ast.AsyncWith():
            items = [item.context_expr for item in node.items]
            end = items[-1].end_lineno
            span = ast.Constant(None, lineno=node.lineno, col_offset=node.col_offset, end_lineno=end)
            return span, "with " + ", ".join(map(ast.unparse, items))
    return None


def waiting(coroutine: Any) -> Iterator[Position]:
    """Where a task waits: its innermost await, and every one that waits for that."""
    for frame in frames(coroutine):
        yield from _positions_of(frame.f_code, frame.f_lasti)


@cache
def _positions_of(code: CodeType, offset: int) -> tuple[Position, ...]:
    path = Path(code.co_filename)
    if SOURCE not in path.parents:
        return ()
    module = _module(path)
    line, column = _instruction(code, offset)
    here = [each for each in positions() if each.module == module and each.line <= line <= each.last_line]
    return tuple([each for each in here if (each.line, each.column) == (line, column)] or here)


def _instruction(code: CodeType, offset: int) -> tuple[int, int]:
    for index, (line, _, column, _) in enumerate(code.co_positions()):
        if index == offset // 2:
            return line or 0, column or 0
    return 0, 0


@contextmanager
def each_suspension(suspended: Callable[[Any], None]) -> Iterator[None]:
    """Call `suspended` whenever a task that begins inside the block suspends, with the task's coroutine.

    It is called before any other task runs, so that nothing has moved on since.
    """
    watching = _each_trio_suspension if sniffio.current_async_library() == "trio" else _each_asyncio_suspension
    with watching(suspended):
        yield


@contextmanager
def _each_trio_suspension(suspended: Callable[[Any], None]) -> Iterator[None]:
    instrument = _Steps(suspended)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)


class _Steps(trio.abc.Instrument):
    def __init__(self, suspended: Callable[[Any], None]) -> None:
        self._suspended = suspended
        self._tasks: set[trio.lowlevel.Task] = set()

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._tasks.add(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task in self._tasks and task.coro.cr_frame is not None:  # None: it has ended
            self._suspended(task.coro)


@contextmanager
def _each_asyncio_suspension(suspended: Callable[[Any], None]) -> Iterator[None]:
    def make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_Stepped(coroutine, suspended), loop=loop, **options)

    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(make_task)
    try:
        yield
    finally:
        loop.set_task_factory(before)


class _Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that tells of each time it suspends."""

    def __init__(self, coroutine: Any, suspended: Callable[[Any], None]) -> None:
        self._coroutine = coroutine
        self._suspended = suspended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        waits_for = self._coroutine.send(value)
        self._suspended(self._coroutine)
        return waits_for

    def throw(self, *error: Any) -> Any:
        waits_for = self._coroutine.throw(*error)
        self._suspended(self._coroutine)
        return waits_for

    def close(self) -> None:
        self._coroutine.close()
