"""The one account of a host's calls and jobs: bounded, in memory, and read by all that shows them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import anyio
import msgspec

from connectrio.diagnostics import Repeats, dropped_lines
from connectrio.logs import tell_left_out
from connectrio.telemetry.incidents import Incidents
from connectrio.telemetry.jobs import Jobs
from connectrio.telemetry.rates import Rates
from connectrio.telemetry.report import FailureReport

__all__ = ["Account"]

# failures that are told apart
_MOST_FAILURES = 100
# lines of failed calls of one sort within as many seconds; further ones are left out, and counted
_MOST_LINES = 5
_LINE_INTERVAL = 5.0
# seconds between two looks for incidents that are over
_PERIOD = 5.0


class Account:
    """What happened on a host, and what happens.

    :param clock: returns seconds, from any start
    :param wall_clock: returns seconds since 1970
    :ivar jobs: those that were used last
    :ivar calls: those that are being answered, in the order of their arrival; each is a record of its service
    :ivar incidents: of the systems behind the connectors
    :ivar rates: calls in the last minutes; empty until a service gives its own
    :ivar lines_dropped_at: when log lines could not be written last; None if all were
    :ivar failed_calls: which log lines of failed calls are left out
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.clock = clock
        self.wall_clock = wall_clock
        self.jobs = Jobs(clock)
        self.calls: dict[Any, None] = {}
        self.incidents = Incidents(clock)
        self.failed_calls = Repeats(_LINE_INTERVAL, clock, burst=_MOST_LINES)
        # how many log lines could not be written, and when that was seen to grow
        self._dropped = dropped_lines()
        self.lines_dropped_at: float | None = None
        self.rates = Rates(dict, clock)
        # by what they have in common: the last one of each sort, and how many there were before
        self._failures: OrderedDict[tuple[str, ...], FailureReport] = OrderedDict()

    async def run(self) -> None:
        """Write down the minute's counts, and look for incidents that are over and for log lines that could not be
        written or were left out, until cancelled."""
        while True:
            await anyio.sleep(_PERIOD)
            self.incidents.settle()
            self.rates.note()
            tell_left_out()
            self.look_at_log()

    def look_at_log(self) -> None:
        """Note when log lines could not be written lately."""
        dropped = dropped_lines()
        if dropped > self._dropped:
            self._dropped, self.lines_dropped_at = dropped, self.clock()

    def failed(self, failure: FailureReport, label: str) -> None:
        """Keep a failed call, in place of the last one of the same sort.

        :param label: the task type, or one word for all that are not registered: a client that makes names up must not
            push the failures of connectors out
        """
        key = label, failure.operation, failure.status, failure.kind, failure.place
        before = self._failures.pop(key, None)
        similar, first = (0, failure.at) if before is None else (before.similar + 1, before.first)
        self._failures[key] = msgspec.structs.replace(failure, similar=similar, first=first)
        if len(self._failures) > _MOST_FAILURES:
            self._failures.popitem(last=False)

    def failures(self) -> list[FailureReport]:
        """Return the failed calls, the latest first."""
        return list(reversed(self._failures.values()))
