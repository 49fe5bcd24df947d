"""Opening a transport to the first of several addresses that answers.

Source: "Happy Eyeballs" (RFC 8305), as gRFC A61 has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain, zip_longest

import anyio
from anyio.abc import AnyByteStream

from connectrio.rpc._client.target import Address, TcpAddress

Secure = Callable[[AnyByteStream], Awaitable[AnyByteStream]]


class ConnectError(OSError):
    """None of the addresses could be connected to. The message has the reason for each."""


async def dial(addresses: Sequence[Address], *, delay: float, secure: Secure) -> AnyByteStream:
    """A transport to the first address that answers; the others are left alone, or hung up on.

    The next address is tried when the one before has failed, and after `delay` seconds in any case. Cancelled, nothing
    stays open.

    :param secure: makes a transport secure, or closes it and raises: then the address counts as failed
    :raises ConnectError: none answered
    """
    race = _Race(secure)
    try:
        async with anyio.create_task_group() as race.attempts:
            for address in interleaved(addresses):
                failed = anyio.Event()
                race.attempts.start_soon(race.attempt, address, failed)
                with anyio.move_on_after(delay):
                    await failed.wait()
    except BaseException:
        if race.winner is not None:
            await anyio.aclose_forcefully(race.winner)
        raise
    if race.winner is None:
        raise ConnectError(race.complaint())
    return race.winner


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """`addresses` with the families of IP taking turns (RFC 8305 §4), beginning with that of the first."""
    families: dict[bool, list[Address]] = {}
    for address in addresses:
        families.setdefault(isinstance(address, TcpAddress) and address.is_ipv6, []).append(address)
    return [address for address in chain.from_iterable(zip_longest(*families.values())) if address is not None]


class _Race:
    """Attempts that run at the same time; the first to succeed cancels the others."""

    attempts: anyio.abc.TaskGroup

    def __init__(self, secure: Secure) -> None:
        self.winner: AnyByteStream | None = None
        self._secure = secure
        self._errors: dict[Address, str] = {}

    async def attempt(self, address: Address, failed: anyio.Event) -> None:
        try:
            transport = await self._secure(await address.connect())
        except Exception as error:  # noqa: BLE001 - the application's own function may raise anything
            self._errors[address] = str(error) or repr(error)
            failed.set()
            return
        if self.winner is None:
            self.winner = transport
            self.attempts.cancel_scope.cancel()
        else:
            await anyio.aclose_forcefully(transport)

    def complaint(self) -> str:
        if len(self._errors) == 1:
            return next(iter(self._errors.values()))
        return "; ".join(f"{address}: {error}" for address, error in self._errors.items()) or "it has no addresses"
