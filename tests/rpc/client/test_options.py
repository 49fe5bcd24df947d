"""Options of a channel that it does not take as they are."""

from __future__ import annotations

import pytest

from connectrio.rpc import ChannelOptions


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
