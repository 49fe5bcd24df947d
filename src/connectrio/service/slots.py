"""Room for things that run at once, divided so that no connector takes the room of another.

1. A connector below its share of the room always gets in, whatever the others do.
2. Beyond that it gets in while there is room that is nobody's share; so one that is alone can use nearly all of it.
3. The rest wait. What becomes free goes to the connector that has the least of it, and there to who waits longest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

import anyio

__all__ = ["NoRoomError", "Slots"]


class NoRoomError(Exception):
    """As many wait as may."""


class _Share:
    """What one connector has of the room."""

    __slots__ = ("active", "name", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.active = 0
        self.waiting: deque[_Place] = deque()


class _Place:
    """One that waits."""

    __slots__ = ("called", "is_in")

    def __init__(self) -> None:
        self.called = anyio.Event()
        self.is_in = False


class Slots:
    """Room for `limit` at once.

    Nothing here is safe for threads: use it on the event loop.

    :param limit: for all connectors together
    :param each: for any one of them
    :param waiting: how many may wait; each connector for an equal part of that
    :param elastic: each connector's share is an equal part of the whole room, even though another has taken all of it
        before: then there can be up to twice `limit` for a while. Otherwise half of the room is divided up
    """

    def __init__(self, limit: int, *, each: float = math.inf, waiting: float = math.inf, elastic: bool = False) -> None:
        self.limit = limit
        self._each = each
        self._most_waiting = self._most_waiting_each = waiting
        self._elastic = elastic
        self._shares: dict[str, _Share] = {}
        self._share_size = 0
        self._room = limit
        # how many have more than their connector's share
        self._beyond = 0
        self._waiting = 0
        self.active = 0

    def expect(self, names: Iterable[str]) -> None:
        """Divide the room among these connectors too."""
        for name in names:
            self._shares.setdefault(name, _Share(name))
        count = max(1, len(self._shares))
        if 0 < self._most_waiting < math.inf:
            self._most_waiting_each = max(1, self._most_waiting // count)
        if self._elastic:
            self._share_size = max(1, self.limit // count)
            self._room = self.limit - self._share_size
        else:
            self._share_size = self.limit // (2 * count)
            self._room = self.limit - count * self._share_size
        self._beyond = sum(max(0, share.active - self._share_size) for share in self._shares.values())

    def usage(self) -> Iterator[tuple[str, int, int]]:
        """For each connector its name, how many are in, and how many wait."""
        for share in list(self._shares.values()):
            yield share.name, share.active, len(share.waiting)

    def try_enter(self, name: str) -> bool:
        """Go in at once, if there is room; who does must `leave`."""
        share = self._shares.get(name)
        if share is None:
            self.expect([name])
            share = self._shares[name]
        if share.waiting or not self._has_room(share):
            return False
        self._enter(share)
        return True

    async def enter(self, name: str) -> None:
        """Go in, after waiting if need be; who does must `leave`.

        :raises NoRoomError: as many wait as may
        """
        if self.try_enter(name):
            return
        share = self._shares[name]
        if len(share.waiting) >= self._most_waiting_each:
            raise NoRoomError
        place = _Place()
        share.waiting.append(place)
        self._waiting += 1
        try:
            await place.called.wait()
        except BaseException:
            if place.is_in:
                self.leave(name)
            else:
                share.waiting.remove(place)
                self._waiting -= 1
            raise

    def leave(self, name: str) -> None:
        """Make room."""
        share = self._shares[name]
        if share.active > self._share_size:
            self._beyond -= 1
        share.active -= 1
        self.active -= 1
        if self._waiting:
            self._call_in()

    def _has_room(self, share: _Share) -> bool:
        if share.active >= self._each:
            return False
        return share.active < self._share_size or self._beyond < self._room

    def _enter(self, share: _Share) -> None:
        share.active += 1
        self.active += 1
        if share.active > self._share_size:
            self._beyond += 1

    def _call_in(self) -> None:
        for share in sorted(self._shares.values(), key=lambda share: share.active):
            while share.waiting and self._has_room(share):
                place = share.waiting.popleft()
                self._waiting -= 1
                place.is_in = True
                self._enter(share)
                place.called.set()
