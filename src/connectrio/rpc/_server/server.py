"""A gRPC server for anyio: grpclib's servicers, served on asyncio or trio under structured concurrency."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import anyio
from anyio.abc import AnyByteStream, Listener, SocketAttribute, TaskGroup, TaskStatus
from anyio.streams.stapled import MultiListener
from grpclib.const import Handler
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.events import _DispatchServerEvents

from connectrio.logs import get_logger
from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc._http2.server_side import ServerConnection
from connectrio.rpc._http2.stream import Stream
from connectrio.rpc._http2.transport import run
from connectrio.rpc._server.accepting import Open, accept, given
from connectrio.rpc._server.call import CallContext, CancelCause, ServerCall, admit
from connectrio.rpc._server.call_tasks import CallTasks
from connectrio.rpc._server.servicers import adopt_servicers
from connectrio.rpc.codec import MessageCodec
from connectrio.rpc.options import ServerOptions
from connectrio.rpc.peer import Peer
from connectrio.rpc.tls import secure

log = get_logger("connectrio.rpc")

# accept() fails for want of something that other connections will give back
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ACCEPT_PAUSE = 0.1


class Servicer(Protocol):
    """Anything grpclib can serve: betterproto's `…Base` classes, and grpclib's own."""

    def __mapping__(self) -> dict[str, Handler]: ...


class Server:
    """Serves grpclib servicers over HTTP/2.

    Pass listeners to `serve`; end it with `shutdown` (gracefully) or by cancelling it (at once). A server serves once.

    :param servicers: what is served
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
        self._mapping: dict[str, Handler] = {}
        for servicer in servicers:
            self._mapping.update(servicer.__mapping__())
        self._options = options or ServerOptions()
        self._codec = codec or MessageCodec()
        self._status_details_codec = status_details_codec
        self._connections: set[_Connection] = set()
        self._accepting: anyio.CancelScope | None = None
        self._draining = False
        # one thread: with more, the event loop would wait longer for its turn of the interpreter
        self._decoding = anyio.CapacityLimiter(1)
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
        listeners = _flatten([listeners] if isinstance(listeners, Listener) else listeners)
        try:
            async with anyio.create_task_group() as connections:
                with anyio.CancelScope() as self._accepting:
                    if self._draining:  # shut down before it began
                        self._accepting.cancel()
                    async with anyio.create_task_group() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept, listener, connections)
                        task_status.started([_local_address(listener) for listener in listeners])
                await _close(listeners)
        finally:
            with anyio.CancelScope(shield=True):
                await _close(listeners)

    async def serve_connection(self, transport: AnyByteStream) -> None:
        """Serve one connection over `transport`, which is closed afterwards, until either side ends it."""
        try:
            if len(self._connections) < self._options.max_connections:
                await self._serve_connection(transport)
            else:
                log.warning("too many connections; one more was closed", max_connections=self._options.max_connections)
        finally:
            await anyio.aclose_forcefully(transport)

    async def _serve_connection(self, transport: AnyByteStream) -> None:
        connection = _Connection(transport, self._context(transport))
        self._connections.add(connection)
        try:
            if self._draining:
                connection.drain()
            await connection.run()
        finally:
            self._connections.discard(connection)

    def stop_accepting(self) -> None:
        """Close the listeners; open connections go on."""
        self._draining = True
        if self._accepting is not None:
            self._accepting.cancel()

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
            await self._until_idle()
            return
        for connection in list(self._connections):
            connection.abort()
        await self._until_idle()

    @property
    def active_calls(self) -> int:
        """How many calls are being answered now."""
        return sum(len(connection.core.streams) for connection in self._connections)

    async def _until_idle(self) -> None:
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
                    log.warning("cannot accept a connection now", error=str(error), retry_seconds=_ACCEPT_PAUSE)
                    await anyio.sleep(_ACCEPT_PAUSE)
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

    def _context(self, transport: AnyByteStream) -> CallContext:
        peer = Peer(transport)
        return CallContext(
            mapping=self._mapping,
            codec=self._codec,
            status_details_codec=self._status_details_codec,
            dispatch=self.__dispatch__,
            options=self._options,
            peer=peer,
            peer_name=str(peer),
            decoding=self._decoding,
        )


class _Connection:
    """One connection: its reader, its writer, and the tasks of its calls."""

    def __init__(self, transport: AnyByteStream, context: CallContext) -> None:
        self._context = context
        self._options = context.options
        self._transport = transport
        self.core = ServerConnection(
            self._options,
            self._on_request,
            on_processed=self._start_calls,
            on_abort=self.abort,
            clock=anyio.current_time,
        )
        self.ended = anyio.Event()
        self._calls: dict[Stream, ServerCall] = {}
        self._admitted: list[Stream] = []
        self._tasks: CallTasks | None = None
        self._securing = anyio.CancelScope()
        self._draining = False

    async def run(self) -> None:
        """Serve until the connection is over and its last call has ended."""
        try:
            secured = False
            with self._securing:
                secured = await secure(self._transport)
            if secured:
                await self._run_secured()
        finally:
            self.ended.set()

    async def _run_secured(self) -> None:
        async with (
            run(self._transport, self.core, linger=self._options.linger),
            anyio.create_task_group() as timing,
        ):
            timing.start_soon(self._keep_time)
            async with anyio.create_task_group() as tasks:
                self._tasks = CallTasks(tasks)
                if self._draining:
                    self.core.drain()
                try:
                    await self._until_over()
                finally:
                    self.core.finish()  # cancelled, it may still be reading, but nobody would answer a request
                    self._tasks.close()
            timing.cancel_scope.cancel()

    def drain(self) -> None:
        """Announce the end; the connection closes when its calls have."""
        self._draining = True
        if self._tasks is not None:  # else it follows our settings, with which HTTP/2 begins
            self.core.drain()

    def abort(self) -> None:
        """Cancel what is left, telling the client that the server is unavailable."""
        self.drain()
        if self._tasks is None:
            self._securing.cancel()
            return
        self.core.settle()
        for call in list(self._calls.values()):
            call.cancel(CancelCause.SHUTDOWN)

    async def _keep_time(self) -> None:
        lifetime = self.core.lifetime
        while self.core.state is not ConnectionState.CLOSED:  # then nothing is due any more, however long calls take
            now = anyio.current_time()
            await anyio.sleep(max(0.0, min(lifetime.due() - now, lifetime.interval)))
            lifetime.tick(anyio.current_time())

    async def _until_over(self) -> None:
        core = self.core
        while core.state is ConnectionState.OPEN:
            await core.changed.wait()
        if core.state is ConnectionState.DRAINING:
            with anyio.move_on_after(self._options.drain_ping_timeout):
                while core.state is ConnectionState.DRAINING:
                    await core.changed.wait()
            core.settle()
        while core.state is ConnectionState.GOING_AWAY and core.streams:
            await core.changed.wait()

    def _on_request(self, stream: Stream) -> None:
        call = admit(stream, self._context)
        if call is not None and self._tasks is not None:
            self._calls[stream] = call
            self._admitted.append(stream)
            stream.on_terminated = partial(self._withdraw, stream)

    def _withdraw(self, stream: Stream) -> None:
        """The client has taken back a request that nobody has begun to answer."""
        del self._calls[stream]
        stream.release()

    def _start_calls(self) -> None:
        """Begin the calls whose requests were read together: their messages are most often there as well by now."""
        if self._admitted and self._tasks is not None:
            admitted, self._admitted = self._admitted, []
            for stream in admitted:
                call = self._calls.get(stream)
                if call is not None:
                    stream.on_terminated = call.client_is_gone
                    self._tasks.start(partial(self._run, stream, call))

    async def _run(self, stream: Stream, call: ServerCall) -> None:
        try:
            await call.run()
        finally:
            del self._calls[stream]


def _flatten(listeners: Iterable[Listener[Any]]) -> Sequence[Listener[Any]]:
    flat: list[Listener[Any]] = []
    for listener in listeners:
        flat.extend(listener.listeners if isinstance(listener, MultiListener) else [listener])
    return flat


def _local_address(listener: Listener[Any]) -> Any:
    return listener.extra(SocketAttribute.local_address, None)


async def _close(listeners: Iterable[Listener[Any]]) -> None:
    for listener in listeners:
        await listener.aclose()
