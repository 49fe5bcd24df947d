"""Looking for what a package keeps that belongs to one event loop.

This can be seen only in part: what a function hides in a closure is not found. It need not be: see `_loop_pool.py`.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - its locks and queues are what is looked for
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import ModuleType
from typing import Any

__all__ = ["loop_bound_state", "root_package"]

_BOUND = (asyncio.Lock, asyncio.Event, asyncio.Condition, asyncio.Semaphore, asyncio.Queue, asyncio.Future)
# packages whose decorated functions keep tasks or locks of the loop they were first called on
_CACHES = {"async_lru", "aiocache"}
# of a collection; the event loop of the host does this, so it must not take long
_MOST_ITEMS = 1000


def root_package(module: str) -> str:
    """The largest package around `module` that is one piece: packages that others extend do not count.

    What modules share, they share inside of it; `flyteplugins`, which several distributions fill, holds nothing.
    """
    parts = module.split(".")
    for length in range(1, len(parts)):
        name = ".".join(parts[:length])
        if getattr(sys.modules.get(name), "__file__", None) is not None:
            return name
    return module


def loop_bound_state(package: str, connectors: Iterable[object]) -> str | None:
    """Something of `package`, or of these connectors, that belongs to one event loop: its name, or None.

    Looked at are modules, classes, the connectors, and what lists, tuples, sets and dicts there hold.
    """
    for owner, names in _namespaces(package, connectors):
        for name, value in names.items():
            if any(_is_bound(item) for item in _with_items(value)):
                return f"{owner}.{name}"
    return None


def _namespaces(package: str, connectors: Iterable[object]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for module_name, module in list(sys.modules.items()):
        if module_name == package or module_name.startswith(f"{package}."):
            yield from _of_module(module_name, dict(vars(module)))
    for connector in connectors:
        yield type(connector).__qualname__, dict(getattr(connector, "__dict__", {}))


def _of_module(name: str, names: dict[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield name, names
    for value in names.values():
        if isinstance(value, type) and value.__module__ == name:
            yield f"{name}.{value.__qualname__}", dict(vars(value))


def _with_items(value: Any) -> Iterator[Any]:
    yield value
    # exactly these: what a subclass does when it is iterated is not ours to know. Copied, for other threads change them
    if type(value) in (list, tuple, set, dict):
        yield from islice(list(value.values() if type(value) is dict else value), _MOST_ITEMS)


def _is_bound(value: Any) -> bool:
    """Whether `value` is a lock or queue of asyncio's, a cache of coroutines, a session or client that one enters with
    `async with`, or anything else that has noted its loop."""
    if isinstance(value, type | ModuleType):
        return False
    cls = type(value)
    if isinstance(value, _BOUND) or hasattr(cls, "__aenter__") or cls.__module__.partition(".")[0] in _CACHES:
        return True
    return isinstance(_attribute(value, "_loop"), asyncio.AbstractEventLoop)


def _attribute(value: object, name: str) -> object:
    """An attribute, without running any code of the object's: some load a module as soon as one looks."""
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return None
