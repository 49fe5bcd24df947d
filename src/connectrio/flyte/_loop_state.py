"""Finds what a package keeps that belongs to one event loop: locks, sessions, connections, caches of coroutines.

The search follows all references that Python's garbage collector knows: attributes, slots, containers of any kind,
closures, defaults, bound methods, `partial`, `lru_cache`, objects of C extensions. So it runs no code of the objects.
It takes time, at most `_TIME_LIMIT`, and some 30 MB of memory; it may run in any thread.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - to find its locks and queues
import gc
import logging
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextvars import Context
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    ModuleType,
    TracebackType,
)
from typing import Any

__all__ = ["loop_bound_state", "root_package"]

_BOUND = (asyncio.Lock, asyncio.Event, asyncio.Condition, asyncio.Semaphore, asyncio.Queue, asyncio.Future)
# packages whose decorated functions keep tasks or locks of the loop of their first call
_CACHES = {"async_lru", "aiocache"}
# suspended: what they wait for belongs to a loop
_SUSPENDED = (CoroutineType, AsyncGeneratorType)
# hold nothing, or lead to all of the process
_ENDS = (
    str, bytes, bytearray, int, float, complex, type(None), CodeType, FrameType, TracebackType,
    Context, ModuleType, logging.Logger, logging.Handler, logging.Manager,
)  # fmt: skip
_CONTAINERS = (dict, list, tuple, set)
# packages whose objects are not followed: the host's own, which lead to the host's event loop
_OURS = {"connectrio"}

# objects of the package itself and what they hold; a package that holds more counts as bound
_MOST_OBJECTS = 200_000
# objects of the packages that it imports
_MOST_IMPORTED = 200_000
# seconds, for all
_TIME_LIMIT = 3.0

# without the code of metaclasses
_dict_of = type.__dict__["__dict__"].__get__
_mro_of = type.__dict__["__mro__"].__get__


def root_package(module: str) -> str:
    """Return the outermost package of `module` that is not a namespace package.

    Modules share objects within it. A namespace package such as `flyteplugins`, which several distributions extend, has
    no objects.
    """
    parts = module.split(".")
    for length in range(1, len(parts)):
        name = ".".join(parts[:length])
        if getattr(sys.modules.get(name), "__file__", None) is not None:
            return name
    return module


def loop_bound_state(
    package: str, connectors: Iterable[object], loops: Sequence[asyncio.AbstractEventLoop] = ()
) -> str | None:
    """Return the name of an object in `package` or these connectors that belongs to one event loop; else None.

    Of the packages that `package` imports, only what refers to one of `loops` counts: they have locks and sessions of
    their own that the package may never use.

    :param loops: those that the package's calls have run on. If none is given, imported packages are not looked at
    :returns: the attribute that leads to the object, and the object's type, as "package.module.NAME (Lock)"
    """
    search = _Search(loops)
    found = search.run(_roots(package, connectors), package, _MOST_OBJECTS)
    if found is None and not search.is_complete:
        return f"{package} (too many objects to be searched)"
    if found is None and loops:
        for imported in sorted(_imported(package)):
            found = found or search.run(_roots(imported, ()), imported, _MOST_IMPORTED, only_loops=True)
    return found


def _roots(package: str, connectors: Iterable[object]) -> Iterator[tuple[str, Any]]:
    """Yield what the modules, classes and connectors of a package hold by name."""
    for module_name, names in _modules(package):
        yield from ((f"{module_name}.{name}", value) for name, value in names.items())
        for value in names.values():
            if issubclass(type(value), type) and _dict_of(value).get("__module__") == module_name:
                members = dict(_dict_of(value))
                yield from ((f"{module_name}.{value.__qualname__}.{name}", member) for name, member in members.items())
    for connector in connectors:
        owner = type(connector).__qualname__
        attributes = dict(getattr(connector, "__dict__", {}))
        yield from ((f"{owner}.{name}", value) for name, value in attributes.items())
        yield owner, connector  # its slots
        for each in _mro_of(type(connector)):
            yield from ((f"{each.__qualname__}.{name}", value) for name, value in dict(_dict_of(each)).items())


def _modules(package: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in list(sys.modules.items()):
        if (name == package or name.startswith(f"{package}.")) and issubclass(type(module), ModuleType):
            yield name, dict(object.__getattribute__(module, "__dict__"))


def _imported(package: str) -> set[str]:
    """Return the packages of which the modules of `package` hold modules, classes or functions."""
    found: set[str] = set()
    for _, names in _modules(package):
        for value in names.values():
            if issubclass(type(value), ModuleType):
                found.add(str(object.__getattribute__(value, "__dict__").get("__name__")))
            elif issubclass(type(value), type):
                found.add(str(_dict_of(value).get("__module__")))
            elif type(value) is FunctionType:
                found.add(str(value.__module__))
    roots = {name.partition(".")[0] for name in found} - sys.stdlib_module_names - _OURS
    packages = {root_package(name) for name in found if name in sys.modules and name.partition(".")[0] in roots}
    return packages - {package}


class _Search:
    """One walk through objects; what it has seen once, it does not look at again.

    :ivar is_complete: whether the last `run` has seen all
    """

    def __init__(self, loops: Sequence[asyncio.AbstractEventLoop]) -> None:
        self.is_complete = True
        self._loops = loops
        self._deadline = time.monotonic() + _TIME_LIMIT
        self._bound_classes: dict[type, bool] = {}
        # names of modules are roots; functions lead to those of any module
        modules = [module for module in list(sys.modules.values()) if issubclass(type(module), ModuleType)]
        self._seen = {id(object.__getattribute__(module, "__dict__")) for module in modules}
        self._seen |= {id(sys.modules), id(gc.garbage)}
        # an object that ends during the search would leave its id to another one
        self._held: list[Any] = []

    def run(self, roots: Iterable[tuple[str, Any]], package: str, most: int, *, only_loops: bool = False) -> str | None:
        """Return the name of the first object that is bound, the nearest first."""
        # with the type of the object that holds the value, which says more than that of a loop; None if a name holds it
        queue: deque[tuple[str, Any, type | None]] = deque((name, value, None) for name, value in roots)
        steps = 0
        while queue:
            name, value, holder = queue.popleft()
            if id(value) in self._seen:
                continue
            if steps >= most or (steps % 256 == 0 and time.monotonic() > self._deadline):
                self.is_complete = False
                return None
            steps += 1
            self._seen.add(id(value))
            self._held.append(value)
            if self._counts(value) if only_loops else self._is_bound(value):
                if holder is None:
                    return name
                told = holder if issubclass(type(value), asyncio.AbstractEventLoop) else type(value)
                return f"{name} ({told.__qualname__})"
            # before they are asked for: so many would take gigabytes
            is_large = type(value) in _CONTAINERS and len(value) > most
            references = () if is_large else _references(value, package)
            if is_large or len(queue) + len(references) > 2 * most:
                self.is_complete = False
                return None
            holder = holder if holder is not None and type(value) in _CONTAINERS else type(value)
            queue.extend((name, each, holder) for each in references if id(each) not in self._seen)
        return None

    def _counts(self, value: Any) -> bool:
        """Return whether `value` is one of the loops, or, if none is known, any loop that does not run yet."""
        if not issubclass(type(value), asyncio.AbstractEventLoop):
            return False
        return any(value is loop for loop in self._loops) if self._loops else not value.is_running()

    def _is_bound(self, value: Any) -> bool:
        """Return whether `value` is a lock or queue of asyncio, a cache of coroutines, an async context manager such as
        a session, a suspended coroutine, or an event loop, which some other object refers to."""
        cls = type(value)
        is_bound = self._bound_classes.get(cls)
        if is_bound is None:
            mro = _mro_of(cls)
            is_bound = self._bound_classes[cls] = (
                any(each in _BOUND or "__aenter__" in _dict_of(each) for each in mro)
                or str(_dict_of(cls).get("__module__")).partition(".")[0] in _CACHES
            )
        if cls in _SUSPENDED:
            return getattr(value, "cr_frame" if cls is CoroutineType else "ag_frame") is not None
        return is_bound or self._counts(value)


def _references(value: Any, package: str) -> Sequence[Any]:
    """Return what `value` refers to, as far as the search follows it."""
    cls = type(value)
    if issubclass(cls, (*_ENDS, asyncio.AbstractEventLoop)):
        return ()
    if issubclass(cls, weakref.ref):
        return (weakref.ref.__call__(value),)
    module = str(_dict_of(value if issubclass(cls, type) else cls).get("__module__"))
    if module.partition(".")[0] in _OURS:
        return ()
    if issubclass(cls, type) and module != package and not module.startswith(f"{package}."):
        return ()
    if cls is FunctionType:
        elsewhere = (value.__globals__, value.__builtins__)
        return [each for each in gc.get_referents(value) if all(each is not one for one in elsewhere)]
    return gc.get_referents(value)
