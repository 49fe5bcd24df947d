"""The vocabulary of a host's life: its states, its addresses, and why it could not begin."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Addresses", "HostError", "HostState", "ProcessOfSeveral", "what_to_act_on"]


class HostError(Exception):
    """The host cannot start; the message says why, and what to do."""


class HostState(enum.StrEnum):
    """Where a host is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Addresses:
    """Where a host can be reached.

    :ivar grpc: (host, port) of each interface
    :ivar http: (host, port) of the exporter, on each interface
    :ivar unix_socket: gRPC's other address, if it has one
    """

    grpc: tuple[tuple[str, int], ...]
    http: tuple[tuple[str, int], ...]
    unix_socket: Path | None = None

    @property
    def port(self) -> int:
        """The gRPC port."""
        return self.grpc[0][1]

    @property
    def prometheus_port(self) -> int:
        """The exporter's port."""
        return self.http[0][1]

    @property
    def target(self) -> str:
        """The gRPC server as a client on this machine names it."""
        return _local_target(self.grpc[0])

    @property
    def url(self) -> str:
        """The exporter's base URL for a client on this machine."""
        return f"http://{_local_target(self.http[0])}"


@dataclass(frozen=True)
class ProcessOfSeveral:
    """A host's place beside others of its kind, which listen on the same port in processes of their own.

    :ivar processes: how many they are
    :ivar http: (host, port) of each interface of the exporter that shows the metrics of all of them
    """

    processes: int
    http: tuple[tuple[str, int], ...]


def _local_target(address: tuple[str, int]) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address[0], address[0])  # noqa: S104 - a name, not a binding
    return f"[{host}]:{address[1]}" if ":" in host and not host.startswith("[") else f"{host}:{address[1]}"


def what_to_act_on(group: BaseExceptionGroup[Any]) -> BaseException:
    """The reason why a host did not start, or was stopped, in a group that is an accident of how tasks are held."""
    found = group.subgroup(lambda error: isinstance(error, HostError | SystemExit))
    return group if found is None else _first_leaf(found)


def _first_leaf(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
