"""Attacks at the exporter's port: its pages tell much, and must cost little."""

from __future__ import annotations

from drills.attacks.attack import CUT, Attack, Attacker, for_each

# what takes the host the most
_PATHS = ("/status?rows=500&q={}", "/events?q={}", "/api/jobs?limit=10000", "/api/stacks?limit=10000", "/stacks")


def unread_pages(attacker: Attacker) -> None:
    """More requests than may be open, whose responses nobody reads."""
    with attacker.connections(attacker.some(100), receive_buffer=4096) as wires:
        for number, wire in enumerate(wires):
            wire.reads = False
            path = _PATHS[number % len(_PATHS)].format(len(attacker.answers) + number)
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            for_each([wire], lambda wire, request=request: wire.send(request))
        for_each(wires, lambda wire: wire.wait(0.02))


ATTACKS = [
    Attack(
        "unread-pages",
        "the status page, its updates, /api and stacks, 100 requests at once that nobody reads",
        unread_pages,
        ("open", *CUT),
        exporter=True,
    ),
]
