"""Connections to a TLS port that never become TLS."""

from __future__ import annotations

import ssl

from drills.attacks.attack import CUT, Attack, Attacker, for_each
from drills.wire import Wire


def client_hello() -> bytes:
    """What a client opens TLS with."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    outgoing = ssl.MemoryBIO()
    engine = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        engine.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake needs two")


def silence(attacker: Attacker) -> None:
    """Connections on which nothing is said."""
    with attacker.connections(attacker.some(200)) as wires:
        for_each(wires, Wire.wait)


def slow_handshake(attacker: Attacker) -> None:
    """Connections whose handshakes stop in the middle."""
    hello = client_hello()
    with attacker.connections(attacker.some(200)) as wires:
        for_each(wires, lambda wire: wire.send(hello[: len(hello) // 2], frames=0))
        for_each(wires, Wire.wait)


def unfinished_handshake(attacker: Attacker) -> None:
    """Handshakes that make the host sign something, and are then abandoned."""
    hello = client_hello()
    with attacker.connection() as wire:
        wire.send(hello, frames=0)
        wire.wait(0.05)


def plain_text(attacker: Attacker) -> None:
    """HTTP/2 without TLS."""
    with attacker.connection() as wire:
        wire.open()
        wire.wait()


ATTACKS = [
    Attack("tls-silence", "200 connections on which no TLS begins", silence, CUT, tls=True, slow=True),
    Attack("tls-slow-handshake", "200 TLS handshakes that stop half-way", slow_handshake, CUT, tls=True, slow=True),
    Attack(
        "tls-unfinished",
        "handshakes that make the host sign, one after the other",
        unfinished_handshake,
        ("open", *CUT),  # cut by the time-out of handshakes, if the attacker is slow
        tls=True,
    ),
    Attack("tls-plain-text", "HTTP/2 without TLS, where TLS is served", plain_text, CUT, tls=True),
]
