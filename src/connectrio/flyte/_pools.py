"""The pools of loops that are open, by package."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

import anyio
from anyio import to_thread

from connectrio.flyte._loop_pool import LoopPool
from connectrio.flyte._loop_thread import LoopThread
from connectrio.flyte.affinity import loop_bound_state
from connectrio.logs import get_logger

__all__ = ["LoopPools"]

logger = get_logger("connectrio.flyte")

# seconds; less than a host gives a lifespan to close. A thread that blocks longer cannot be stopped, and is left alone
_CLOSE_TIMEOUT = 5.0


@dataclass
class _Open:
    """A pool, and the connectors whose lifespans hold it open: one may be in several hosts of a process."""

    pool: LoopPool
    connectors: list[object] = field(default_factory=list)


class LoopPools:
    """A pool for each package, open for as long as anybody holds it open."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._lock = Lock()

    def get(self, package: str) -> LoopPool:
        """The open pool of that package.

        :raises RuntimeError: there is none
        """
        try:
            return self._open[package].pool
        except KeyError:
            raise RuntimeError(
                f"the hosted connectors of {package} have no event loop: call them within their lifespan()"
            ) from None

    @asynccontextmanager
    async def open(self, package: str, limit: int, connector: object) -> AsyncIterator[None]:
        """Hold the package's pool open. Whoever leaves last closes it: its loops and threads end, within bounds.

        :param limit: how many loops there may be beside the home loop; of an open pool, the first one's
        """
        held = self._hold(package, limit, connector)
        try:
            yield
        finally:
            if self._let_go(package, held, connector):
                await _close(held.pool)

    def _hold(self, package: str, limit: int, connector: object) -> _Open:
        with self._lock:
            held = self._open.get(package)
            if held is None:
                connectors: list[object] = []
                pool = LoopPool(package, limit, partial(loop_bound_state, package, connectors))
                held = self._open[package] = _Open(pool, connectors)
            held.connectors.append(connector)
            return held

    def _let_go(self, package: str, held: _Open, connector: object) -> bool:
        with self._lock:
            held.connectors.remove(connector)
            if not held.connectors:
                del self._open[package]
            return not held.connectors


async def _close(pool: LoopPool) -> None:
    threads = pool.stop()
    with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
        await to_thread.run_sync(_join, threads, abandon_on_cancel=True)
    for thread in threads:
        if thread.is_alive:
            logger.warning("a hosted connector's thread did not end", thread=thread.name, position=thread.position())


def _join(threads: list[LoopThread]) -> None:
    for thread in threads:
        thread.join()
