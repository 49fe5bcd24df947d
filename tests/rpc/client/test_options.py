"""Options of a channel that it does not take as they are."""

from __future__ import annotations

from dataclasses import fields

import pytest

from connectrio.rpc import ChannelOptions

NUMBERS = [field.name for field in fields(ChannelOptions) if field.type in ("int", "float")]


@pytest.mark.parametrize(
    "options",
    [
        {"initial_backoff": 0},
        {"initial_backoff": -1},
        {"backoff_multiplier": 0.9},
        {"backoff_jitter": -0.1},
        {"backoff_jitter": 1.1},
        {"stream_window": 65_534},
        {"connection_window": 2**31},
        {"load_balancing": "random"},
    ],
)
def test_options_that_make_no_sense(options: dict):
    with pytest.raises(ValueError, match=next(iter(options))):
        ChannelOptions(**options)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, None, "3"])
def test_what_is_negative_or_no_number_is_refused_by_name(name: str, value: object):
    with pytest.raises(ValueError, match=rf"^{name} must .*, got {value!r}$"):
        ChannelOptions(**{name: value})


def test_nobody_pings_faster_than_the_floor():
    assert ChannelOptions(keepalive_time=1).keepalive_time == 10
    assert ChannelOptions(keepalive_time=11).keepalive_time == 11
