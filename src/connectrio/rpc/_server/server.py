"""A gRPC server for anyio: grpclib's servicers, served on asyncio or trio under structured concurrency."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from socket import socket
from typing import Any, Protocol

import anyio
from anyio.abc import AnyByteStream, Listener, SocketAttribute, TaskStatus
from anyio.streams.stapled import MultiListener
from betterproto2.grpclib import ServiceBase
from grpclib.const import Handler
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.events import _DispatchServerEvents

from connectrio.diagnostics import SafeLogger
from connectrio.rpc._betterproto import replace
from connectrio.rpc._grpc import CONTENT_TYPE, PROTO
from connectrio.rpc._http2.traffic import Traffic
from connectrio.rpc._server.accepting import accept_connections
from connectrio.rpc._server.connection import ServedConnection
from connectrio.rpc._server.connections import Connections, FullError, host_of
from connectrio.rpc._server.memory import RequestMemory
from connectrio.rpc._server.requests import CallContext
from connectrio.rpc._server.stream import ServerStream
from connectrio.rpc._server.turns import Turns
from connectrio.rpc.call import OnCall
from connectrio.rpc.codec import MessageCodec
from connectrio.rpc.interceptors import Interceptor, StreamWrapper, checked
from connectrio.rpc.options import ServerOptions
from connectrio.rpc.peer import Peer
from connectrio.rpc.sockets import own_sockets, shut_down

log = SafeLogger("connectrio.rpc")


@dataclass(frozen=True)
class ServerStats:
    """What a server has done, and what it does now. Numbers that are not said to be of now only grow.

    :ivar connections: that are open now, by kind: "tcp", "tls" (over whatever), "unix", "other" (as in memory)
    :ivar streams: calls that are being answered or cleaning up now
    :ivar streams_opened: by clients, without those that were refused with REFUSED_STREAM
    :ivar streams_reset: before both sides were done; by who has reset them ("us", "peer"), and the name of the HTTP/2
        error code (RFC 9113 §7), or "other". A call that is answered before all of it is read is reset by us with
        NO_ERROR
    :ivar bytes_received: of HTTP/2; under TLS, without its records and handshakes
    :ivar bytes_sent: the same
    :ivar refused_for_memory: requests that were refused because of `ServerOptions.max_request_memory`
    """

    connections: Mapping[str, int]
    streams: int
    streams_opened: int
    streams_reset: Mapping[tuple[str, str], int]
    bytes_received: int
    bytes_sent: int
    refused_for_memory: int


@dataclass(frozen=True)
class OpenConnection:
    """A connection of a server, as it is now.

    :ivar peer: the client's address, as `Call.peer`
    :ivar kind: as in `ServerStats.connections`
    :ivar seconds: since it was accepted
    :ivar state: "open", "draining" (calls are still accepted) or "going away"
    :ivar calls: that are being answered or cleaning up
    """

    peer: str
    kind: str
    seconds: float
    state: str
    calls: int


class Servicer(Protocol):
    """What a server serves: betterproto2's generated `…Base` classes, grpclib's, or a class of your own."""

    def __mapping__(self) -> dict[str, Handler]:
        """Return what answers each method: its full name, "/package.Service/Method", → a `Handler`."""
        ...


class Server:
    """Serves gRPC services: the servicers that betterproto2 or grpclib generates.

        server = Server([Greeter(), Health()])
        async with anyio.create_task_group() as tasks:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=50051)
            await tasks.start(server.serve, listener)
            ...
            await server.shutdown(grace=10)

    Each call runs in a cancel scope of its own: the call's deadline, a client that leaves and the end of the server
    cancel it. What a servicer raises ends its call and nothing else: `GRPCError` with its status, other exceptions with
    UNKNOWN.

    A server owns its listeners and connections, but not its servicers: close what they hold after `serve` has returned.
    It serves once, in one event loop. It handles no signals.

    :param servicers: the services; of two that have the same method, the last one is served
    :param options: limits and time-outs
    :param codec: how messages are encoded; betterproto2's and protobuf's messages by default, see `MessageCodec`. With
        several, each is for the requests whose content type names its `__content_subtype__`. A content type without a
        subtype means "proto"; requests that no codec is for are refused (HTTP status 415)
    :param status_details_codec: how `GRPCError.details` are encoded, see `StatusDetailsCodec`; None leaves them out
    :param on_connection_end: called for each connection that has ended, with the reason in one word: "closed_by_peer",
        "lost", "drained", "stopped", "timeout", "protocol_error", "abuse" or "tls_failed"; also for one that was
        closed because there was no room for it: "refused"
    :param on_call: called for each call that reaches a servicer, and again at its end, see `OnCall`: for traces,
        metrics and logs
    :param interceptors: code around each call that reaches a servicer, the first outermost, see
        `connectrio.rpc.interceptors`
    :raises ValueError: two codecs are for the same content subtype
    :raises TypeError: an interceptor lacks its decorator
    """

    def __init__(
        self,
        servicers: Iterable[Servicer],
        *,
        options: ServerOptions | None = None,
        codec: CodecBase | Iterable[CodecBase] | None = None,
        status_details_codec: StatusDetailsCodecBase | None = None,
        on_connection_end: Callable[[str], None] = lambda _: None,
        on_call: OnCall | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> None:
        _adopt_servicers()
        self._handlers: dict[str, Handler] = {}
        for servicer in servicers:
            self._handlers.update(servicer.__mapping__())
        self._options = options or ServerOptions()
        self._codecs = _by_content_type(codec or MessageCodec())
        self._status_details_codec = status_details_codec
        self._on_connection_end = on_connection_end
        self._on_call = on_call
        self._interceptors = checked(interceptors)
        self._connections = Connections(self._options.max_connections)
        self._accept_scope: anyio.CancelScope | None = None
        self._draining = False
        self._sockets: list[socket] = []
        # one at a time: with more threads, the event loop would wait longer for the interpreter's lock
        self._decode_turn = anyio.Lock()
        self._memory = RequestMemory(self._options.max_request_memory)
        self._turns = Turns()
        self._traffic = Traffic()
        # grpclib.events.listen(server, …) registers here
        self.__dispatch__ = _DispatchServerEvents()

    async def serve(
        self,
        listeners: Listener[Any] | Iterable[Listener[Any]],
        *,
        task_status: TaskStatus[list[Any]] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `shutdown` has finished, or until cancelled.

        Started with `TaskGroup.start` (on trio, `Nursery.start`), this reports the listeners' local addresses, in their
        order, once it accepts connections. Cancelled, it ends all calls at once.

        :param listeners: one or several of anyio's, such as `await anyio.create_tcp_listener(local_port=50051)`, of
            `listen_unix`, or of `ServerTLS.listen`. They are owned by the server from here on, and closed by it. Their
            sockets are shut down, so that no child that was forked keeps a port; processes that share a port need a
            socket each (SO_REUSEPORT)
        """
        listeners = [
            one
            for each in ([listeners] if isinstance(listeners, Listener) else listeners)
            for one in (each.listeners if isinstance(each, MultiListener) else [each])
        ]
        sockets = self._sockets = [each for listener in listeners for each in own_sockets(listener)]
        try:
            async with anyio.create_task_group() as connections:
                with anyio.CancelScope() as self._accept_scope:
                    if self._draining:  # shut down before it began
                        self._accept_scope.cancel()
                    async with anyio.create_task_group() as accepting:
                        for listener in listeners:
                            accepting.start_soon(
                                accept_connections, listener, self.serve_connection, connections, lambda: self._draining
                            )
                        addresses = [listener.extra(SocketAttribute.local_address, None) for listener in listeners]
                        task_status.started(addresses)
                await _close(listeners, sockets)
        finally:
            with anyio.CancelScope(shield=True):
                await _close(listeners, sockets)

    async def serve_connection(self, transport: AnyByteStream) -> None:
        """Serve one connection over `transport`, which is closed afterwards, until either side ends it.

        For connections that were accepted by other means; `serve` calls this for its own. It works without `serve`,
        too. `shutdown` ends these connections as well.
        """
        connection: ServedConnection | None = None
        try:
            peer = Peer(transport)
            address = peer.addr()
            try:
                self._connections.check_room(address)
            except FullError as error:
                limit = self._options.max_connections
                fields = {"reason": str(error), "peer": str(peer), "max_connections": limit}
                log.repeated_warning("a connection was closed: %(reason)s", fields)
                self._on_connection_end("refused")
                return
            context = CallContext(
                handlers=self._handlers,
                codecs=self._codecs,
                status_details_codec=self._status_details_codec,
                grpclib_events=self.__dispatch__,
                options=self._options,
                peer=peer,
                peer_name=str(peer),
                decode_turn=self._decode_turn,
                memory=self._memory,
                turn=self._turns.of(host_of(address)),
                on_call=self._on_call,
                interceptors=self._interceptors,
            )
            connection = ServedConnection(transport, context, self._on_connection_end, self._traffic)
            self._connections.add(connection, address)
            if self._draining:
                connection.core.drain()
            await connection.run()
        finally:
            if connection is not None:
                self._connections.remove(connection)
            await anyio.aclose_forcefully(transport)

    def stop_accepting(self) -> None:
        """Close the listeners; open connections go on, and may begin further calls.

        New ones are refused from now on, or go to other processes that share the port. So a client that is told to go
        elsewhere does not come back here.
        """
        self._draining = True
        for each in self._sockets:
            shut_down(each)
        if self._accept_scope is not None:
            self._accept_scope.cancel()

    async def shutdown(self, grace: float | None = None) -> None:
        """Stop accepting, let the calls in flight finish, and return when every connection is closed.

        Clients are told to go elsewhere (GOAWAY); a call that raced with that is still answered. Cancelled, the drain
        goes on, but nobody waits for it. Streams that clients keep open (`Health` watches, `Reflection`) are calls too:
        end them with `Health.end_watches` and `Reflection.end_streams`.

        :param grace: seconds; the calls that are left then are cancelled and answered UNAVAILABLE. None waits for
            them for as long as they take
        """
        self.stop_accepting()
        for connection in self._connections:
            connection.core.drain()
        with anyio.move_on_after(grace):
            await self._wait_until_idle()
            return
        for connection in self._connections:
            connection.abort()
        await self._wait_until_idle()

    @property
    def active_calls(self) -> int:
        """How many calls are being answered now."""
        return sum(len(connection.core.streams) for connection in self._connections)

    @property
    def stats(self) -> ServerStats:
        """The numbers of now. Any thread may ask for them; that takes a moment for each open connection."""
        connections, traffic = list(self._connections), self._traffic
        return ServerStats(
            connections=Counter(connection.kind for connection in connections),
            streams=sum(len(connection.core.streams) for connection in connections),
            streams_opened=traffic.streams_opened,
            streams_reset=dict(traffic.streams_reset),
            bytes_received=traffic.bytes_received,
            bytes_sent=traffic.bytes_sent,
            refused_for_memory=self._memory.refused,
        )

    @property
    def connections(self) -> list[OpenConnection]:
        """The connections of now, the oldest first. Ask on the event loop."""
        now = anyio.current_time()
        return [
            OpenConnection(
                peer=each.peer,
                kind=each.kind,
                seconds=now - each.began,
                state=each.core.state.name.lower().replace("_", " "),
                calls=len(each.core.streams),
            )
            for each in self._connections
        ]

    async def _wait_until_idle(self) -> None:
        while len(self._connections):
            await next(iter(self._connections)).ended.wait()


def _by_content_type(codecs: CodecBase | Iterable[CodecBase]) -> dict[str, CodecBase]:
    """Return the codecs by the content types of the requests that they are for."""
    found: dict[str, CodecBase] = {}
    for codec in [codecs] if isinstance(codecs, CodecBase) else codecs:
        subtype = codec.__content_subtype__.lower()
        content_type = f"{CONTENT_TYPE}+{subtype}"
        if content_type in found:
            raise ValueError(f"two codecs are for the content subtype {subtype!r}; a server can have one for each")
        if subtype == PROTO:
            found[CONTENT_TYPE] = codec
        found[content_type] = codec
    return found


async def _close(listeners: Iterable[Listener[Any]], sockets: Iterable[socket]) -> None:
    for each in sockets:
        shut_down(each)
    for listener in listeners:
        await listener.aclose()


@cache
def _adopt_servicers() -> None:
    """Let the generators of betterproto2's servicers end with their calls on our server (see `_betterproto.py`).

    Every call after the first does nothing.
    """
    name = "_call_rpc_handler_server_stream"  # what generated servicers call
    original = getattr(ServiceBase, name)

    async def call(servicer: ServiceBase, handler: Callable[..., Any], stream: Any, request: Any) -> None:
        responses = handler(request)
        if isinstance(responses, AsyncGenerator):
            async with aclosing(responses):
                async for message in responses:
                    await stream.send_message(message)
        else:
            await original(servicer, lambda _: responses, stream, request)

    replace(ServiceBase, name, call, lambda *args: isinstance(args[2], ServerStream | StreamWrapper))
