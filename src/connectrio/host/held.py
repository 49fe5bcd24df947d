"""Listening sockets that another process has opened: systemd, the supervisor, or the host that this one follows."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass, field
from typing import Any

import anyio

from connectrio.host.lifecycle import HostError
from connectrio.rpc.sockets import close_in_children, share

__all__ = ["HeldSockets", "addresses_of", "adopt", "plain_host"]


@dataclass(frozen=True)
class HeldSockets:
    """Listening sockets that another process has opened, and has as well. They outlive this process.

    :ivar grpc: for the gRPC server
    :ivar http: for the exporter
    """

    grpc: list[socket.socket] = field(default_factory=list)
    http: list[socket.socket] = field(default_factory=list)


def adopt(descriptor: int, what: str) -> socket.socket:
    """Return a listening TCP socket that another process has opened, and has as well. It is this process's to close.

    :param what: what it is, for the error
    :raises HostError: it is something else; then it is closed
    """
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError as error:
        raise HostError(f"{what} is not open: {error.strerror}") from error
    if not is_socket:
        os.close(descriptor)
        raise HostError(f"{what} is no socket")
    own = socket.socket(fileno=descriptor)
    reason = ""
    if own.family not in (socket.AF_INET, socket.AF_INET6):
        reason = "is no TCP socket. For gRPC on a Unix socket, use --unix-socket"
    elif own.type != socket.SOCK_STREAM:
        reason = "is no TCP socket"
    elif not own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        reason = "does not listen. Is it a single connection (Accept=yes in a .socket unit)?"
    if reason:
        own.close()
        raise HostError(f"{what} {reason}")
    own.set_inheritable(False)
    own.setblocking(False)
    close_in_children(own)
    share(own)
    return own


def plain_host(host: str | None) -> str | None:
    """Return a host without its brackets; None for all interfaces."""
    host = host if host is None else host.removeprefix("[").removesuffix("]")
    return None if host == "::" else host


async def addresses_of(host: str | None, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Return the family and the address of each socket for `port` of `host`, which are as in `bind_tcp`.

    :raises OSError: the name or the address is unknown
    """
    found = await anyio.getaddrinfo(
        plain_host(host), port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))
