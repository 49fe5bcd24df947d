"""How far apart attempts to connect are. Synchronous; nothing here waits.

Source: gRPC's "Connection Backoff Protocol".
"""

from __future__ import annotations

import random
from collections.abc import Callable

from connectrio.rpc.options import ChannelOptions


class Backoff:
    """Seconds from the start of one attempt to the start of the next: more and more, spread at random.

    :param spread: a random number between two others
    """

    def __init__(self, options: ChannelOptions, spread: Callable[[float, float], float] = random.uniform) -> None:
        self._options = options
        self._spread = spread
        self._current = options.initial_backoff

    def next_delay(self) -> float:
        """The time from the attempt that begins now to the next."""
        options, current = self._options, self._current
        self._current = min(current * options.backoff_multiplier, options.max_backoff)
        return current * self._spread(1 - options.backoff_jitter, 1 + options.backoff_jitter)

    def reset(self) -> None:
        """Begin again with the shortest delay: there was success."""
        self._current = self._options.initial_backoff
