"""Counts of calls by minute."""

from __future__ import annotations

from connectrio.telemetry.rates import Rates, quantile


def test_calls_are_counted_in_their_minute():
    rates = Rates()
    for second, failed in ((5, False), (59, True), (60, False)):
        rates.ended(1000 * 60 + second, 0.003, failed=failed, absorbed=failed)
    minutes = rates.minutes(1000 * 60 + 130, 4)
    assert [(each.minute, each.calls, each.failures, each.absorbed) for each in minutes] == [
        (999, 0, 0, 0),
        (1000, 2, 1, 1),
        (1001, 1, 0, 0),
        (1002, 0, 0, 0),
    ]
    assert (rates.calls, rates.failures, rates.absorbed) == (3, 1, 1)


def test_half_an_hour_is_kept():
    rates = Rates()
    for minute in range(100):
        rates.ended(minute * 60, 1.0)
    minutes = rates.minutes(99 * 60)
    assert [each.minute for each in minutes] == list(range(70, 100))
    assert all(each.calls == 1 for each in minutes)
    assert rates.calls == 100


def test_quantiles_are_upper_ends_of_buckets():
    rates = Rates()
    assert quantile(rates.minutes(0), 0.5) is None
    for number in range(100):
        rates.ended(number * 3, 0.0015 if number < 94 else 7.0)
    rates.ended(299, None)  # a stream has no duration
    minutes = rates.minutes(299)
    assert [quantile(minutes, share) for share in (0.5, 0.94, 0.95, 0.99)] == [0.002, 0.002, 10.0, 10.0]
    rates.ended(299, 1e9)
    assert quantile(rates.minutes(299, 1), 1.0) == 60.0
