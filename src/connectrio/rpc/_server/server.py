"""A gRPC server for anyio: grpclib's servicers, served on asyncio or trio under structured concurrency."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

import anyio
from anyio.abc import AnyByteStream, Listener, SocketAttribute, TaskGroup, TaskStatus
from anyio.streams.stapled import MultiListener
from grpclib.const import Handler
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.events import _DispatchServerEvents

from connectrio.rpc._server.accepting import Open, accept, given
from connectrio.rpc._server.connection import ServedConnection
from connectrio.rpc._server.requests import CallContext
from connectrio.rpc._server.servicers import adopt_servicers
from connectrio.rpc.codec import MessageCodec
from connectrio.rpc.options import ServerOptions
from connectrio.rpc.peer import Peer

log = logging.getLogger("connectrio.rpc")

# accept() errors that pass when connections close
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ACCEPT_RETRY_DELAY = 0.1


class Servicer(Protocol):
    """What grpclib can serve: betterproto's `…Base` classes, and grpclib's own."""

    def __mapping__(self) -> dict[str, Handler]: ...


class Server:
    """Serves grpclib servicers over HTTP/2.

    Pass listeners to `serve`; end it with `shutdown` (gracefully) or by cancelling it (at once). A server serves once.

    :param servicers: the services
    :param options: limits and time-outs
    :param codec: how messages are encoded; betterproto2's and protobuf's messages by default, see `MessageCodec`
    :param status_details_codec: how `GRPCError.details` are encoded; by default they are not sent
    """

    def __init__(
        self,
        servicers: Iterable[Servicer],
        *,
        options: ServerOptions | None = None,
        codec: CodecBase | None = None,
        status_details_codec: StatusDetailsCodecBase | None = None,
    ) -> None:
        adopt_servicers()
        self._handlers: dict[str, Handler] = {}
        for servicer in servicers:
            self._handlers.update(servicer.__mapping__())
        self._options = options or ServerOptions()
        self._codec = codec or MessageCodec()
        self._status_details_codec = status_details_codec
        self._connections: set[ServedConnection] = set()
        self._accept_scope: anyio.CancelScope | None = None
        self._draining = False
        # one thread: with more, the event loop would wait longer for the interpreter's lock
        self._decode_limiter = anyio.CapacityLimiter(1)
        # grpclib.events.listen(server, …) registers here
        self.__dispatch__ = _DispatchServerEvents()

    async def serve(
        self,
        listeners: Listener[Any] | Iterable[Listener[Any]],
        *,
        task_status: TaskStatus[list[Any]] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `shutdown` has finished, or until cancelled.

        Started with `TaskGroup.start`, this reports the listeners' local addresses once it accepts connections.

        :param listeners: owned by the server from here on, and closed by it
        """
        listeners = [
            one
            for each in ([listeners] if isinstance(listeners, Listener) else listeners)
            for one in (each.listeners if isinstance(each, MultiListener) else [each])
        ]
        try:
            async with anyio.create_task_group() as connections:
                with anyio.CancelScope() as self._accept_scope:
                    if self._draining:  # shut down before it began
                        self._accept_scope.cancel()
                    async with anyio.create_task_group() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept, listener, connections)
                        addresses = [listener.extra(SocketAttribute.local_address, None) for listener in listeners]
                        task_status.started(addresses)
                await _close(listeners)
        finally:
            with anyio.CancelScope(shield=True):
                await _close(listeners)

    async def serve_connection(self, transport: AnyByteStream) -> None:
        """Serve one connection over `transport`, which is closed afterwards, until either side ends it."""
        connection: ServedConnection | None = None
        try:
            if len(self._connections) >= self._options.max_connections:
                log.warning(
                    "a connection was closed because there are %(max_connections)d, as many as max_connections allows",
                    {"max_connections": self._options.max_connections},
                )
                return
            peer = Peer(transport)
            context = CallContext(
                handlers=self._handlers,
                codec=self._codec,
                status_details_codec=self._status_details_codec,
                grpclib_events=self.__dispatch__,
                options=self._options,
                peer=peer,
                peer_name=str(peer),
                decode_limiter=self._decode_limiter,
            )
            connection = ServedConnection(transport, context)
            self._connections.add(connection)
            if self._draining:
                connection.drain()
            await connection.run()
        finally:
            if connection is not None:
                self._connections.discard(connection)
            await anyio.aclose_forcefully(transport)

    def stop_accepting(self) -> None:
        """Close the listeners; open connections go on."""
        self._draining = True
        if self._accept_scope is not None:
            self._accept_scope.cancel()

    async def shutdown(self, grace: float | None = None) -> None:
        """Stop accepting, let the calls in flight finish, and return when every connection is closed.

        Clients are told to go elsewhere (GOAWAY); a call that raced with that is still answered.

        :param grace: seconds; the calls that are left then are cancelled and answered UNAVAILABLE. None waits for
            them for as long as they take
        """
        self.stop_accepting()
        for connection in list(self._connections):
            connection.drain()
        with anyio.move_on_after(grace):
            await self._wait_until_idle()
            return
        for connection in list(self._connections):
            connection.abort()
        await self._wait_until_idle()

    @property
    def active_calls(self) -> int:
        """How many calls are being answered now."""
        return sum(len(connection.core.streams) for connection in self._connections)

    async def _wait_until_idle(self) -> None:
        while self._connections:
            await next(iter(self._connections)).ended.wait()

    async def _accept(self, listener: Listener[Any], connections: TaskGroup) -> None:
        if not hasattr(listener, "accept"):
            await listener.serve(self._serve_accepted, connections)
            return
        while True:
            try:
                opening = await accept(listener)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.warning(
                        "cannot accept a connection now: %(error)s; trying again in %(retry_seconds)g s",
                        {"error": error, "retry_seconds": _ACCEPT_RETRY_DELAY},
                    )
                    await anyio.sleep(_ACCEPT_RETRY_DELAY)
                elif error.errno != errno.ECONNABORTED:
                    raise
            else:
                for open_connection in opening:
                    connections.start_soon(self._serve_opened, open_connection)

    async def _serve_opened(self, open_connection: Open) -> None:
        try:
            transport = await open_connection()
            if transport is not None:
                await self.serve_connection(transport)
        except Exception:
            # a bug of ours must not take the other connections with it
            log.exception("a connection failed")

    async def _serve_accepted(self, transport: AnyByteStream) -> None:
        await self._serve_opened(partial(given, transport))


async def _close(listeners: Iterable[Listener[Any]]) -> None:
    for listener in listeners:
        await listener.aclose()
