"""Counts of calls by minute."""

from __future__ import annotations

from connectrio.telemetry.rates import Rates, Totals, quantile

BOUNDS = (0.002, 10.0)


class Calls:
    """Counts calls as the metrics do, and is a clock."""

    def __init__(self) -> None:
        self.now = 60_000.0
        self.counts = {"tiny": Totals(durations=(0, 0, 0))}

    def __call__(self) -> float:
        return self.now

    def end(self, number: int, *, bucket: int = 0, failed: int = 0) -> None:
        before = self.counts["tiny"]
        durations = list(before.durations)
        durations[bucket] += number
        self.counts["tiny"] = Totals(
            before.calls + number, before.failures + failed, before.absorbed + failed, durations=tuple(durations)
        )

    def totals(self):
        return dict(self.counts)


def test_calls_are_counted_in_their_minute():
    calls = Calls()
    rates = Rates(calls.totals, calls)
    calls.end(2, failed=1)
    calls.now += 65
    rates.note()
    calls.end(3)
    calls.now += 10
    rates.note()
    calls.end(4)
    assert [(each.calls, each.failures, each.absorbed) for each in rates.minutes("tiny", 3)] == [
        (0, 0, 0),
        (2, 1, 1),
        (7, 0, 0),
    ]
    assert rates.totals("tiny").calls == 9
    assert rates.totals("unknown") == Totals()
    assert [each.calls for each in rates.minutes("unknown", 2)] == [0, 0]


def test_half_an_hour_is_kept():
    calls = Calls()
    rates = Rates(calls.totals, calls)
    for _ in range(100):
        rates.note()
        calls.end(1)
        calls.now += 60
    calls.now -= 60
    assert [each.calls for each in rates.minutes("tiny")] == [1] * 30


def test_minutes_in_which_nobody_looked():
    calls = Calls()
    rates = Rates(calls.totals, calls)
    calls.end(5)
    calls.now += 180
    rates.note()
    assert [each.calls for each in rates.minutes("tiny", 4)] == [5, 0, 0, 0]


def test_quantiles_are_upper_ends_of_buckets():
    calls = Calls()
    rates = Rates(calls.totals, calls)
    assert quantile(rates.minutes("tiny"), 0.5, BOUNDS) is None
    calls.end(94)
    calls.end(6, bucket=1)
    minutes = rates.minutes("tiny")
    assert [quantile(minutes, share, BOUNDS) for share in (0.5, 0.94, 0.95, 0.99)] == [0.002, 0.002, 10.0, 10.0]
    calls.end(900, bucket=2)
    assert quantile(rates.minutes("tiny"), 1.0, BOUNDS) == 10.0
