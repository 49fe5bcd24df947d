"""The memory that requests hold, for all calls of a server together: until their last byte is here, and afterwards."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from connectrio.rpc.codec import received_messages, received_size

# bytes that an object of a message takes, about, and for each byte on the wire: lists of short texts take 14, one long
# text takes 1
_BYTES_PER_MESSAGE = 256
_BYTES_PER_BYTE = 4
# bytes; smaller messages are not counted, and none that is smaller than the second number on the wire can be larger
_SMALLEST = 64 * 1024
SMALL_ON_THE_WIRE = _SMALLEST // _BYTES_PER_MESSAGE * 2

# when there is too much, this share of the limit is what may stay: so not every further byte looks for who has the most
_KEPT = 7 / 8


class NoRoomError(Exception):
    """There is no memory for a message."""


class RequestMemory:
    """Counts the bytes of requests, and refuses the largest unfinished ones, or a further decoded one.

    Nothing here is safe for threads: use it on the event loop.

    :param limit: bytes of unfinished requests, and as many of decoded ones
    :ivar refused: how many requests had to give up their memory, or got none
    """

    def __init__(self, limit: int) -> None:
        self.refused = 0
        self._limit = limit
        self._decoded: dict[int, tuple[weakref.ref[Any], int]] = {}
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

    def keep(self, message: Any, size: int) -> None:
        """Count a decoded message for as long as it exists; or the message in it that most of it is.

        Small ones are not counted, and one that is alone is never refused.

        :param size: bytes that it had on the wire
        :raises NoRoomError: decoded messages would take more than they may
        """
        estimate = _BYTES_PER_BYTE * size + _BYTES_PER_MESSAGE * received_messages(message)
        if estimate < _SMALLEST:
            return
        others = sum(each for _, each in list(self._decoded.values()))
        if others and others + estimate > self._limit:
            self.refused += 1
            raise NoRoomError
        for part in list(getattr(message, "__dict__", {}).values()):
            if 2 * (received_size(part) or 0) > size:
                message = part
        with suppress(TypeError):  # a foreign codec's message that nothing can refer to weakly is not counted
            # it may die in any thread, and one step of a dictionary is safe there
            reference = weakref.ref(message, lambda gone: self._decoded.pop(id(gone), None))
            self._decoded[id(reference)] = reference, estimate

    def _refuse_largest(self) -> None:
        for refuse, size in sorted(self._held.items(), key=lambda item: -item[1]):
            if self._total <= _KEPT * self._limit:
                break
            del self._held[refuse]
            self._total -= size
            self.refused += 1
            refuse()
