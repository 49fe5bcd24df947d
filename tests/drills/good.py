"""The good client's process, and the results of its calls in a period."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from drills.hosting import HERE, PATIENCE, environment
from e2e.programs import Program

_OK = "done"


@dataclass(frozen=True)
class Service:
    """The results of a client's calls in a period.

    :ivar calls: how many it began
    :ivar failures: those that failed, by error
    :ivar p50_ms: the median of the others' times
    :ivar p99_ms: the time that one in a hundred exceeds
    :ivar max_ms: the longest
    """

    calls: int
    failures: dict[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float


def service(calls: Sequence[dict[str, Any]]) -> Service:
    """Return the summary of these calls."""
    times = sorted(1000 * call["seconds"] for call in calls if call["outcome"] == _OK) or [float("nan")]
    return Service(
        len(calls),
        dict(Counter(call["outcome"] for call in calls if call["outcome"] != _OK)),
        statistics.median(times),
        times[int(len(times) * 0.99)],
        times[-1],
    )


class GoodClient(Program):
    """A process that calls a host until the context ends.

    :param rate: calls a second
    :param authority: by which it knows a host that serves TLS
    """

    def __init__(self, target: str, *, rate: float = 100, authority: Path | None = None) -> None:
        command = [sys.executable, "-m", "drills.good_client", target, str(rate)]
        super().__init__([*command, *([] if authority is None else [authority])], cwd=HERE, env=environment())

    def ready(self) -> Self:
        """Wait until its calls are answered. Return this object."""
        self.wait_for("call", 10, patience=PATIENCE)
        return self

    def wait_for_more(self, calls: int) -> None:
        """Wait until that many more calls have ended."""
        self.wait_for("call", len(self.events("call")) + calls, patience=PATIENCE)

    def between(self, begin: float, end: float) -> Service:
        """Return the results of the calls that began in a period of the monotonic clock."""
        return service([call for call in self.events("call") if begin <= call["at"] < end])
