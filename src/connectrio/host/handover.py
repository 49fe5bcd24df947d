"""The ports of a host that drains go to its successor, with all connections that wait there.

A host that was told to stop accepts connections for `drain_delay`. If another one is started on its ports meanwhile:

    successor                                             the host that drains
    finds the gRPC port taken
    connects to the Unix socket of that port        →     sends its listening sockets
    starts; both accept connections
    answers calls, and says so                      →     stops listening, and drains its connections

Both have the same sockets, so no connection is refused or reset at any moment. If the successor ends before it serves,
the host goes on as if there had been none. A port of a host that does not drain stays taken.

The Unix socket is in Linux' abstract namespace: it has no file that could be left behind, and processes reach each
other there if they share the network, as they do for ports. It has no permissions either, so both sides ask the kernel
for the other's user, which must be their own. Such a process could also debug this one, so it gains nothing.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, cast

import anyio
from anyio.abc import SocketAttribute, UNIXSocketStream

from connectrio.host.held import HeldSockets, addresses_of, adopt
from connectrio.host.lifecycle import HostError
from connectrio.host.settings import HostSettings
from connectrio.logs import get_logger
from connectrio.rpc.sockets import listen_unix, prepare, share

log = get_logger("connectrio.host.handover")

__all__ = ["Predecessor", "ask_predecessor", "hand_over"]

_SERVES = b"1"
# seconds for the other side to send what it has ready
_PATIENCE = 5.0
# a host has one socket for each address
_MOST_SOCKETS = 64
_CREDENTIALS = struct.Struct("3i")
# the user as whom the kernel shows all those that a user namespace does not know
_NOBODY = 65534


async def hand_over(grpc: Sequence[socket.socket], http: Sequence[socket.socket], seconds: float) -> int | None:
    """Wait for so many seconds, or until a successor serves.

    :param grpc: the listening sockets of the gRPC port
    :param http: those of the exporter
    :returns: the process id of the successor that has the sockets, also of one that does not serve yet; None if there
        is none
    """
    offer = _Offer(grpc, http)
    with anyio.move_on_after(seconds):
        if seconds > 0 and grpc and sys.platform == "linux":
            await offer.run()
        if offer.successor is None:
            await anyio.sleep_forever()
    return offer.successor


class _Offer:
    """The sockets of a host that drains, for one successor after the other, or two could serve.

    :ivar successor: the process id of the one that has them, from when they are sent to it until it ends
    """

    def __init__(self, grpc: Sequence[socket.socket], http: Sequence[socket.socket]) -> None:
        self._grpc = grpc
        self._http = http
        self.successor: int | None = None

    async def run(self) -> None:
        """Offer the sockets until a successor serves, or return at once if they cannot be offered."""
        try:
            async with await listen_unix(_name(self._grpc[0].getsockname()[1])) as listener:
                while self.successor is None:
                    async with await listener.accept() as stream:
                        await self._give(cast("UNIXSocketStream", stream))
        except OSError as error:
            log.warning("this host cannot hand its ports over to another one", reason=str(error))

    async def _give(self, stream: UNIXSocketStream) -> None:
        """Send the sockets to a successor, and return when it serves or has ended."""
        prepare(stream)
        pid, is_ours = _peer(stream)
        if not is_ours:
            log.warning(
                "a process of another user has asked for this host's ports, and did not get them", other_pid=pid
            )
            return
        sockets = (*self._grpc, *self._http)
        for each in sockets:
            share(each)
        try:
            await stream.send_fds(json.dumps({"grpc": len(self._grpc)}).encode(), [each.fileno() for each in sockets])
            self.successor = pid
            log.info("a successor has this host's ports, and starts", other_pid=pid)
            await stream.receive(1)
            log.info("the successor serves; this host stops listening", other_pid=pid)
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            self.successor = None
            log.warning("the successor has ended before it served; this host listens on", other_pid=pid)


class Predecessor:
    """The host that has handed its ports over.

    :ivar sockets: of its ports; the exporter's only if they are for the port that this host wants
    """

    def __init__(self, stream: UNIXSocketStream, sockets: HeldSockets) -> None:
        self._stream = stream
        self.sockets = sockets

    async def succeed(self) -> None:
        """Tell it that this host serves, so that it stops listening."""
        with suppress(anyio.BrokenResourceError):  # it has ended
            await self._stream.send(_SERVES)
        await self._stream.aclose()


async def ask_predecessor(settings: HostSettings, stack: AsyncExitStack) -> Predecessor | None:
    """Ask for the ports of a host that drains. Return None if no such host has the gRPC port.

    :param stack: closes the connection to it, and the sockets that are of no use
    :raises HostError: it listens on other addresses
    """
    if sys.platform != "linux":
        return None
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        asking.setblocking(False)
        asking.connect(f"\0{_name(settings.port).partition(':')[2]}")
        stream = await UNIXSocketStream.from_socket(asking)
    except OSError:
        asking.close()
        return None
    prepare(stream)
    stack.push_async_callback(stream.aclose)
    pid, is_ours = _peer(stream)
    if not is_ours:
        return None
    try:
        with anyio.fail_after(_PATIENCE):
            message, descriptors = await stream.receive_fds(1024, _MOST_SOCKETS)
    except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError):
        return None
    received = _adopted(descriptors, f"a socket that process {pid} has handed over")
    for each in received:
        stack.callback(each.close)
    count = _count(message, len(received))
    if count is None:
        return None
    grpc, http = received[:count], received[count:]
    if not _are_those(grpc, await addresses_of(settings.host, settings.port)):
        raise HostError(
            f"port {settings.port} is that of a host that drains (process {pid}), but it listens on other addresses:"
            " give the same --host, or start when it has ended"
        )
    if not _are_those(http, await addresses_of(settings.host, settings.prometheus_port)):
        for each in http:  # now: nobody would accept what connects to them
            each.close()
        http = []
    log.info("took the ports over from a host that drains", port=settings.port, other_pid=pid)
    return Predecessor(stream, HeldSockets(grpc, http))


def _adopted(descriptors: Sequence[int], what: str) -> list[socket.socket]:
    """Adopt all these descriptors, or close them.

    :raises HostError: one of them is no listening socket
    """
    left, received = list(descriptors), []
    try:
        while left:
            received.append(adopt(left.pop(0), what))
    except HostError:
        for each in received:
            each.close()
        for descriptor in left:
            os.close(descriptor)
        raise
    return received


def _count(message: bytes, most: int) -> int | None:
    """Return how many of the sockets are for gRPC; None if the message does not say so."""
    try:
        count = json.loads(message)["grpc"]
    except (ValueError, TypeError, KeyError):
        return None
    return count if isinstance(count, int) and 0 < count <= most else None


def _are_those(sockets: Sequence[socket.socket], addresses: Sequence[tuple[int, tuple[Any, ...]]]) -> bool:
    """Return whether the sockets have these addresses: all that this machine has, and no other."""
    found = {each.getsockname()[:2] for each in sockets}
    missing = [each for each in addresses if each[1][:2] not in found]
    return bool(found) and found <= {address[:2] for _, address in addresses} and not any(map(_exists, missing))


def _exists(address: tuple[int, tuple[Any, ...]]) -> bool:
    """Return whether this machine has an address."""
    family, (host, _, *rest) = address
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0, *rest))
    except OSError:
        return False
    return True


def _name(port: int) -> str:
    return f"unix-abstract:connectrio-handover-{port}"


def _peer(stream: UNIXSocketStream) -> tuple[int, bool]:
    """Return the process at the other end, and whether it is one of this user."""
    raw = stream.extra(SocketAttribute.raw_socket)
    pid, uid, _ = _CREDENTIALS.unpack(raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid == os.geteuid() != _NOBODY
