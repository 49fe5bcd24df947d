"""The memory that requests hold until their last byte is here, for all calls of a server together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# when there is too much, this share of the limit is what may stay: so not every further byte looks for who has the most
_KEPT = 7 / 8


class RequestMemory:
    """Counts the bytes of unfinished requests, and refuses the largest when there are too many.

    Nothing here is safe for threads: use it on the event loop.

    :param limit: bytes
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Callable[[], None], int] = {}
        self._total = 0

    @contextmanager
    def holding(self, size: int, refuse: Callable[[], None]) -> Iterator[None]:
        """Count `size` bytes of a call during the block, which waits for more of its request.

        :param refuse: called if the call has to give them up; its bytes count no more then
        """
        self._held[refuse] = size
        self._total += size
        if self._total > self._limit:
            self._refuse_largest()
        try:
            yield
        finally:
            self._total -= self._held.pop(refuse, 0)

    def _refuse_largest(self) -> None:
        for refuse, size in sorted(self._held.items(), key=lambda item: -item[1]):
            if self._total <= _KEPT * self._limit:
                break
            del self._held[refuse]
            self._total -= size
            refuse()
