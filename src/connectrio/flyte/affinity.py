"""Which hosted connectors share event loops: those of one package. The open pools."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
from anyio import to_thread

from connectrio.flyte._loop_pool import LoopPool
from connectrio.flyte._loop_state import loop_bound_state
from connectrio.logs import get_logger

__all__ = ["ANY_LOOP", "LoopPools"]

logger = get_logger("connectrio.flyte")

ANY_LOOP = "connectrio_any_loop"
"""A class attribute of a connector for flyte-sdk: whether its calls may run on any event loop, and at once in several
threads. True: they leave the home loop without a proof; False: they never leave it."""

# seconds; less than a host gives a lifespan to close. A thread that blocks longer cannot be stopped, and is abandoned
_CLOSE_TIMEOUT = 5.0


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
                bound_state = partial(loop_bound_state, package, connectors)
                pool = LoopPool(package, limit, bound_state, partial(_says, connectors))
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


def _says(connectors: Sequence[object]) -> bool | None:
    """Return what the connectors say of themselves: whether all of them bear calls on any loop."""
    said = {getattr(type(connector), ANY_LOOP, None) for connector in connectors}
    if False in said:
        return False
    return True if said == {True} else None
