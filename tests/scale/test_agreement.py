"""The cheap simulation says what the service's own code does."""

from __future__ import annotations

from typing import Any

import pytest

from scale import model, real
from scale.cases import Case, Design
from scale.propeller import Executor

FAST = Executor(qps=1000, burst=1000, workers=50)
SHORT = {"warm": 60.0, "seconds": 120.0}
# how much the two may differ: a part, and what it may be at least, for small numbers
TOLERANCES = {
    "polls_per_s": (0.03, 0.2),
    "vendor_requests_per_s": (0.1, 0.5),
    "stale_p50": (0.15, 2.0),
    "stale_p99": (0.15, 3.0),
}
CASES = {
    "get": Case(1000, executor=FAST, **SHORT),
    "get, the executor's defaults": Case(1000, warm=200, seconds=300),
    "get, 40 calls at once, 20 may wait": Case(1000, executor=FAST, slots=40, waiting=20, **SHORT),
    "get, 40 calls at once, 5 may wait": Case(1000, executor=FAST, slots=40, waiting=5, **SHORT),
    "get_many, 20 calls at once, 5 may wait": Case(1000, Design.MANY, executor=FAST, slots=20, waiting=5, **SHORT),
    "get, limited": Case(1000, Design.LIMITED, rate=25, executor=FAST, **SHORT),
    "get, limited, 3 replicas": Case(1000, Design.LIMITED, rate=8, replicas=3, executor=FAST, warm=60, seconds=300),
    "get_many": Case(1000, Design.MANY, executor=FAST, **SHORT),
    "get_many, limited": Case(1000, Design.MANY, rate=2, executor=FAST, **SHORT),
    "get_many, 3 replicas": Case(1000, Design.MANY, replicas=3, executor=FAST, **SHORT),
    "get_many, 3 executors, sticky": Case(
        1000, Design.MANY, replicas=3, sticky=True, executor=Executor(qps=1000, burst=1000, shards=3), **SHORT
    ),
    "get, limited, 10,000 jobs": Case(10_000, Design.LIMITED, rate=150, executor=FAST, warm=20, seconds=40),
    "get_many, 10,000 jobs": Case(10_000, Design.MANY, executor=FAST, warm=20, seconds=50),
}


def differing(seen: dict[str, Any], said: dict[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """Return the figures that differ by more than they may, as the service's code and the model have them."""
    found = {}
    for figure, (part, least) in TOLERANCES.items():
        one, other = seen[figure], said[figure]
        is_same = one is other if one is None or other is None else abs(one - other) <= max(least, part * one)
        if not is_same:
            found[figure] = one, other
    return found


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_agreement(case):
    assert differing(real.simulate(case), model.simulate(case)) == {}
