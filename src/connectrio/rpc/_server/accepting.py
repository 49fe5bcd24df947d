"""Accepting connections: all that wait are accepted together, and each is opened in a task of its own.

To wait, accept and wrap one connection after the other takes several turns of the event loop for each, and a turn
lasts as long as all the calls in it: under load, the last of a hundred clients that connect together would wait for
seconds. Also, asyncio's `sock_accept` loses a connection that comes in the turn in which it is cancelled.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
from anyio.abc import AnyByteStream, Listener, SocketAttribute, SocketListener, SocketStream, UNIXSocketStream

from connectrio.rpc.sockets import UnixListener
from connectrio.rpc.tls import TLSListener

# returns the connection; or None when its client has gone by then
Open = Callable[[], Awaitable[AnyByteStream | None]]
Wrap = Callable[[AnyByteStream], AnyByteStream]

# connections that are accepted before others get a turn
_MAX_ACCEPTED_AT_ONCE = 64


async def accept(listener: Listener[Any]) -> list[Open]:
    """Wait for connections. The caller must open each, or its socket stays open. Cancelled, none was taken.

    :param listener: one of anyio's or ours, or another with a method `accept`
    :raises OSError: accepting failed
    """
    wrap: Wrap | None = None
    if isinstance(listener, TLSListener):
        wrap, listener = listener.wrap, listener.listener
    if isinstance(listener, SocketListener | UnixListener):
        raw_socket = listener.extra(SocketAttribute.raw_socket)
        await anyio.wait_readable(raw_socket)
        return [partial(_open, each, wrap) for each in _accept_sockets(raw_socket)]
    transport: AnyByteStream = await listener.accept()  # type: ignore[attr-defined]  # see above
    return [partial(given, transport, wrap)]


def _accept_sockets(listening: socket.socket) -> list[socket.socket]:
    accepted: list[socket.socket] = []
    try:
        while len(accepted) < _MAX_ACCEPTED_AT_ONCE:
            accepted.append(listening.accept()[0])
    except BlockingIOError:
        pass  # no more wait; or another process has taken the one that did
    except OSError:
        if not accepted:
            raise
    return accepted


async def _open(accepted: socket.socket, wrap: Wrap | None) -> AnyByteStream | None:
    kind = SocketStream
    try:
        accepted.setblocking(False)
        accepted.getpeername()
        if accepted.family == socket.AF_UNIX:
            kind = UNIXSocketStream
        else:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with anyio.CancelScope(shield=True):  # cancelled here, neither socket nor stream would be closed
            transport = await kind.from_socket(accepted)
    except (OSError, ValueError):  # ValueError: from anyio, when the client goes at this moment
        accepted.close()
        return None
    except BaseException:
        accepted.close()
        raise
    return transport if wrap is None else wrap(transport)


async def given(transport: AnyByteStream, wrap: Wrap | None = None) -> AnyByteStream:
    """Return a connection that is open already, for `Open`."""
    return transport if wrap is None else wrap(transport)
