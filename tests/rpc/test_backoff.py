"""How long the pauses between attempts are, without any attempt."""

from __future__ import annotations

import math

import pytest

from connectrio.rpc import ChannelOptions
from connectrio.rpc._client.subchannel import connection_backoff
from connectrio.rpc.backoff import Backoff


def test_the_pauses_of_grpcs_document():
    backoff = connection_backoff(ChannelOptions(backoff_jitter=0))
    pauses = [backoff.next() for _ in range(12)]
    assert pauses[:4] == pytest.approx([1, 1.6, 2.56, 4.096])
    assert pauses[-2:] == [pytest.approx(1.6**10), 120]


def test_success_begins_anew():
    backoff = Backoff(3, factor=2)
    assert [backoff.next() for _ in range(3)] == [3, 6, 12]
    backoff.reset()
    assert backoff.next() == 3


def test_jitter_is_a_share_of_the_pause_and_does_not_add_up():
    asked = []

    def lowest(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    backoff = Backoff(10, factor=2, jitter=0.2, uniform=lowest)
    assert [backoff.next(), backoff.next()] == [8, 16]
    assert asked == [(0.8, 1.2)] * 2


def test_clients_that_fail_together_come_back_apart():
    pauses = {connection_backoff(ChannelOptions()).next() for _ in range(100)}
    assert len(pauses) > 90
    assert all(0.8 <= pause <= 1.2 for pause in pauses)


@pytest.mark.parametrize(("maximum", "last"), [(30.0, 30.0), (math.inf, math.inf)])
def test_it_may_fail_for_ever(maximum: float, last: float):
    """However often, no number grows too large."""
    backoff = Backoff(0.5, factor=2, maximum=maximum)
    assert [backoff.next() for _ in range(5000)][-1] == last
