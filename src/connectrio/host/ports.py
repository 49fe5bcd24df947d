"""The ports and sockets that a host listens on."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ssl import TLSVersion
from typing import Any

from anyio.abc import Listener, SocketListener

from connectrio.host.lifecycle import Addresses, HostError, ProcessOfSeveral
from connectrio.host.listening import bind_tcp, local_addresses
from connectrio.host.settings import HostSettings
from connectrio.rpc.sockets import UnixSocketError, listen_unix
from connectrio.rpc.tls import ServerTLS, TLSFilesError

__all__ = ["HostPorts", "bind_ports"]


@dataclass(frozen=True)
class HostPorts:
    """The bound ports of a host.

    :ivar grpc: listeners for the gRPC server
    :ivar http: sockets for the exporter; none where another process has it
    :ivar addresses: where clients reach all of these
    """

    grpc: list[Listener[Any]]
    http: list[socket.socket]
    addresses: Addresses


async def bind_ports(
    settings: HostSettings,
    stack: AsyncExitStack,
    *,
    listeners: Sequence[Listener[Any]] | None = None,
    one_of: ProcessOfSeveral | None = None,
) -> HostPorts:
    """Bind the ports of `settings`, or take `listeners` in their place.

    :param stack: closes what is still open when it ends
    :param one_of: this host shares its gRPC port with others, and has no exporter
    :raises HostError: a port cannot be bound, or the files for TLS cannot be used
    """
    if listeners is not None:
        for listener in listeners:
            stack.push_async_callback(listener.aclose)
        return HostPorts(list(listeners), [], Addresses((), ()))
    try:
        tls = _server_tls(settings)
        tcp = await bind_tcp(settings.host, settings.port, purpose="gRPC", setting="--port", shared=one_of is not None)
        for bound in tcp:
            stack.callback(bound.close)
        http: list[socket.socket] = []
        if one_of is None:
            http = await bind_tcp(
                settings.host, settings.prometheus_port, purpose="the metrics", setting="--prometheus_port"
            )
        for bound in http:
            stack.callback(bound.close)
        grpc: list[Listener[Any]] = [await SocketListener.from_socket(bound) for bound in tcp]
        if tls is not None:
            grpc = [tls.listen(listener) for listener in grpc]
        if settings.unix_socket is not None:
            unix = await listen_unix(settings.unix_socket, mode=int(settings.unix_socket_mode, 8))
            stack.push_async_callback(unix.aclose)
            grpc.append(unix)
    except (TLSFilesError, UnixSocketError) as error:
        raise HostError(str(error)) from error
    exporter = local_addresses(http) if one_of is None else one_of.http
    return HostPorts(grpc, http, Addresses(local_addresses(tcp), exporter, settings.unix_socket))


def _server_tls(settings: HostSettings) -> ServerTLS | None:
    if settings.tls_cert is None:
        return None
    return ServerTLS(
        settings.tls_cert,
        settings.tls_key,
        client_ca=settings.tls_client_ca,
        minimum_version=TLSVersion.TLSv1_3 if settings.tls_minimum == "1.3" else TLSVersion.TLSv1_2,
        handshake_timeout=settings.tls_handshake_timeout,
    )
