"""What an attack is, and what its attacker has to work with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from drills.wire import Answer, AttackEndedError, Wire

CALM = "GOAWAY ENHANCE_YOUR_CALM"
PROTOCOL = "GOAWAY PROTOCOL_ERROR"
GONE = "GOAWAY NO_ERROR"
# which of these it is depends on whether the host has read all that came before it closed the connection
CUT = ("closed", "reset")


@dataclass
class Attacker:
    """Attacks a host, until its time is over.

    :ivar target: the host
    :ivar ends: when its time is over, on the monotonic clock
    :ivar size: from 0 to 1; how much of what an attack could do it does, where that is not for the host to end
    :ivar answers: what it got, a connection each
    """

    target: str
    ends: float
    size: float = 1.0
    answers: list[Answer] = field(default_factory=list)

    @property
    def has_time(self) -> bool:
        """Whether its time is not over."""
        return time.monotonic() < self.ends

    def some(self, count: int) -> int:
        """Of so many things, those that it does."""
        return max(1, round(count * self.size))

    @contextmanager
    def connection(self, **options: Any) -> Iterator[Wire]:
        """A connection; the block ends when the host ends it."""
        with self.connections(1, **options) as (wire,), suppress(AttackEndedError):
            yield wire

    @contextmanager
    def connections(self, count: int, **options: Any) -> Iterator[list[Wire]]:
        """So many connections; what they got is noted when the block ends."""
        with ExitStack() as stack:
            wires = []
            for _ in range(count):
                wires.append(Wire(self.target, self.ends, **options))
                stack.callback(lambda wire=wires[-1]: self.answers.append(wire.close()))
            yield wires


def for_each(wires: list[Wire], act: Callable[[Wire], None]) -> None:
    """Let each connection do something; those that the host has ended drop out."""
    for wire in wires:
        with suppress(AttackEndedError):
            act(wire)


@dataclass(frozen=True)
class Attack:
    """Something that nobody should do to a host.

    :ivar name: what it is called on the command line
    :ivar what: what is done, a sentence, with its CVE where it has one
    :ivar run: does it once
    :ivar endings: how the host may end a connection that does it; see `Answer`
    :ivar status: the gRPC status that calls get, if that is the host's answer
    :ivar tls: whether the host must serve TLS
    :ivar slow: whether it is one of the host's time-outs that ends it
    :ivar settings: of the host, for this attack
    :ivar exporter: whether it attacks the exporter's port
    """

    name: str
    what: str
    run: Callable[[Attacker], None]
    endings: tuple[str, ...]
    status: str | None = None
    tls: bool = False
    slow: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    exporter: bool = False

    def is_expected(self, answer: Answer) -> bool:
        """Whether this is what the host should do."""
        if self.status is not None and set(answer.statuses) != {self.status}:
            return False
        return answer.ending in self.endings
