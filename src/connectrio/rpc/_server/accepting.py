"""Accepting connections: all that wait are accepted together, and each is opened in a task of its own.

To wait, accept and wrap one connection after the other takes several turns of the event loop for each, and a turn
lasts as long as all the calls in it: under load, the last of a hundred clients that connect together would wait for
seconds. Also, asyncio's `sock_accept` loses a connection that comes in the turn in which it is cancelled.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
from anyio.abc import (
    AnyByteStream,
    Listener,
    SocketAttribute,
    SocketListener,
    SocketStream,
    TaskGroup,
    UNIXSocketStream,
)

from connectrio.diagnostics import SafeLogger
from connectrio.rpc.peer import Peer
from connectrio.rpc.sockets import UnixListener, close_in_children
from connectrio.rpc.tls import TLSListener

log = SafeLogger("connectrio.rpc")

Serve = Callable[[AnyByteStream], Awaitable[None]]
Wrap = Callable[[AnyByteStream], AnyByteStream]

# connections that are accepted before others get a turn
_MAX_ACCEPTED_AT_ONCE = 64

# accept() errors that pass when connections close
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RETRY_DELAY = 0.1


async def accept_connections(
    listener: Listener[Any], serve: Serve, tasks: TaskGroup, is_over: Callable[[], bool] = lambda: False
) -> None:
    """Accept connections until cancelled, and run `serve` for each, in a task of `tasks`.

    Cancelled, no connection is lost: each that was accepted has its task. An exception of `serve` is logged.

    :param listener: one of anyio's or ours, or another
    :param is_over: whether its socket is shut down, and errors of it mean nothing
    :raises OSError: accepting failed, and will fail again
    """
    if not hasattr(listener, "accept"):
        await listener.serve(partial(_serve, serve, None), tasks)
        return
    wrap: Wrap | None = None
    if isinstance(listener, TLSListener):
        wrap, listener = listener.wrap, listener.listener
    while True:
        try:
            accepted = await _accept(listener)
        except OSError as error:
            if is_over():
                return
            if error.errno in _EXHAUSTED:
                log.repeated_warning(
                    "cannot accept a connection now: %(error)s; trying again in %(delay_seconds)g s",
                    {"error": error, "delay_seconds": _RETRY_DELAY},
                )
                await anyio.sleep(_RETRY_DELAY)
            elif error.errno != errno.ECONNABORTED:
                raise
        else:
            for each in accepted:
                tasks.start_soon(_serve, serve, wrap, each)


async def _accept(listener: Listener[Any]) -> list[socket.socket] | list[AnyByteStream]:
    """Wait for connections and return them. Cancelled, none was taken."""
    if not isinstance(listener, SocketListener | UnixListener):
        return [await listener.accept()]  # type: ignore[attr-defined]  # `accept_connections` has looked
    raw_socket = listener.extra(SocketAttribute.raw_socket)
    await anyio.wait_readable(raw_socket)
    accepted: list[socket.socket] = []
    try:
        while len(accepted) < _MAX_ACCEPTED_AT_ONCE:
            accepted.append(raw_socket.accept()[0])
    except BlockingIOError:
        pass  # no more wait; or another process has taken the one that did
    except OSError:
        if not accepted:
            raise
    return accepted


async def _serve(serve: Serve, wrap: Wrap | None, accepted: socket.socket | AnyByteStream) -> None:
    peer = ""
    try:
        transport = await _open(accepted) if isinstance(accepted, socket.socket) else accepted
        if transport is not None:
            peer = str(Peer(transport))  # once it is closed, nobody can tell
            await serve(transport if wrap is None else wrap(transport))
    except Exception:
        # a bug of ours must not take the other connections with it
        log.exception("a connection from %(peer)s failed", {"peer": peer})


async def _open(accepted: socket.socket) -> AnyByteStream | None:
    """Return a stream over the socket, or None if its client has gone by now."""
    kind = SocketStream
    close_in_children(accepted)
    try:
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
    return transport
