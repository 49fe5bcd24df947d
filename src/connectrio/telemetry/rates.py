"""How many calls ended in each of the last minutes, how many of them failed, and how long they took."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["MinuteCount", "Rates", "quantile"]

# minutes that are kept, the current one included
_MOST_MINUTES = 30

# seconds; the upper ends of the buckets. What takes longer is in one more bucket, which ends at infinity
_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)


@dataclass(slots=True)
class MinuteCount:
    """The calls that ended in one minute.

    :ivar minute: minutes since the clock's start
    :ivar durations: how many calls there are in each bucket of `_BOUNDS`, and beyond them; without streams
    """

    minute: int
    calls: int = 0
    failures: int = 0
    absorbed: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))


class Rates:
    """The calls to one connector.

    :ivar calls: all of them
    :ivar failures: those that failed, absorbed ones included
    :ivar absorbed: failed polls that were answered with the last known phase
    """

    __slots__ = ("_minutes", "absorbed", "calls", "failures")

    def __init__(self) -> None:
        self.calls = self.failures = self.absorbed = 0
        self._minutes: deque[MinuteCount] = deque(maxlen=_MOST_MINUTES)

    def ended(self, now: float, seconds: float | None, *, failed: bool = False, absorbed: bool = False) -> None:
        """Count a call.

        :param now: seconds
        :param seconds: how long it took; None for a stream, which takes as long as its client wants
        """
        number = int(now) // 60
        minutes = self._minutes
        if not minutes or minutes[-1].minute != number:
            minutes.append(MinuteCount(number))
        minute = minutes[-1]
        minute.calls += 1
        self.calls += 1
        if failed:
            minute.failures += 1
            self.failures += 1
        if absorbed:
            minute.absorbed += 1
            self.absorbed += 1
        if seconds is not None:
            minute.durations[bisect_left(_BOUNDS, seconds)] += 1

    def minutes(self, now: float, last: int = _MOST_MINUTES) -> list[MinuteCount]:
        """Return the last minutes, the oldest first, also those without calls."""
        known = {each.minute: each for each in self._minutes}
        current = int(now) // 60
        return [known.get(number) or MinuteCount(number) for number in range(current - last + 1, current + 1)]


def quantile(minutes: Iterable[MinuteCount], share: float) -> float | None:
    """Return the seconds that `share` of the calls took at most, as the upper end of a bucket.

    None without calls. Calls beyond the last bucket count as if they took as long as its end.
    """
    counts = [sum(column) for column in zip(*(each.durations for each in minutes), strict=True)]
    wanted = share * sum(counts)
    if wanted == 0:
        return None
    reached = 0
    for count, bound in zip(counts, _BOUNDS, strict=False):
        reached += count
        if reached >= wanted:
            return bound
    return _BOUNDS[-1]
