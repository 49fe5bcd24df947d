"""systemd's two protocols for services: sockets that it has opened, and what a service tells it.

Sockets: sd_listen_fds(3). They are the descriptors from 3 on, LISTEN_FDS of them, for the process LISTEN_PID;
LISTEN_FDNAMES has their names, with colons between them. systemd listens on them as long as the .socket unit is active,
so a client that connects while the service restarts waits, and is not refused.

Notifications: sd_notify(3), sd_watchdog_enabled(3). A datagram of lines NAME=VALUE to the Unix socket NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

import anyio

from connectrio.host.held import HeldSockets, adopt
from connectrio.host.lifecycle import Addresses, HostError, HostState
from connectrio.host.settings import HostSettings
from connectrio.logs import get_logger

log = get_logger("connectrio.host.systemd")

__all__ = ["Notifier", "Service", "held_sockets", "reporting"]

_FIRST = 3
_GRPC, _METRICS = "grpc", "metrics"
_FLAGS = {_GRPC: "--port", _METRICS: "--prometheus-port"}
# seconds between two looks at the service; until it serves, the shorter one
_LOOK, _LOOK_AT_START = 1.0, 0.1
# seconds
_SHORTEST_WATCHDOG = 0.1
# characters of a status, which is one line
_MOST_STATUS = 500


def held_sockets(settings: HostSettings) -> HeldSockets:
    """Return the sockets that systemd has opened for this process, if there are any. Call it once.

    A socket is for the port of its number, or of its name: "grpc" or "metrics" (FileDescriptorName= in a .socket unit).
    The environment says nothing of them afterwards, so that no child takes them for its own.

    :raises HostError: a socket has another port than the settings, or is no listening TCP socket
    """
    count, pid = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID", "")
    if not count:
        return HeldSockets()
    if pid != str(os.getpid()):
        log.warning(
            "LISTEN_FDS has sockets for another process, which are left alone; start this one by `exec`, or without a"
            " program around it",
            other_pid=int(pid) if pid.isdecimal() else 0,
        )
        return HeldSockets()
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for variable in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)
    if not count.isdecimal():
        raise HostError(f"LISTEN_FDS must be a number, got {count!r}")
    held = HeldSockets()
    with ExitStack() as undo:
        for number in range(int(count)):
            name = names[number] if number < len(names) and names[number] else "unknown"
            what = f"the socket {name!r} (descriptor {_FIRST + number}) that this process was given"
            own = adopt(_FIRST + number, what)
            undo.callback(own.close)
            purpose = _purpose(name, own.getsockname()[1], settings, held, what)
            (held.grpc if purpose == _GRPC else held.http).append(own)
        undo.pop_all()
    return held


def _purpose(name: str, port: int, settings: HostSettings, held: HeldSockets, what: str) -> str:
    """Return what a socket is for.

    :raises HostError: its port is not that of the settings
    """
    # 0 is any port, until a socket has one
    ports = {
        _GRPC: settings.port or _port(held.grpc),
        _METRICS: settings.prometheus_port or _port(held.http),
    }
    possible = [name] if name in ports else sorted(ports, key=lambda purpose: ports[purpose] != port)
    for purpose in possible:
        if ports[purpose] in (0, port):
            return purpose
    settled = " and ".join(f"{_FLAGS[purpose]} is {ports[purpose]}" for purpose in sorted(possible))
    raise HostError(f"{what} has port {port}, but {settled}: give the .socket unit and the host the same port")


def _port(sockets: Sequence[socket.socket]) -> int:
    return int(sockets[0].getsockname()[1]) if sockets else 0


class Service(Protocol):
    """What is told of: a `Host`, or the supervisor of several processes."""

    @property
    def state(self) -> HostState:
        """The state."""

    @property
    def not_ready(self) -> Sequence[str]:
        """Why it accepts no new work."""

    @property
    def connectors(self) -> int | None:
        """The number of task types that are served."""

    @property
    def addresses(self) -> Addresses | None:
        """Where it is reached; None before the ports are bound."""


class Notifier:
    """Tells systemd the state of a service. What systemd does not take is dropped.

    :param address: NOTIFY_SOCKET
    :param watchdog: seconds within which systemd wants signs of life; None if it does not
    """

    def __init__(self, address: str, watchdog: float | None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._sign_due = 0.0
        self._told: set[str] = set()
        self._status = ""
        self._has_failed = False

    @classmethod
    def of_environment(cls) -> Notifier | None:
        """Return a notifier if systemd wants to be told; then no child of this process tells it anything."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        period, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        if not address.startswith(("/", "@")):  # systemd has others for virtual machines
            return None
        # microseconds, of 64 bits; no host can say more than some times a second that it is alive
        is_number = period.isdecimal() and len(period) < 20 and int(period) > 0
        watched = is_number and pid == str(os.getpid())
        return cls(address, max(_SHORTEST_WATCHDOG, int(period) / 1_000_000) if watched else None)

    async def run(self, service: Service) -> None:
        """Tell of `service` until cancelled. Run it on the service's event loop, which is dead if it is blocked."""
        while True:
            self.tell(service)
            look = _LOOK_AT_START if service.state is HostState.STARTING else _LOOK
            await anyio.sleep(look if self._watchdog is None else min(look, self._watchdog / 3))

    def tell(self, service: Service) -> None:
        """Tell what has changed since it was told, and in time that the service is alive."""
        status, now = f"STATUS={_status(service)}", time.monotonic()
        states = [
            line
            for line, of in (
                ("READY=1", {HostState.SERVING}),
                ("STOPPING=1", {HostState.DRAINING, HostState.STOPPED}),
            )
            if service.state in of and line not in self._told
        ]
        signs = ["WATCHDOG=1"] if self._watchdog is not None and now >= self._sign_due else []
        lines = [*signs, *([status] if status != self._status else []), *states]
        if lines and self._send("\n".join(lines)):
            self._status = status
            self._told.update(states)
            if signs and self._watchdog is not None:
                self._sign_due = now + self._watchdog / 3

    def _send(self, text: str) -> bool:
        """Send a datagram, and return whether systemd takes it. If not, all of it is told again."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.setblocking(False)
                sending.sendto(text.encode("utf-8", "replace"), self._address)
        except BlockingIOError:
            return False
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning("systemd cannot be told the state of this host", reason=str(error))
            return False
        return True


def _status(service: Service) -> str:
    if service.state is not HostState.SERVING:
        return str(service.state)
    reasons = "; ".join(service.not_ready)
    if reasons:
        return " ".join(f"not ready: {reasons}".split())[:_MOST_STATUS]
    where = "" if service.addresses is None else f" on {service.addresses.target}"
    return f"serving {service.connectors} task types{where}"


async def reporting(serve: Callable[[], Awaitable[None]], service: Service) -> None:
    """Run `serve`, and tell systemd of `service` meanwhile, if it wants to be told."""
    notifier = Notifier.of_environment()
    if notifier is None:
        await serve()
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(notifier.run, service)
        try:
            await serve()
        finally:
            notifier.tell(service)
        tasks.cancel_scope.cancel()
