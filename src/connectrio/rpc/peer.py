"""Who is at the other end of a connection."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import Any

from anyio import TypedAttributeLookupError, TypedAttributeProvider
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute


class Peer:
    """The remote side of a connection, as grpclib's servicers know it."""

    __slots__ = ("_transport",)

    def __init__(self, transport: TypedAttributeProvider) -> None:
        self._transport = transport

    def addr(self) -> Any:
        """Return the remote address: (host, port), a path for a Unix socket, or None for a transport without one."""
        try:
            return self._transport.extra(SocketAttribute.remote_address, None)
        except (TypedAttributeLookupError, OSError):  # a socket whose peer is gone has no address any more
            return None

    def cert(self) -> dict[str, Any] | None:
        """Return the peer's verified certificate, in the form of `ssl.SSLSocket.getpeercert`; None without one."""
        certificate = self._transport.extra(TLSAttribute.peer_certificate, None)
        return None if certificate is None else dict(certificate)

    def __str__(self) -> str:
        address = self.addr()
        if isinstance(address, tuple):
            return format_address(address[0], address[1])
        return "" if address is None else f"unix:{address}"


def share_of(host: str) -> str:
    """Return the address or the network that has one share of a limit.

    For IPv6 that is the /64, because one client usually has all of its addresses. An IPv4 address that is mapped to
    IPv6 has the share of the IPv4 address.

    :param host: an IPv4 address, or an IPv6 address with or without brackets; any other text is returned as it is
    """
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host
    return str(address.ipv4_mapped or IPv6Network((int(address) >> 64 << 64, 64)))


def format_address(host: str, port: int) -> str:
    """Return "host:port", with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
