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
from typing import cast

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
    """Wait for so many seconds, or until a successor serves. Return its process id; None if there is none.

    :param grpc: the listening sockets of the gRPC port
    :param http: those of the exporter
    """
    successor = None
    with anyio.move_on_after(seconds):
        if seconds > 0 and grpc and sys.platform == "linux":
            successor = await _offer(grpc, http)
        if successor is None:
            await anyio.sleep_forever()
    return successor


async def _offer(grpc: Sequence[socket.socket], http: Sequence[socket.socket]) -> int | None:
    """Offer the sockets until a successor serves, and return its process id; None if they cannot be offered."""
    try:
        async with await listen_unix(_name(grpc[0].getsockname()[1])) as listener:
            while True:  # one successor after the other, or two could serve
                async with await listener.accept() as stream:
                    pid = await _give(cast("UNIXSocketStream", stream), grpc, http)
                if pid is not None:
                    return pid
    except OSError as error:
        log.warning("this host cannot hand its ports over to another one", reason=str(error))
        return None


async def _give(stream: UNIXSocketStream, grpc: Sequence[socket.socket], http: Sequence[socket.socket]) -> int | None:
    """Send the sockets to a successor, and return its process id when it serves; None if it ends before."""
    prepare(stream)
    pid, is_ours = _peer(stream)
    if not is_ours:
        log.warning("a process of another user has asked for this host's ports, and did not get them", other_pid=pid)
        return None
    for each in (*grpc, *http):
        share(each)
    with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
        await stream.send_fds(json.dumps({"grpc": len(grpc)}).encode(), [each.fileno() for each in (*grpc, *http)])
        log.info("a successor has this host's ports, and starts", other_pid=pid)
        await stream.receive(1)
        log.info("the successor serves; this host stops listening", other_pid=pid)
        return pid
    log.warning("the successor has ended before it served; this host listens on", other_pid=pid)
    return None


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
    received = []
    for each in descriptors:
        received.append(adopt(each, f"a socket that process {pid} has handed over"))
        stack.callback(received[-1].close)
    count = int(json.loads(message)["grpc"])
    grpc, http = received[:count], received[count:]
    wanted = await addresses_of(settings.host, settings.port)
    if not _are_among(grpc, wanted):
        raise HostError(
            f"port {settings.port} is that of a host that drains (process {pid}), but it listens on other addresses:"
            " give the same --host, or start when it has ended"
        )
    if not _are_among(http, await addresses_of(settings.host, settings.prometheus_port)):
        http = []
    log.info("took the ports over from a host that drains", port=settings.port, other_pid=pid)
    return Predecessor(stream, HeldSockets(grpc, http))


def _are_among(sockets: Sequence[socket.socket], addresses: Sequence[tuple[int, tuple[object, ...]]]) -> bool:
    known = {address[:2] for _, address in addresses}
    return bool(sockets) and all(each.getsockname()[:2] in known for each in sockets)


def _name(port: int) -> str:
    return f"unix-abstract:connectrio-handover-{port}"


def _peer(stream: UNIXSocketStream) -> tuple[int, bool]:
    """Return the process at the other end, and whether it is one of this user."""
    raw = stream.extra(SocketAttribute.raw_socket)
    pid, uid, _ = _CREDENTIALS.unpack(raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid == os.geteuid() != _NOBODY
