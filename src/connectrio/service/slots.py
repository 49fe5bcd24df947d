"""Slots for calls and threads, divided so that no connector takes the slots of another.

1. A connector with fewer slots than its share always gets one, whatever the others do.
2. Beyond its share, it gets a slot that belongs to nobody's share. So one that is alone can use nearly all slots.
3. The rest wait. A free slot goes to the connector that has the fewest, and there to whoever has waited longest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import anyio
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from connectrio.service.operations import Operation
from connectrio.service.settings import ServiceSettings

__all__ = ["Admission", "NoRoomError", "Slots"]


class NoRoomError(Exception):
    """The queue is full."""


@dataclass(slots=True, eq=False)
class _Share:
    """The slots of one connector. `with` it to give one back at the end of the block."""

    name: str
    slots: Slots
    active: int = 0
    waiting: deque[_Place] = field(default_factory=deque)

    def __enter__(self) -> None:
        """The slot is taken already."""

    def __exit__(self, *_: object) -> None:
        self.slots.leave(self.name)


@dataclass(slots=True, eq=False)
class _Place:
    """A place in the queue.

    :ivar is_in: whether it has been given a slot
    """

    called: anyio.Event = field(default_factory=anyio.Event)
    is_in: bool = False


class Slots:
    """Slots for `limit` calls or threads at once.

    Nothing here is safe for threads: use it on the event loop.

    :param limit: for all connectors together
    :param each: for any one of them
    :param waiting: how many may wait; each connector has an equal part of the queue
    :ivar most_waiting: how many may wait
    :param elastic: whether each connector's share is an equal part of all slots, which it gets even if others have
        taken all: then up to twice `limit` can be taken for a while. Otherwise only half of the slots is divided up
    """

    def __init__(self, limit: int, *, each: float = math.inf, waiting: float = math.inf, elastic: bool = False) -> None:
        self.limit = limit
        self.most_waiting = waiting
        self._each = each
        self._most_waiting_each = waiting
        self._elastic = elastic
        self._shares: dict[str, _Share] = {}
        self._share_size = 0
        self._room = limit
        # the slots that connectors have beyond their shares
        self._beyond = 0
        self._waiting = 0
        self.active = 0

    def divide_among(self, names: Iterable[str]) -> None:
        """Divide the slots among these connectors too."""
        for name in names:
            self._shares.setdefault(name, _Share(name, self))
        count = max(1, len(self._shares))
        if 0 < self.most_waiting < math.inf:
            self._most_waiting_each = max(1, self.most_waiting // count)
        if self._elastic:
            self._share_size = max(1, self.limit // count)
            self._room = self.limit - self._share_size
        else:
            self._share_size = self.limit // (2 * count)
            self._room = self.limit - count * self._share_size
        self._beyond = sum(max(0, share.active - self._share_size) for share in self._shares.values())

    def usage(self) -> Iterator[tuple[str, int, int]]:
        """Yield for each connector its name, how many slots it has, and how many wait for one."""
        for share in list(self._shares.values()):
            yield share.name, share.active, len(share.waiting)

    def taken_by(self, name: str) -> int:
        """Return how many slots a connector has."""
        share = self._shares.get(name)
        return 0 if share is None else share.active

    def try_enter(self, name: str) -> AbstractContextManager[None] | None:
        """Take a slot if there is one now; who takes one must `leave`, or `with` what this returns."""
        share = self._shares.get(name)
        if share is None:
            self.divide_among([name])
            share = self._shares[name]
        return share if not share.waiting and self._take(share) else None

    async def enter(self, name: str) -> AbstractContextManager[None]:
        """Take a slot, after waiting if need be; who takes one must `leave`, or `with` what this returns.

        :raises NoRoomError: the queue is full
        """
        entered = self.try_enter(name)
        if entered is not None:
            return entered
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
        return share

    def leave(self, name: str) -> None:
        """Give a slot back."""
        share = self._shares[name]
        if share.active > self._share_size:
            self._beyond -= 1
        share.active -= 1
        self.active -= 1
        if self._waiting:
            self._fill_free_slots()

    def _take(self, share: _Share) -> bool:
        if share.active >= self._each:
            return False
        if share.active >= self._share_size:
            if self._beyond >= self._room:
                return False
            self._beyond += 1
        share.active += 1
        self.active += 1
        return True

    def _fill_free_slots(self) -> None:
        for share in sorted(self._shares.values(), key=lambda share: share.active):
            while share.waiting and self._take(share):
                place = share.waiting.popleft()
                self._waiting -= 1
                place.is_in = True
                place.called.set()


class Admission(Collector):
    """The slots for calls. Streams of logs, which can be followed for as long as a job takes, have slots of their own.

    In a registry of metrics, it is asked at each scrape how many slots are taken; so calls need not count.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        each, waiting = settings.max_calls_per_connector, settings.max_waiting_calls
        self._calls = Slots(settings.max_calls, each=each, waiting=waiting)
        self._streams = Slots(settings.max_log_streams, waiting=0)

    def slots(self, operation: Operation) -> Slots:
        """Return where a call for `operation` takes a slot."""
        return self._streams if operation is Operation.GET_LOGS else self._calls

    def divide_among(self, task_types: Iterable[str]) -> None:
        """Divide the slots among the connectors for these."""
        names = list(task_types)
        self._calls.divide_among(names)
        self._streams.divide_among(names)

    def collect(self) -> Iterator[Metric]:
        """Yield how many calls have a slot and how many wait, of each connector, and how many may."""
        labels = ["task_type", "kind"]
        active = GaugeMetricFamily("connectrio_active_calls", "Calls that are with a connector", labels=labels)
        most_active = GaugeMetricFamily(
            "connectrio_active_calls_limit", "Calls that may be with all connectors together", labels=["kind"]
        )
        waiting = GaugeMetricFamily("connectrio_waiting_calls", "Calls that wait for room", labels=labels)
        most_waiting = GaugeMetricFamily(
            "connectrio_waiting_calls_limit", "Calls of all connectors that may wait for room", labels=["kind"]
        )
        for kind, slots in ("calls", self._calls), ("log_streams", self._streams):
            for name, entered, queued in slots.usage():
                active.add_metric([name, kind], entered)
                waiting.add_metric([name, kind], queued)
            most_active.add_metric([kind], slots.limit)
            most_waiting.add_metric([kind], slots.most_waiting)
        yield from (active, most_active, waiting, most_waiting)
