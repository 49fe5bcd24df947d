"""Trying again what failed for reasons that pass."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from connectrio.connector.base import AsyncConnector
from connectrio.logs import get_logger
from connectrio.service.errors import only_leaf

__all__ = ["is_transient", "try_again"]

logger = get_logger("connectrio.service")

T = TypeVar("T")

# seconds
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_random = random.Random()  # noqa: S311 - spreads load, hides nothing


def is_transient(connector: AsyncConnector[Any], error: BaseException) -> bool:
    """Whether the connector takes `error` for one that may pass."""
    error = only_leaf(error)
    if not isinstance(error, Exception):
        return False
    try:
        return bool(connector.is_transient(error))
    except Exception:
        logger.exception("is_transient failed; the error counts as lasting", connector=connector.name)
        return False


async def try_again(
    work: Callable[[], Awaitable[T]],
    error: Exception,
    connector: AsyncConnector[Any],
    *,
    seconds: float,
    count: Callable[[], None],
) -> T:
    """Do `work`, which has just raised `error`, again, after pauses that double.

    :param seconds: how long to go on. Half of what is left until the call's deadline is the most: the rest is for an
        attempt that takes its time, and for the answer
    :param count: called at each attempt
    :raises Exception: `error`, or the last one like it, when the time has passed; whatever else `work` raises
    """
    now = anyio.current_time()
    end = now + min(seconds, (anyio.current_effective_deadline() - now) / 2)
    pause = _FIRST_PAUSE
    while True:
        wait = pause * _random.uniform(0.5, 1.5)
        if anyio.current_time() + wait > end:
            raise error
        await anyio.sleep(wait)
        count()
        try:
            return await work()
        except Exception as next_error:
            if not is_transient(connector, next_error):
                raise
            error = next_error
        pause = min(2 * pause, _LONGEST_PAUSE)
