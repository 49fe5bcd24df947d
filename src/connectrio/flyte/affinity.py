"""Which hosted connectors share event loops: those of one package. The open pools, and what belongs to one loop."""

from __future__ import annotations

import asyncio  # noqa: TID251 - to find its locks and queues
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import ModuleType
from typing import Any

import anyio
from anyio import to_thread

from connectrio.flyte._loop_pool import LoopPool
from connectrio.logs import get_logger

__all__ = ["LoopPools", "loop_bound_state", "root_package"]

logger = get_logger("connectrio.flyte")

_BOUND = (asyncio.Lock, asyncio.Event, asyncio.Condition, asyncio.Semaphore, asyncio.Queue, asyncio.Future)
# packages whose decorated functions keep tasks or locks of the loop of their first call
_CACHES = {"async_lru", "aiocache"}
# of a collection: this runs on the event loop of the host, so it must not take long
_MOST_ITEMS = 1000
# seconds; less than a host gives a lifespan to close. A thread that blocks longer cannot be stopped, and is abandoned
_CLOSE_TIMEOUT = 5.0


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


@dataclass
class _Open:
    """A pool, and the connectors whose lifespans keep it open; one connector may be in several hosts of a process."""

    pool: LoopPool
    connectors: list[object] = field(default_factory=list)


class LoopPools:
    """The open pools, by package."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()

    def get(self, package: str) -> LoopPool:
        """Return the open pool of a package.

        :raises RuntimeError: it is not open
        """
        try:
            return self._open[package].pool
        except KeyError:
            raise RuntimeError(
                f"the hosted connectors of {package} have no event loop: call them within their lifespan()"
            ) from None

    @asynccontextmanager
    async def open(self, package: str, limit: int, connector: object) -> AsyncIterator[None]:
        """Keep the package's pool open. The last one to leave closes it, and waits for its threads, within bounds.

        :param limit: the most loops in addition to the home loop; an open pool keeps its limit
        """
        with self._lock:
            held = self._open.get(package)
            if held is None:
                connectors: list[object] = []
                pool = LoopPool(package, limit, partial(loop_bound_state, package, connectors))
                held = self._open[package] = _Open(pool, connectors)
            held.connectors.append(connector)
        try:
            yield
        finally:
            with self._lock:
                held.connectors.remove(connector)
                is_last = not held.connectors
                if is_last:
                    del self._open[package]
            if is_last:
                await _close(held.pool)


async def _close(pool: LoopPool) -> None:
    threads = pool.stop()

    def join() -> None:
        for thread in threads:
            thread.join()

    with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
        await to_thread.run_sync(join, abandon_on_cancel=True)
    for thread in threads:
        if thread.is_alive:
            logger.warning("a hosted connector's thread did not end", thread=thread.name, where=thread.position())


def loop_bound_state(package: str, connectors: Iterable[object]) -> str | None:
    """Return the name of an object in `package` or these connectors that belongs to one event loop; else None.

    This looks at the attributes of modules, classes and the connectors, and into their lists, tuples, sets and dicts.
    Objects in closures of functions are not found. `_loop_pool.py` says what happens then.
    """
    for owner, names in _namespaces(package, connectors):
        for name, value in names.items():
            if any(_is_bound(item) for item in _with_items(value)):
                return f"{owner}.{name}"
    return None


def _namespaces(package: str, connectors: Iterable[object]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for module_name, module in list(sys.modules.items()):
        if module_name == package or module_name.startswith(f"{package}."):
            names = dict(vars(module))
            yield module_name, names
            for value in names.values():
                if isinstance(value, type) and value.__module__ == module_name:
                    yield f"{module_name}.{value.__qualname__}", dict(vars(value))
    for connector in connectors:
        yield type(connector).__qualname__, dict(getattr(connector, "__dict__", {}))


def _with_items(value: Any) -> Iterator[Any]:
    yield value
    # no subclasses: iterating them may run any code. Copied, because other threads change them
    if type(value) in (list, tuple, set, dict):
        yield from islice(list(value.values() if type(value) is dict else value), _MOST_ITEMS)


def _is_bound(value: Any) -> bool:
    """Return whether `value` is a lock or queue of asyncio, a cache of coroutines, an async context manager such as a
    session, or any other object with a loop as its `_loop`."""
    if isinstance(value, type | ModuleType):
        return False
    cls = type(value)
    if isinstance(value, _BOUND) or hasattr(cls, "__aenter__") or cls.__module__.partition(".")[0] in _CACHES:
        return True
    try:
        # without running code of the object: some load a module when an attribute is read
        loop = object.__getattribute__(value, "_loop")
    except AttributeError:
        return False
    return isinstance(loop, asyncio.AbstractEventLoop)
