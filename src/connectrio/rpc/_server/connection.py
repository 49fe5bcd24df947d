"""One connection of the server: it drives the core, and runs its calls.

Rules:
1. The reader handles events (`_handle_events`) after each turn of frames, the timer after it fails the connection, and
   `_serve` at the end. So a call whose stream is cut short is cancelled at once.
2. A call that its client takes back while it is WAITING is forgotten; later, it is cancelled.
3. Whether the connection is draining is known to the core alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio
from anyio.abc import AnyByteStream, ByteStream, SocketStream, UNIXSocketStream
from h2.errors import ErrorCodes

from connectrio.diagnostics import SafeLogger
from connectrio.rpc._http2.connection import ConnectionState, EndCause
from connectrio.rpc._http2.lifetime import Due, Failure, Lifetime
from connectrio.rpc._http2.server_side import RequestArrived, ServerConnection
from connectrio.rpc._http2.stream import Stream
from connectrio.rpc._http2.traffic import Traffic
from connectrio.rpc._http2.transport import FRAMES_PER_TURN, receive, run
from connectrio.rpc._server.call import CancelCause, ServerCall
from connectrio.rpc._server.call_tasks import CallTasks
from connectrio.rpc._server.requests import CallContext, RefusedRequestError, check_request, too_large
from connectrio.rpc._server.stream import CallState
from connectrio.rpc.tls import TLSByteStream, secure

# bytes. All of a larger read waits for the connection's turns; of a smaller one, what is left after the first frames
_MUCH = 16 * 1024

log = SafeLogger("connectrio.rpc")


class ServedConnection:
    """Serves one client over `transport`.

    :param on_end: told why the connection ended, when it is over: in one of the words of `EndCause`, or "tls_failed"
    :param traffic: counts what passes
    :ivar core: the connection without its I/O
    :ivar kind: of its transport, in a word of `ServerStats.connections`
    :ivar peer: the client's address
    :ivar began: when it was accepted, on the event loop's clock
    :ivar ended: set when the connection is over and its last call has ended
    """

    def __init__(
        self, transport: AnyByteStream, context: CallContext, on_end: Callable[[str], None], traffic: Traffic
    ) -> None:
        self.core = ServerConnection(context.options, clock=anyio.current_time, traffic=traffic)
        self.kind = _kind(transport)
        self.peer = context.peer_name
        self.began = self.core.heard_at
        self.ended = anyio.Event()
        self._lifetime = Lifetime(self.core)
        self._transport = transport
        self._context = context
        self._on_end = on_end
        self._handshake_scope = anyio.CancelScope()
        self._calls: dict[Stream, ServerCall] = {}
        self._admitted: list[Stream] = []
        self._tasks: CallTasks | None = None
        self._over = anyio.Event()

    async def run(self) -> None:
        """Serve until the connection is over and its last call has ended."""
        try:
            secured = False
            with self._handshake_scope:
                secured = await secure(self._transport)
            if secured:
                try:
                    await self._serve()
                finally:
                    self._tell_why()
            else:
                self._on_end("tls_failed")  # `secure` has logged it
        finally:
            self.ended.set()

    def _tell_why(self) -> None:
        cause = self.core.end_cause or EndCause.STOPPED
        write = log.info if cause.is_violation else log.debug
        fields = {"peer": self._context.peer_name, "cause": cause.value, "reason": self.core.end_reason}
        write("the connection of %(peer)s has ended (%(cause)s): %(reason)s", fields)
        self._on_end(cause.value)

    async def _serve(self) -> None:
        async with (
            run(self._transport, self.core, self._read, linger=self._context.options.linger),
            anyio.create_task_group() as timer,
        ):
            timer.start_soon(self._run_timer)
            async with anyio.create_task_group() as tasks:
                self._tasks = CallTasks(tasks)
                try:
                    await self._wait_until_over()
                finally:
                    self.core.finish()  # cancelled, it may still be reading, but nobody would answer a request
                    self._handle_events()
                    self._tasks.close()
            self._over.set()

    def make_room(self) -> None:
        """Let a connection without calls go, whether its client has completed the TLS handshake or not."""
        self._handshake_scope.cancel()
        self.core.drain()
        self.core.settle()  # a request that crosses this is unseen, and its client sends it elsewhere

    def abort(self) -> None:
        """Cancel what is left, telling the client that the server is unavailable."""
        self._handshake_scope.cancel()
        self.core.drain()
        self.core.settle()
        for call in list(self._calls.values()):
            call.cancel(CancelCause.SHUTDOWN)

    async def _wait_until_over(self) -> None:
        core = self.core
        while core.state is ConnectionState.OPEN:
            await core.changed.wait()
        if core.state is ConnectionState.DRAINING:
            with anyio.move_on_after(self._context.options.drain_ping_timeout):
                while core.state is ConnectionState.DRAINING:
                    await core.changed.wait()
            core.settle()
        while core.state is ConnectionState.GOING_AWAY and core.streams:
            await core.changed.wait()

    async def _read(self, transport: ByteStream) -> None:
        core = self.core
        while core.state is not ConnectionState.CLOSED:
            has_more = await receive(core, transport) > _MUCH or core.process(FRAMES_PER_TURN)
            while has_more:
                self._handle_events()
                async with self._context.turn:
                    has_more = core.process(FRAMES_PER_TURN)
            self._handle_events()
            self._start_calls()

    async def _run_timer(self) -> None:
        core, lifetime = self.core, self._lifetime
        while core.state is not ConnectionState.CLOSED:  # then nothing is due any more, however long calls take
            now = anyio.current_time()
            # a task that is cancelled leaves reference cycles on asyncio, so it is told
            with anyio.move_on_after(max(0.0, min(lifetime.due() - now, lifetime.interval))):
                await self._over.wait()
                return
            match lifetime.tick(anyio.current_time()):
                case Failure(reason):
                    core.fail(reason, EndCause.TIMEOUT)
                    self._handle_events()
                case Due.PING:
                    core.ping()
                case Due.DRAIN:
                    core.drain()
                case Due.ABORT:
                    self.abort()

    def _handle_events(self) -> None:
        """Admit the requests that arrived, and end the calls whose streams were cut short."""
        for event in self.core.take_events():
            stream = event.stream
            if isinstance(event, RequestArrived):
                self._admit(stream, event.oversized)
            elif (call := self._calls.get(stream)) is not None:
                if call.stream.state is CallState.WAITING:
                    del self._calls[stream]
                    stream.release()
                else:
                    call.cancel(CancelCause.CLIENT)

    def _admit(self, stream: Stream, oversized: int) -> None:
        if stream.termination is not None:  # taken back already
            stream.release()
            return
        try:
            if oversized:
                raise too_large(oversized, self._context.options.max_header_list_size)
            handler, call = check_request(stream.headers or (), self._context)
        except RefusedRequestError as refusal:
            stream.send_headers(refusal.headers, end_stream=True)
            stream.reset(ErrorCodes.NO_ERROR)
            stream.release()
            return
        if call.deadline is not None:
            stream.deadline = call.deadline.at
        self._calls[stream] = ServerCall(stream, handler, call, self._context)
        self._admitted.append(stream)

    def _start_calls(self) -> None:
        """Begin the calls whose requests were read together: their messages are most often there as well by now."""
        if self._admitted and self._tasks is not None:
            admitted, self._admitted = self._admitted, []
            for stream in admitted:
                call = self._calls.get(stream)
                if call is not None:  # else the client has taken it back
                    call.stream.state = CallState.RUNNING
                    self._tasks.start(partial(self._run_call, stream, call))

    async def _run_call(self, stream: Stream, call: ServerCall) -> None:
        try:
            await call.run()
        finally:
            del self._calls[stream]


def _kind(transport: AnyByteStream) -> str:
    if isinstance(transport, TLSByteStream):
        return "tls"
    if isinstance(transport, UNIXSocketStream):  # which is a SocketStream as well
        return "unix"
    return "tcp" if isinstance(transport, SocketStream) else "other"
