"""How far apart attempts to connect are, without any of them."""

from __future__ import annotations

import pytest

from connectrio.rpc import ChannelOptions
from connectrio.rpc._client.backoff import Backoff


def no_jitter(low: float, high: float) -> float:
    return (low + high) / 2


def test_the_waits_of_grpcs_document():
    backoff = Backoff(ChannelOptions(), spread=no_jitter)
    waits = [backoff.next_delay() for _ in range(12)]
    assert waits[:4] == pytest.approx([1, 1.6, 2.56, 4.096])
    assert waits[-2:] == [pytest.approx(1.6**10), 120]


def test_success_begins_anew():
    backoff = Backoff(ChannelOptions(initial_backoff=3, backoff_multiplier=2), spread=no_jitter)
    assert [backoff.next_delay() for _ in range(3)] == [3, 6, 12]
    backoff.reset()
    assert backoff.next_delay() == 3


def test_jitter_is_a_share_of_the_wait():
    asked = []

    def lowest(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    backoff = Backoff(ChannelOptions(initial_backoff=10), spread=lowest)
    assert backoff.next_delay() == 8
    assert asked == [(0.8, 1.2)]


def test_clients_that_fail_together_come_back_apart():
    waits = {Backoff(ChannelOptions()).next_delay() for _ in range(100)}
    assert len(waits) > 90
    assert all(0.8 <= wait <= 1.2 for wait in waits)


@pytest.mark.parametrize(
    "options",
    [
        {"initial_backoff": 0},
        {"initial_backoff": -1},
        {"backoff_multiplier": 0.9},
        {"backoff_jitter": -0.1},
        {"backoff_jitter": 1.1},
        {"load_balancing": "random"},
    ],
)
def test_options_that_make_no_sense(options: dict):
    with pytest.raises(ValueError, match=next(iter(options))):
        ChannelOptions(**options)


def test_nobody_pings_faster_than_the_floor():
    assert ChannelOptions(keepalive_time=1).keepalive_time == 10
    assert ChannelOptions(keepalive_time=11).keepalive_time == 11
