"""The states of a host, its addresses, and why it could not start."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio

from connectrio.rpc.peer import format_address

__all__ = ["Addresses", "HostError", "HostState", "ProcessOfSeveral", "completes_before", "is_loopback"]


class HostError(Exception):
    """The host cannot start; the message says why, and what to do.

    :ivar picture: the line of the author's code that has failed, and the way to it, masked; "" if none has
    """

    picture = ""


class HostState(enum.StrEnum):
    """The state of a host."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Addresses:
    """Where a host can be reached.

    :ivar grpc: (host, port) of each interface
    :ivar http: (host, port) of the exporter, on each interface
    :ivar unix_socket: the Unix socket for gRPC, if the host has one
    :ivar has_tls: whether the gRPC ports that other machines may reach are with TLS
    :ivar has_http_tls: whether the exporter is
    """

    grpc: tuple[tuple[str, int], ...]
    http: tuple[tuple[str, int], ...]
    unix_socket: Path | None = None
    has_tls: bool = False
    has_http_tls: bool = False

    @property
    def port(self) -> int:
        """The gRPC port."""
        return self.grpc[0][1]

    @property
    def prometheus_port(self) -> int:
        """The exporter's port."""
        return self.http[0][1]

    @property
    def beyond_loopback(self) -> bool:
        """Whether other machines may reach the gRPC port."""
        return not all(is_loopback(host) for host, _ in self.grpc)

    @property
    def target(self) -> str:
        """The gRPC server's address for a client on this machine."""
        return _local_target(*self.grpc[0])

    @property
    def url(self) -> str:
        """The exporter's base URL for a client on this machine."""
        return f"{'https' if self.has_http_tls else 'http'}://{_local_target(*self.http[0])}"


@dataclass(frozen=True)
class ProcessOfSeveral:
    """What a host knows of the other processes that listen on the same port.

    :ivar processes: the number of processes, this one included
    :ivar http: (host, port) of each interface of the exporter that shows the metrics of all of them
    """

    processes: int
    http: tuple[tuple[str, int], ...]


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address that is listened on."""
    return host == "::1" or host.startswith("127.")


def _local_target(host: str, port: int) -> str:
    return format_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104 - nothing is bound


async def completes_before(event: anyio.Event, function: Callable[[], Awaitable[None]]) -> bool:
    """Run `function`, and cancel it if `event` is set first. Return whether it has completed."""
    completed = False

    async def cancel() -> None:
        await event.wait()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        await function()
        completed = True
        tasks.cancel_scope.cancel()
    return completed
