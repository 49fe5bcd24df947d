"""Calls that wait for a stream, in the order in which they came."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class Place:
    """One call's place in the queue."""

    __slots__ = ("_event", "_queue")

    def __init__(self, queue: CallQueue) -> None:
        self._queue = queue
        self._event: anyio.Event | None = None

    def is_first(self) -> bool:
        """Whether it is this call's turn."""
        return next(iter(self._queue.places)) is self

    def wake(self) -> None:
        """Have the call look again."""
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Sleep until there is reason to look again. Cancelled here, nothing has changed."""
        self._event = anyio.Event()
        await self._event.wait()


class CallQueue:
    """First come, first served: only the first may take a stream, and the next is woken when it leaves."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        # a plain dict walks over what was deleted before it finds its first
        self.places: OrderedDict[Place, None] = OrderedDict()

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A place at the end of the queue, for as long as the block runs. Left in any way, no turn is lost."""
        place = Place(self)
        self.places[place] = None
        try:
            yield place
        finally:
            del self.places[place]
            self.wake_first()

    def wake_first(self) -> None:
        """There may be a stream for one call."""
        if self.places:
            next(iter(self.places)).wake()

    def wake_all(self) -> None:
        """Something has changed that concerns all, such as that there is no server."""
        for place in self.places:
            place.wake()

    def __bool__(self) -> bool:
        return bool(self.places)
