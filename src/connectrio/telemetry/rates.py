"""How many calls ended in each of the last minutes, how many of them failed, and how long they took.

Calls are counted once, in the metrics, in numbers that only grow. Once a minute these are written down here; what a
minute had is the difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Rates", "Totals", "quantile"]

# minutes that are kept, the current one included
_MOST_MINUTES = 30


@dataclass(frozen=True, slots=True)
class Totals:
    """The calls to a connector that have ended.

    :ivar failures: how many of them failed, absorbed ones included
    :ivar absorbed: failed polls that were answered with the last known phase
    :ivar retries: how often the host tried a poll or a create again
    :ivar durations: how many calls there are in each bucket, by how long they took; without streams
    """

    calls: int = 0
    failures: int = 0
    absorbed: int = 0
    retries: int = 0
    durations: tuple[int, ...] = ()

    def since(self, before: Totals) -> Totals:
        """Return the calls that have ended since `before`."""
        counts = before.durations or (0,) * len(self.durations)
        return Totals(
            self.calls - before.calls,
            self.failures - before.failures,
            self.absorbed - before.absorbed,
            self.retries - before.retries,
            tuple(one - other for one, other in zip(self.durations, counts, strict=True)),
        )


class Rates:
    """The calls to each connector in the last minutes.

    :param totals: returns the calls that have ended so far, by task type
    :param clock: returns seconds, from any start
    """

    def __init__(self, totals: Callable[[], Mapping[str, Totals]], clock: Callable[[], float]) -> None:
        self._totals = totals
        self._clock = clock
        # at the beginning of minutes, counted from the clock's start
        self._noted: deque[tuple[int, Mapping[str, Totals]]] = deque(maxlen=_MOST_MINUTES)
        self.note()

    def note(self) -> None:
        """Write the totals down if a minute has begun. The host calls it every few seconds."""
        minute = int(self._clock()) // 60
        if not self._noted or self._noted[-1][0] != minute:
            self._noted.append((minute, self._totals()))

    def totals(self, task_type: str) -> Totals:
        """Return the calls that have ended so far."""
        return self._totals().get(task_type, Totals())

    def minutes(self, task_type: str, last: int = _MOST_MINUTES) -> list[Totals]:
        """Return the calls of each of the last minutes, the oldest first; the last one is not over."""
        current = int(self._clock()) // 60
        begun = [(minute, totals.get(task_type, Totals())) for minute, totals in self._noted]
        ends = [*(totals for _, totals in begun[1:]), self.totals(task_type)]
        known = {minute: end.since(before) for (minute, before), end in zip(begun, ends, strict=True)}
        return [known.get(minute, Totals()) for minute in range(current - last + 1, current + 1)]


def quantile(minutes: Iterable[Totals], share: float, bounds: Sequence[float]) -> float | None:
    """Return the seconds that `share` of the calls took at most, as the upper end of a bucket.

    None without calls. Calls beyond the last bucket count as if they took as long as its end.

    :param bounds: the upper ends of the buckets
    """
    counted = [each.durations for each in minutes if each.durations]
    counts = [sum(column) for column in zip(*counted, strict=True)]
    wanted = share * sum(counts)
    if wanted == 0:
        return None
    reached = 0
    for count, bound in zip(counts, bounds, strict=False):
        reached += count
        if reached >= wanted:
            return bound
    return bounds[-1]
