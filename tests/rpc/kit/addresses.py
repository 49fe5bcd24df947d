"""Addresses that behave as a test wants them to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import anyio
from anyio.abc import AnyByteStream

from connectrio.rpc._client.target import Address
from connectrio.rpc.testing import memory_transport_pair


class Fake:
    """Answers, or fails, after some seconds, or when a gate is opened.

    :ivar begun: when attempts at it began
    :ivar given_up: how many of them were cancelled
    """

    def __init__(
        self, name: str, seconds: float = 0, error: Exception | None = None, gate: anyio.Event | None = None
    ) -> None:
        self.name = name
        self.gate = gate
        self.seconds = seconds
        self.error = error
        self.begun: list[float] = []
        self.given_up = 0
        self.others: list[AnyByteStream] = []

    async def connect(self) -> AnyByteStream:
        self.begun.append(anyio.current_time())
        try:
            if self.gate is not None:
                await self.gate.wait()
            elif self.seconds == math.inf:
                await anyio.sleep_forever()
            else:
                await anyio.sleep(self.seconds)
        except anyio.get_cancelled_exc_class():
            self.given_up += 1
            raise
        if self.error is not None:
            raise self.error
        ours, theirs = memory_transport_pair()
        self.others.append(theirs)
        return ours

    async def open(self) -> int:
        """How many transports were opened and not closed; closes the other end of all."""
        count = 0
        for other in self.others:
            try:
                await other.send(b"anybody there?")
                count += 1
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            await other.aclose()
        return count

    def __str__(self) -> str:
        return self.name


class Names:
    """A resolver whose answers a test sets.

    :ivar addresses: what a name has now, or the error that resolving it is
    :ivar asked: when it was resolved
    """

    def __init__(self, *addresses: Address) -> None:
        self.addresses: Sequence[Address] | Exception = list(addresses)
        self.asked: list[float] = []

    async def __call__(self) -> Sequence[Address]:
        self.asked.append(anyio.current_time())
        if isinstance(self.addresses, Exception):
            raise self.addresses
        return list(self.addresses)
