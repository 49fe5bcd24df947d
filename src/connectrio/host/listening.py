"""Binding of TCP ports."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack

import anyio

from connectrio.host.lifecycle import HostError
from connectrio.rpc.peer import format_address

__all__ = ["bind_tcp", "can_share_ports", "local_addresses"]

# the errors of a machine without IPv6 (or IPv4)
_NO_SUCH_FAMILY = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


def can_share_ports() -> bool:
    """Return whether several processes may listen on one port on this system, each with a share of the connections."""
    return hasattr(socket, "SO_REUSEPORT")


def local_addresses(sockets: Iterable[socket.socket]) -> tuple[tuple[str, int], ...]:
    """Return the (host, port) of each bound socket."""
    return tuple(each.getsockname()[:2] for each in sockets)


async def bind_tcp(
    host: str | None, port: int, *, purpose: str, setting: str, shared: bool = False, listen: bool = True
) -> list[socket.socket]:
    """Listen on `port` of `host`, or of all interfaces; port 0 takes one that is free on all of them.

    :param purpose: what the port is for, for the error ("gRPC")
    :param setting: where the port was set, for the error ("--port")
    :param shared: other processes of this user may listen on it as well (SO_REUSEPORT)
    :param listen: False reserves the port without accepting connections
    :returns: non-blocking sockets, which the caller closes
    :raises HostError: the port cannot be bound; the message says which, why, and what to do
    """
    try:
        found = await anyio.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
        addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
        return _bind_all(addresses, one_is_enough=host is None, shared=shared, listen=listen)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = (
                f"another process has it. Stop that one, or choose another port with {setting} (0 takes any free one)"
            )
        elif error.errno == errno.EACCES:
            reason = f"this user has no permission; choose a port above 1023 with {setting}"
        else:
            reason = error.strerror or str(error)
        where = f"port {port}" if host is None else format_address(host, port)
        raise HostError(f"cannot listen on {where} for {purpose}: {reason}") from error


def _bind_all(
    addresses: Iterable[tuple[int, tuple[object, ...]]], *, one_is_enough: bool, shared: bool, listen: bool
) -> list[socket.socket]:
    bound: list[socket.socket] = []
    skipped: OSError | None = None
    with ExitStack() as stack:
        for family, (host, port, *rest) in addresses:
            try:
                same_port = bound[0].getsockname()[1] if bound else port
                bound.append(_bind(family, (host, same_port, *rest), shared=shared, listen=listen))
            except OSError as error:
                if not one_is_enough or error.errno not in _NO_SUCH_FAMILY:
                    raise
                skipped = error
            else:
                stack.callback(bound[-1].close)
        if not bound:
            raise skipped or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        stack.pop_all()
    return bound


def _bind(family: int, address: tuple[object, ...], *, shared: bool, listen: bool) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        listening.bind(address)
        if listen:
            listening.listen(socket.SOMAXCONN)
    except BaseException:
        listening.close()
        raise
    return listening
