"""Binding ports."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack

import anyio

__all__ = ["ListenError", "bind_tcp", "can_share_ports"]

# what a machine without IPv6 (or IPv4) answers
_NOT_HERE = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


class ListenError(Exception):
    """A port cannot be bound; the message says which, why, and what to do."""


def can_share_ports() -> bool:
    """Whether processes of this system may listen on one port together, each with a part of the connections."""
    return hasattr(socket, "SO_REUSEPORT")


async def bind_tcp(
    host: str | None, port: int, *, purpose: str, setting: str, shared: bool = False, listen: bool = True
) -> list[socket.socket]:
    """Listen on `port` of `host`, or of all interfaces; port 0 takes one that is free on all of them.

    :param purpose: what the port is for, for the error ("gRPC")
    :param setting: where the port was set, for the error ("--port")
    :param shared: other processes of this user may listen on it as well (SO_REUSEPORT)
    :param listen: False only keeps others from the port, and gets no connections
    :returns: non-blocking sockets, which the caller closes
    :raises ListenError: it cannot be had
    """
    try:
        found = await anyio.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
        return _bind_all(
            dict.fromkeys((family, address) for family, _, _, _, address in found),
            any_will_do=host is None,
            shared=shared,
            listen=listen,
        )
    except OSError as error:
        where = f"port {port}" if host is None else f"{host}:{port}"
        raise ListenError(f"cannot listen on {where} for {purpose}: {_explain(error, setting)}") from error


def _bind_all(
    addresses: Iterable[tuple[int, tuple[object, ...]]], *, any_will_do: bool, shared: bool, listen: bool
) -> list[socket.socket]:
    bound: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as stack:
        for family, (host, port, *rest) in addresses:
            try:
                same_port = bound[0].getsockname()[1] if bound else port
                bound.append(_bind(family, (host, same_port, *rest), shared=shared, listen=listen))
            except OSError as error:
                if not any_will_do or error.errno not in _NOT_HERE:
                    raise
                missing = error
            else:
                stack.callback(bound[-1].close)
        if not bound:
            raise missing or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
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


def _explain(error: OSError, setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"another process has it. Stop that one, or choose another port with {setting} (0 takes any free one)"
    if error.errno == errno.EACCES:
        return f"this user may not; choose a port above 1023 with {setting}"
    return error.strerror or str(error)
