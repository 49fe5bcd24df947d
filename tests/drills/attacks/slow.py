"""Clients that are slow, or silent, or too many: what they hold is what they cost."""

from __future__ import annotations

from itertools import count

from flyteidl2.connector.connector_pb2 import GetTaskLogsRequest, TaskCategory
from h2.settings import SettingCodes

from drills.attacks.attack import CALM, CUT, GONE, PROTOCOL, Attack, Attacker, for_each
from drills.orders import attack, order
from drills.process import MIB
from drills.wire import Wire
from rpc.kit.frames import PREFACE, request_headers

_ALL = 2**31 - 1
_UNKNOWN = 0x42
_LOGS = "/flyteidl2.connector.AsyncConnectorService/GetTaskLogs"


def data_dribble(attacker: Attacker) -> None:
    """A large response that is asked for a byte at a time."""
    with attacker.connection() as wire:
        wire.open({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        wire.send(wire.make.window_update(0, _ALL - 65_535))
        streams = range(1, 41, 2)
        wire.send(b"".join(wire.call(stream_id, attack("big", MIB)) for stream_id in streams), frames=40)
        for _ in count():
            wire.send(b"".join(wire.make.window_update(stream_id, 1) for stream_id in streams), frames=len(streams))


def request_dribble(attacker: Attacker) -> None:
    """A large request, a byte in each frame."""
    with attacker.connection() as wire:
        wire.open()
        wire.send(wire.request(1) + wire.make.data(1, b"\0" + MIB.to_bytes(4, "big")), frames=2)
        frame = wire.make.data(1, b"x")
        for _ in range(attacker.some(200)):
            wire.send(frame * 1000, frames=1000)


def late_data(attacker: Attacker) -> None:
    """Data for a stream that has ended early, a byte in each frame."""
    with attacker.connection() as wire:
        wire.open()
        wire.send(wire.make.headers(1, [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")]))
        frame = wire.make.data(1, b"x")
        for _ in range(attacker.some(200)):
            wire.send(frame * 1000, frames=1000)


def zero_windows(attacker: Attacker) -> None:
    """Large responses that are asked for and never taken: the windows stay shut."""
    with attacker.connection() as wire:
        wire.open({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        for number in range(attacker.some(100)):
            wire.send(wire.call(2 * number + 1, attack("big", MIB)), frames=2)
        wire.wait(3 * attacker.size)


def unread_responses(attacker: Attacker) -> None:
    """Large responses that are asked for and never read: the windows are open, but the socket is full."""
    with attacker.connection(receive_buffer=4096) as wire:
        wire.open({SettingCodes.INITIAL_WINDOW_SIZE: _ALL})
        wire.send(wire.make.window_update(0, _ALL - 65_535))
        wire.reads = False
        for number in range(100):
            wire.send(wire.call(2 * number + 1, attack("big", MIB)), frames=2)
        while True:  # who does not read learns only by sending that the connection is over
            wire.wait(0.5)
            wire.send(wire.make.raw(_UNKNOWN, 0, 0, b""))


def unread_logs(attacker: Attacker) -> None:
    """Streams of logs whose windows stay shut, more than one address may have."""
    request = GetTaskLogsRequest(resource_meta=order().resource_meta, task_category=TaskCategory(name="attacked"))
    message = request.SerializeToString()
    with attacker.connection() as wire:
        wire.open({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        for stream_id in range(1, 241, 2):
            wire.send(wire.make.headers(stream_id, request_headers({":path": _LOGS})))
            wire.send(wire.make.message(stream_id, message, end_stream=True))
        wire.wait_for_answers(120)


def half_a_message(attacker: Attacker) -> None:
    """Messages that fill the windows, and are never finished."""
    with attacker.connections(attacker.some(20)) as wires:
        for_each(wires, _send_half)
        for_each(wires, lambda wire: wire.wait(1 * attacker.size))


def _send_half(wire: Wire) -> None:
    wire.open()
    for stream_id in range(1, 9, 2):
        wire.send(wire.request(stream_id) + wire.make.data(stream_id, b"\0" + (4 * MIB).to_bytes(4, "big")), frames=2)
        for _ in range(63):
            wire.send(wire.make.data(stream_id, bytes(16_384)))


def silence(attacker: Attacker) -> None:
    """Connections on which nothing is said."""
    with attacker.connections(attacker.some(200)) as wires:
        for_each(wires, Wire.wait)


def half_a_handshake(attacker: Attacker) -> None:
    """Connections that begin as HTTP/2, and stop there."""
    with attacker.connections(attacker.some(200)) as wires:
        for_each(wires, lambda wire: wire.send(PREFACE[:20]))
        for_each(wires, Wire.wait)


def slow_handshake(attacker: Attacker) -> None:
    """A handshake that takes a second for each byte."""
    with attacker.connection() as wire:
        for byte in PREFACE:
            wire.send(bytes([byte]), frames=0)
            wire.wait(1)


def too_many_connections(attacker: Attacker) -> None:
    """More connections than there may be, each with its handshake done."""
    with attacker.connections(300) as wires:
        for_each(wires, Wire.open)
        for_each(wires, lambda wire: wire.wait(0.01))


def not_http2(attacker: Attacker) -> None:
    """Something else than HTTP/2."""
    with attacker.connection() as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", frames=0)
        wire.wait()


ATTACKS = [
    Attack("data-dribble", "large responses, asked for a byte at a time (CVE-2019-9511)", data_dribble, (CALM,)),
    Attack("request-dribble", "a large request, a byte in each frame", request_dribble, ("open", *CUT)),
    Attack("late-data", "data for a call that was refused, a byte in each frame", late_data, ("open", *CUT)),
    Attack("zero-windows", "100 responses of 1 MiB that no window ever opens for", zero_windows, ("open",)),
    Attack(
        "unread-responses",
        "100 responses of 1 MiB that nobody reads (CVE-2019-9517)",
        unread_responses,
        CUT,
        slow=True,
    ),
    Attack("unread-logs", "120 streams of logs that nobody reads", unread_logs, ("open",), "8", slow=True),
    Attack("half-a-message", "20 connections with 4 MiB each of messages that never end", half_a_message, ("open",)),
    Attack("silence", "200 connections on which nothing is said", silence, ("closed",), slow=True),
    Attack("half-a-handshake", "200 connections that begin as HTTP/2, and stop", half_a_handshake, CUT, slow=True),
    Attack("slow-handshake", "a handshake that takes a second for each byte", slow_handshake, CUT, slow=True),
    Attack(
        "too-many-connections",
        "300 connections where 100 may be",
        too_many_connections,
        ("open", GONE, *CUT),
        settings={"max_connections": 100},
    ),
    Attack("not-http2", "HTTP/1.1", not_http2, ("closed", PROTOCOL)),
]
