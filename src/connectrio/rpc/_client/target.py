"""Where a channel connects to: targets, their addresses, and the first address that answers.

Sources: gRPC's naming document, of which these are the targets that need no resolver of their own; "Happy Eyeballs"
(RFC 8305), as gRFC A61 has it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from typing import Protocol, TypeAlias

import anyio
from anyio.abc import AnyByteStream

from connectrio.rpc.peer import format_address

Connect: TypeAlias = Callable[[], Awaitable[AnyByteStream]]
Secure: TypeAlias = Callable[[AnyByteStream], Awaitable[AnyByteStream]]

_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+(?:%[\w.~-]+)?\]|[^\[\]:/,]+)(?::(?P<port>[0-9]{1,5}))?")
_NAME_PREFIXES = ("dns:///", "passthrough:///")
_DEFAULT_PORT = 443
_Family: TypeAlias = type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]
_LIST_SCHEMES: dict[str, _Family] = {"ipv4": ipaddress.IPv4Address, "ipv6": ipaddress.IPv6Address}
# what stands before the path; names in Linux' abstract namespace begin with a zero byte
_SOCKET_SCHEMES = {"unix": "", "unix-abstract": "\0"}


class Address(Protocol):
    """One place where a server may listen. Equal addresses are the same place."""

    async def connect(self) -> AnyByteStream:
        """Open a byte stream.

        :raises OSError: nobody listens there
        """

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class TcpAddress:
    """An IP address, never a name, and a port."""

    host: str
    port: int

    async def connect(self) -> AnyByteStream:
        """Connect over TCP."""
        try:
            return await anyio.connect_tcp(self.host, self.port)
        except OSError as error:  # anyio's own only says that it failed
            raise _plain(error.__cause__ if isinstance(error.__cause__, OSError) else error) from error

    @property
    def is_ipv6(self) -> bool:
        """Whether it is an IPv6 address."""
        return ":" in self.host

    def __str__(self) -> str:
        return format_address(self.host, self.port)


@dataclass(frozen=True)
class UnixAddress:
    """A Unix socket."""

    path: str

    async def connect(self) -> AnyByteStream:
        """Connect to the socket."""
        try:
            return await anyio.connect_unix(self.path)
        except OSError as error:
            raise _plain(error) from error

    def __str__(self) -> str:
        return f"unix-abstract:{self.path[1:]}" if self.path.startswith("\0") else f"unix:{self.path}"


@dataclass(frozen=True)
class CustomAddress:
    """Wherever a function of the application connects to."""

    function: Connect

    async def connect(self) -> AnyByteStream:
        """Call the function."""
        return await self.function()

    def __str__(self) -> str:
        return "the server"


def _plain(error: OSError) -> OSError:
    """Return the error with the system's text alone: each event loop adds something else."""
    return error if error.errno is None else OSError(error.errno, os.strerror(error.errno))


# targets


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
    """Return the target that a string or a function stands for.

    Source: gRPC's "Name Resolution". A port may be left out after a scheme only: then it is 443.

    :param target: "host:port", "[ipv6]:port", "dns:///host:port", "passthrough:///host:port",
        "ipv4:address:port,address:port…", "ipv6:[address]:port,[address]:port…", "unix:/path", "unix-abstract:name",
        or a function that opens a byte stream
    :raises ValueError: it is none of these
    """
    if not isinstance(target, str):
        return Target("the server", "localhost", partial(static_addresses, [CustomAddress(target)]))
    scheme, _, rest = target.partition(":")
    if scheme in _SOCKET_SCHEMES:
        path = rest.removeprefix("//") if scheme == "unix" else rest
        if not path:
            raise _target_error(target)
        return Target(target, "localhost", partial(static_addresses, [UnixAddress(_SOCKET_SCHEMES[scheme] + path)]))
    if scheme in _LIST_SCHEMES:
        parts = [_host_and_port(target, part, _DEFAULT_PORT) for part in rest.split(",")]
        if not all(_is_ip_address(host, _LIST_SCHEMES[scheme]) for host, _, _ in parts):
            raise _target_error(target)
        return Target(
            target, parts[0][2], partial(static_addresses, [TcpAddress(host, port) for host, port, _ in parts])
        )
    for prefix in _NAME_PREFIXES:
        if target.startswith(prefix):
            host, port, authority = _host_and_port(target, target.removeprefix(prefix), _DEFAULT_PORT)
            break
    else:
        host, port, authority = _host_and_port(target, target.removeprefix("dns:"), None)
    if _is_ip_address(host, ipaddress.ip_address):
        return Target(target, authority, partial(static_addresses, [TcpAddress(host, port)]))
    return Target(target, authority, partial(_resolve_name, host, port))


async def static_addresses(addresses: Sequence[Address]) -> Sequence[Address]:
    """Return `addresses`, which need no resolving."""
    return addresses


async def _resolve_name(host: str, port: int) -> Sequence[Address]:
    """Return a name's addresses, in the operating system's order (RFC 6724)."""
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a name that IDNA could encode
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise OSError(f"cannot resolve {host!r}: {reason}") from error
    return list(dict.fromkeys(TcpAddress(str(address[0]), port) for *_, address in found))


def _host_and_port(target: str, part: str, default: int | None) -> tuple[str, int, str]:
    """Return the host, without brackets, and the port of a part of `target`, and both as an authority."""
    match = _HOST_AND_PORT.fullmatch(part)
    port = default if match is None or match["port"] is None else int(match["port"])
    if match is None or port is None or not 0 < port < 65536:
        raise _target_error(target)
    authority = match["host"] if match["port"] is None else f"{match['host']}:{port}"
    return match["host"].strip("[]"), port, authority


def _is_ip_address(host: str, family: Callable[[str], object]) -> bool:
    try:
        family(host)
    except ValueError:
        return False
    return True


def _target_error(target: str) -> ValueError:
    return ValueError(
        f"cannot connect to {target!r}: expected host:port, [ipv6]:port, dns:///host:port, ipv4:address:port,…,"
        " ipv6:[address]:port,…, unix:/path or unix-abstract:name"
    )


# connecting


class ConnectError(OSError):
    """None of the addresses could be connected to. The message has each address and the reason: "1.2.3.4:5: …"."""


async def dial(addresses: Sequence[Address], *, delay: float, secure: Secure) -> AnyByteStream:
    """Return a transport to the first address that answers; attempts at others are cancelled or closed.

    The next address is tried when the one before has failed, and after `delay` seconds in any case. Cancelled, nothing
    stays open.

    :param secure: makes a transport secure, or closes it and raises: then the address counts as failed
    :raises ConnectError: none answered
    """
    winner: AnyByteStream | None = None
    errors: dict[Address, str] = {}

    async def attempt(address: Address, failed: anyio.Event) -> None:
        nonlocal winner
        try:
            transport = await secure(await address.connect())
        except Exception as error:  # noqa: BLE001 - the application's own function may raise anything
            errors[address] = (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
            failed.set()
            return
        if winner is None:
            winner = transport
            attempts.cancel_scope.cancel()
        else:
            await anyio.aclose_forcefully(transport)

    try:
        async with anyio.create_task_group() as attempts:
            for address in interleaved(addresses):
                failed = anyio.Event()
                attempts.start_soon(attempt, address, failed)
                with anyio.move_on_after(delay):
                    await failed.wait()
    except BaseException:
        if winner is not None:
            await anyio.aclose_forcefully(winner)
        raise
    if winner is not None:
        return winner
    raise ConnectError("; ".join(f"{at}: {error}" for at, error in errors.items()) or "it has no addresses")


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """Return `addresses` with IPv4 and IPv6 taking turns (RFC 8305 §4), beginning with the family of the first."""
    families: dict[bool, list[Address]] = {}
    for address in addresses:
        families.setdefault(isinstance(address, TcpAddress) and address.is_ipv6, []).append(address)
    return [address for address in chain.from_iterable(zip_longest(*families.values())) if address is not None]
