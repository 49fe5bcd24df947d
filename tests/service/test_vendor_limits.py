"""When the next call to another system may begin: without any event loop."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectrio import ConnectorPolicy
from connectrio.service.vendor_limits import Breaker, CallOutcome, VendorLimits


def limits(**policy) -> VendorLimits:
    return VendorLimits(ConnectorPolicy(**policy))


def fail(each: VendorLimits, now: float, outcome: CallOutcome = CallOutcome.FAILED) -> bool:
    return each.end(now, outcome, is_probe=each.begin(now))


def test_nothing_is_limited_by_default():
    each = limits()
    for _ in range(1000):
        assert each.wait(5) == 0
        each.begin(5)
    assert fail(each, 5) is False
    assert each.breaker is Breaker.CLOSED


def test_the_rate_holds_in_any_window():
    each = limits(rate_calls=2, rate_seconds=10)
    each.begin(100)
    assert each.wait(103) == 0
    each.begin(103)
    assert each.wait(103) == pytest.approx(7.1)
    assert each.wait(110.1) == 0
    each.begin(110.1)
    assert each.wait(110.1) == pytest.approx(3)


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 5))
def test_never_more_calls_than_the_rate(pauses, calls):
    each, now, begun = limits(rate_calls=calls, rate_seconds=2), 0.0, []
    for pause in pauses:
        now += pause
        if each.wait(now) == 0:
            each.begin(now)
            begun.append(now)
    for first, last in zip(begun, begun[calls:], strict=False):
        assert last - first > 2


def test_those_that_nobody_waits_for_keep_their_distance():
    each = limits(rate_calls=10, rate_seconds=10)
    each.begin(0)
    assert each.wait(0) == 0
    assert each.wait(0, evenly=True) == pytest.approx(1.01)


def test_calls_at_once():
    each = limits(max_vendor_calls=2)
    each.begin(0)
    each.begin(0)
    assert each.wait(50) == math.inf
    assert each.reason(50) == "this host has 2 calls to this account at once (max_vendor_calls)"
    each.end(50, CallOutcome.OTHER, is_probe=False)
    assert each.wait(50) == 0


def test_the_breaker_opens_and_closes():
    each = limits(breaker_failures=3, breaker_pause=30)
    assert [fail(each, 1), fail(each, 2), fail(each, 3)] == [False, False, True]
    assert (each.breaker, each.wait(3), each.wait(33)) == (Breaker.OPEN, 30, 0)
    assert each.begin(40) is True
    assert (each.breaker, each.wait(40)) == (Breaker.PROBING, math.inf)
    assert each.end(41, CallOutcome.ANSWERED, is_probe=True) is True
    assert (each.breaker, each.failures, each.wait(41)) == (Breaker.CLOSED, 0, 0)


def test_a_probe_that_fails_opens_it_anew():
    each = limits(breaker_failures=1, breaker_pause=30)
    fail(each, 0)
    assert fail(each, 30) is False  # it was not closed
    assert (each.breaker, each.wait(30)) == (Breaker.OPEN, 30)


def test_a_probe_that_says_nothing_leaves_room_for_another():
    each = limits(breaker_failures=1, breaker_pause=30)
    fail(each, 0)
    assert fail(each, 30, CallOutcome.OTHER) is False
    assert (each.breaker, each.wait(31)) == (Breaker.OPEN, 0)
    assert each.begin(31) is True


def test_a_probe_that_was_late_opens_it_anew():
    each = limits(breaker_failures=1, breaker_pause=30)
    fail(each, 0)
    fail(each, 30, CallOutcome.OTHER)
    assert each.late(39) is False
    assert each.wait(39) == 30


def test_late_calls_open_it():
    each = limits(breaker_failures=2)
    assert [each.late(0), each.late(0)] == [False, True]


def test_one_answer_starts_the_count_anew():
    each = limits(breaker_failures=2)
    fail(each, 0)
    fail(each, 0, CallOutcome.ANSWERED)
    assert fail(each, 0) is False
    fail(each, 0, CallOutcome.OTHER)
    assert fail(each, 0) is True


def test_calls_that_began_before_it_opened():
    """Their failures make the pause no longer; an answer shows that the other system is back."""
    each = limits(breaker_failures=1, breaker_pause=30)
    before = [each.begin(0), each.begin(0), each.begin(0)]
    each.end(1, CallOutcome.FAILED, is_probe=before[0])
    each.end(9, CallOutcome.FAILED, is_probe=before[1])
    assert each.wait(9) == 22
    assert each.end(10, CallOutcome.ANSWERED, is_probe=before[2]) is True
    assert each.breaker is Breaker.CLOSED


def test_what_the_other_system_asks_for_is_kept_to():
    each = limits()
    each.hold(60)
    each.hold(50)
    assert (each.wait(20), each.wait(60)) == (40, 0)
    assert each.reason(20.5) == "it has asked to come again in 40 s"


def test_the_reason_is_told():
    each = limits(rate_calls=1, breaker_failures=1, breaker_pause=30)
    each.end(0, CallOutcome.ANSWERED, is_probe=each.begin(0))
    assert each.reason(0).startswith("this host makes at most 1 calls in 1 s to this account (rate_calls), and")
    fail(each, 0)
    assert each.reason(9.5) == "1 calls in a row have failed, so none is made for 21 s (breaker_pause)"
    each.begin(30)
    assert each.reason(30) == "1 calls in a row have failed, and one call finds out now whether that is over"


def test_what_may_be_forgotten():
    assert limits().is_idle(0)
    each = limits(rate_calls=1, rate_seconds=10)
    probe = each.begin(0)
    assert not each.is_idle(100)
    each.end(1, CallOutcome.ANSWERED, is_probe=probe)
    assert not each.is_idle(5)
    assert each.is_idle(10)
    each.hold(20)
    assert not each.is_idle(10)
    fail(each, 20)
    assert not each.is_idle(79)
    assert each.is_idle(80), "an account that nobody uses any more is not kept for ever"
    each = limits(breaker_failures=1, breaker_pause=10)
    each.end(100, CallOutcome.FAILED, is_probe=each.begin(0))
    assert not each.is_idle(109)
    assert each.is_idle(110)
