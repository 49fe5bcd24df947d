"""Where a channel connects to: the targets of gRPC's naming document that need no resolver of their own."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import anyio
from anyio.abc import AnyByteStream

Connect: TypeAlias = Callable[[], Awaitable[AnyByteStream]]

_HOST = r"\[[0-9a-fA-F:.]+(?:%[\w.~-]+)?\]|[^\[\]:/,]+"
_NAME = re.compile(rf"(?:dns:(?:///)?)?(?P<host>{_HOST}):(?P<port>[0-9]{{1,5}})")
_LITERAL = re.compile(rf"(?P<host>{_HOST}):(?P<port>[0-9]{{1,5}})")
_Family: TypeAlias = type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]
_LIST_SCHEMES: dict[str, _Family] = {"ipv4:": ipaddress.IPv4Address, "ipv6:": ipaddress.IPv6Address}


class Address(Protocol):
    """One place where a server may listen. Equal addresses are the same place."""

    async def connect(self) -> AnyByteStream:
        """Open a byte stream.

        :raises OSError: there is nobody
        """

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class TcpAddress:
    """An IP address, never a name, and a port."""

    host: str
    port: int

    async def connect(self) -> AnyByteStream:
        """See `Address.connect`."""
        return await anyio.connect_tcp(self.host, self.port)

    @property
    def is_ipv6(self) -> bool:
        """Whether it is an address of that family."""
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class UnixAddress:
    """A Unix socket."""

    path: str

    async def connect(self) -> AnyByteStream:
        """See `Address.connect`."""
        return await anyio.connect_unix(self.path)

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True)
class CustomAddress:
    """Wherever a function of the application's leads to."""

    function: Connect

    async def connect(self) -> AnyByteStream:
        """See `Address.connect`."""
        return await self.function()

    def __str__(self) -> str:
        return "the server"


@dataclass(frozen=True)
class Target:
    """What a channel connects to.

    :ivar name: as the application gave it
    :ivar authority: the `:authority` of its requests
    :ivar resolve: finds the addresses as they are now; raises OSError for a name that nobody knows
    """

    name: str
    authority: str
    resolve: Callable[[], Awaitable[Sequence[Address]]]


def parse_target(target: str | Connect) -> Target:
    """What `target` means.

    :param target: "host:port", "dns:///host:port", "[ipv6]:port", "ipv4:address:port,address:port…",
        "ipv6:[address]:port,[address]:port…", "unix:/path", or a function that opens a byte stream
    :raises ValueError: none of these
    """
    if not isinstance(target, str):
        return Target("the server", "localhost", _Known([CustomAddress(target)]))
    if target.startswith("unix:"):
        path = target.removeprefix("unix:").removeprefix("//")
        if path:
            return Target(target, "localhost", _Known([UnixAddress(path)]))
    for scheme, family in _LIST_SCHEMES.items():
        if target.startswith(scheme):
            addresses = [_literal(target, part, family) for part in target.removeprefix(scheme).split(",")]
            return Target(target, str(addresses[0]), _Known(addresses))
    match = _NAME.fullmatch(target)
    if match is None:
        raise _error(target)
    host, port = match["host"].strip("[]"), _port(target, match)
    authority = f"{match['host']}:{port}"
    if _is_ip_address(host):
        return Target(target, authority, _Known([TcpAddress(host, port)]))
    return Target(target, authority, _Name(host, port))


@dataclass(frozen=True)
class _Known:
    """Addresses that need no resolving."""

    addresses: Sequence[Address]

    async def __call__(self) -> Sequence[Address]:
        return self.addresses


@dataclass(frozen=True)
class _Name:
    """A host's name, resolved by the operating system, whose order of the addresses (RFC 6724) is kept."""

    host: str
    port: int

    async def __call__(self) -> Sequence[Address]:
        try:
            found = await anyio.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a name that IDNA could encode
            raise OSError(f"cannot resolve {self.host!r}: {error}") from error
        return list(dict.fromkeys(TcpAddress(str(address[0]), self.port) for *_, address in found))


def _literal(target: str, part: str, family: _Family) -> TcpAddress:
    match = _LITERAL.fullmatch(part)
    if match is None:
        raise _error(target)
    host = match["host"].strip("[]")
    try:
        family(host)
    except ValueError:
        raise _error(target) from None
    return TcpAddress(host, _port(target, match))


def _port(target: str, match: re.Match[str]) -> int:
    port = int(match["port"])
    if not 0 < port < 65536:
        raise _error(target)
    return port


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _error(target: str) -> ValueError:
    return ValueError(
        f"cannot connect to {target!r}: expected host:port, [ipv6]:port, ipv4:address:port,…, ipv6:[address]:port,…"
        " or unix:/path"
    )
