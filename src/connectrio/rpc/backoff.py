"""Pauses between attempts, each longer than the one before. Synchronous; nothing here waits."""

from __future__ import annotations

import math
import random
from collections.abc import Callable


class Backoff:
    """Says how long to pause before the next attempt.

    :param initial: seconds of the first pause, before jitter
    :param factor: how many times longer each further pause is
    :param maximum: seconds after which pauses grow no more, before jitter
    :param jitter: the share of a pause, from 0 to 1, by which it is lengthened or shortened at random
    :param uniform: returns a random number between two others
    """

    __slots__ = ("_factor", "_initial", "_jitter", "_maximum", "_next", "_uniform")

    def __init__(
        self,
        initial: float,
        *,
        factor: float,
        maximum: float = math.inf,
        jitter: float = 0.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._initial = self._next = initial
        self._factor = factor
        self._maximum = maximum
        self._jitter = jitter
        self._uniform = uniform

    def next(self) -> float:
        """Return the seconds of the next pause; the one after it will be longer."""
        pause, self._next = self._next, min(self._next * self._factor, self._maximum)
        return pause * self._uniform(1 - self._jitter, 1 + self._jitter)

    def reset(self) -> None:
        """Begin again with the shortest pause."""
        self._next = self._initial
