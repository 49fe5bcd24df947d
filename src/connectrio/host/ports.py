"""The ports and sockets that a host listens on."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from anyio.abc import Listener, SocketAttribute, SocketListener
from anyio.streams.stapled import MultiListener

from connectrio.host.held import HeldSockets, addresses_of, plain_host
from connectrio.host.lifecycle import Addresses, HostError, ProcessOfSeveral
from connectrio.host.settings import HostSettings
from connectrio.rpc.peer import format_address
from connectrio.rpc.sockets import (
    UnixSocketError,
    close_in_children,
    listen_unix,
    own_sockets,
    shut_down,
    stop_listening,
)

if TYPE_CHECKING:
    from ssl import SSLContext

    from connectrio.host.handover import Predecessor
    from connectrio.rpc.tls import ServerTLS

__all__ = [
    "HostPorts", "PortTakenError", "bind_ports", "bind_tcp", "can_share_ports", "exporter_tls", "local_addresses",
]  # fmt: skip

# the errors of a machine without IPv6 (or IPv4)
_NO_SUCH_FAMILY = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


class PortTakenError(HostError):
    """Another process listens on the port."""


@dataclass(frozen=True)
class HostPorts:
    """The bound ports of a host.

    :ivar grpc: listeners for the gRPC server
    :ivar http: sockets for the exporter; none where another process has it
    :ivar addresses: where clients reach all of these
    :ivar tls: what the TCP ports for gRPC show; None without TLS, and for listeners that were given
    :ivar http_tls: what the exporter shows; None without TLS
    :ivar predecessor: the host that has handed its ports over, and goes on until it is told that this one serves
    """

    grpc: list[Listener[Any]]
    http: list[socket.socket]
    addresses: Addresses
    tls: ServerTLS | None = None
    http_tls: ServerTLS | None = None
    predecessor: Predecessor | None = None

    @property
    def http_context(self) -> Callable[[], SSLContext] | None:
        """What returns the exporter's TLS context for a new connection; None without TLS."""
        return None if self.http_tls is None else self.http_tls.context


async def bind_ports(
    settings: HostSettings,
    stack: AsyncExitStack,
    *,
    listeners: Sequence[Listener[Any]] | None = None,
    one_of: ProcessOfSeveral | None = None,
    held: HeldSockets | None = None,
) -> HostPorts:
    """Bind the ports of `settings`, or take `listeners` in their place.

    A port that a host has which drains is taken over from it.

    :param stack: closes what is still open when it ends
    :param one_of: this host shares its gRPC port with others, and has no exporter
    :param held: listening sockets for these ports, which are not bound then
    :raises HostError: a port cannot be bound, or the files for TLS cannot be used
    """
    if listeners is not None:
        for listener in listeners:
            stack.push_async_callback(listener.aclose)
            for each in own_sockets(listener):
                stack.callback(shut_down, each)
        return HostPorts(list(listeners), [], _given_addresses(listeners))
    tls = _server_tls(settings)
    http_tls = exporter_tls(settings)
    try:
        held, predecessor = await _grpc_sockets(settings, stack, one_of, held or HeldSockets())
        tcp = held.grpc
        for bound in tcp:
            stack.callback(stop_listening, bound)
        http = held.http
        if one_of is None and not http:
            http = await bind_tcp(
                settings.host, settings.prometheus_port, purpose="the metrics", setting="--prometheus-port"
            )
        for bound in http:
            stack.callback(stop_listening, bound)
        grpc: list[Listener[Any]] = [await SocketListener.from_socket(bound) for bound in tcp]
        if tls is not None:
            grpc = [tls.listen(listener) for listener in grpc]
        if settings.unix_socket is not None:
            unix = await listen_unix(settings.unix_socket, mode=int(settings.unix_socket_mode, 8))
            stack.push_async_callback(unix.aclose)
            grpc.append(unix)
    except UnixSocketError as error:
        raise HostError(str(error)) from error
    exporter = local_addresses(http) if one_of is None else one_of.http
    addresses = Addresses(
        local_addresses(tcp),
        exporter,
        settings.unix_socket,
        has_tls=tls is not None,
        has_http_tls=http_tls is not None,
    )
    return HostPorts(grpc, http, addresses, tls, http_tls, predecessor)


async def _grpc_sockets(
    settings: HostSettings, stack: AsyncExitStack, one_of: ProcessOfSeveral | None, held: HeldSockets
) -> tuple[HeldSockets, Predecessor | None]:
    """Return the sockets with those for gRPC, and the host that they were taken over from, if they were."""
    if held.grpc:
        return held, None
    try:
        shared = one_of is not None
        bound = await bind_tcp(settings.host, settings.port, purpose="gRPC", setting="--port", shared=shared)
    except PortTakenError:
        from connectrio.host.handover import ask_predecessor  # most ports are free

        predecessor = None if one_of is not None else await ask_predecessor(settings, stack)
        if predecessor is None:
            raise
        return replace(predecessor.sockets, http=held.http or predecessor.sockets.http), predecessor
    return replace(held, grpc=bound), None


def _given_addresses(listeners: Sequence[Listener[Any]]) -> Addresses:
    """Return the addresses of the listeners that are on IP ports."""
    from anyio.streams.tls import TLSListener as AnyioTLSListener

    from connectrio.rpc.tls import TLSListener

    tcp: list[tuple[str, int]] = []
    plain: list[tuple[str, int]] = []
    for each in listeners:
        for listener in each.listeners if isinstance(each, MultiListener) else [each]:
            address = listener.extra(SocketAttribute.local_address, None)
            if isinstance(address, tuple):
                tcp.append(address[:2])
                plain += [] if isinstance(listener, (TLSListener, AnyioTLSListener)) else [address[:2]]
    return Addresses(tuple(tcp), (), has_tls=not Addresses(tuple(plain), ()).beyond_loopback)


def exporter_tls(settings: HostSettings) -> ServerTLS | None:
    """Return what the exporter's port shows; None if it is without TLS.

    :raises HostError: the files for TLS cannot be used
    """
    if not settings.prometheus_tls:
        return None
    # probes and scrapers show no certificate
    return _server_tls(replace(settings, tls_client_ca=None), protocols=("http/1.1",))


def _server_tls(settings: HostSettings, **options: Any) -> ServerTLS | None:
    if settings.tls_cert is None:
        return None
    from ssl import TLSVersion  # the supervisor of several processes binds ports too, and needs no TLS

    from connectrio.rpc.tls import ServerTLS, TLSFilesError

    try:
        return ServerTLS(
            settings.tls_cert,
            settings.tls_key,
            client_ca=settings.tls_client_ca,
            minimum_version=TLSVersion.TLSv1_3 if settings.tls_minimum == "1.3" else TLSVersion.TLSv1_2,
            handshake_timeout=settings.tls_handshake_timeout,
            **options,
        )
    except TLSFilesError as error:
        raise HostError(str(error)) from error


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

    :param host: a name or an address, also [ipv6]; None and "::" stand for all interfaces, of IPv4 and IPv6
    :param purpose: what the port is for, for the error ("gRPC")
    :param setting: where the port was set, for the error ("--port")
    :param shared: other processes of this user may listen on it as well (SO_REUSEPORT)
    :param listen: False reserves the port without accepting connections
    :returns: non-blocking sockets, which the caller closes with `stop_listening`
    :raises PortTakenError: another process has the port
    :raises HostError: the port cannot be bound; the message says which, why, and what to do
    """
    host = plain_host(host)
    try:
        addresses = await addresses_of(host, port)
        return _bind_all(addresses, one_is_enough=host is None, shared=shared, listen=listen)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = (
                f"another process has it. Stop that one, or choose another port with {setting} (0 takes any free one)"
            )
        elif error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            reason = f"{error.strerror}. Choose an address of this machine with --host, or leave it out for all of them"
        elif error.errno == errno.EACCES:
            reason = f"this user has no permission; choose a port above 1023 with {setting}"
        else:
            reason = error.strerror or str(error)
        where = f"port {port}" if host is None else format_address(host, port)
        kind = PortTakenError if error.errno == errno.EADDRINUSE else HostError
        raise kind(f"cannot listen on {where} for {purpose}: {reason}") from error


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
    close_in_children(listening)
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
