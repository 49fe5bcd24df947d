"""The life of the connection to one server: connecting, losing it, pausing, connecting again.

Rules:
1. At most one connection takes new calls. A connection that the server has ended with GOAWAY stays open beside it until
   its last call is done.
2. A connection counts once the server's settings are here: what accepts but does not speak HTTP/2 is no server.
3. Attempts are spaced by the backoff. A connection that has answered a call, or lasted until the next attempt was
   allowed, resets it. After one connection that did neither, reconnect at once; after a second in a row, wait for the
   backoff.
4. With health checks (gRFC A17), a subchannel is READY while the server says that it serves. One that does not is in
   TRANSIENT_FAILURE, and keeps its connection.
5. The task that runs a connection acts on its changes, in the next turn of the event loop. Until then a READY
   subchannel may have no connection that is `available`, and calls wait for the change.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from anyio.abc import AnyByteStream, TaskGroup

from connectrio.diagnostics import SafeLogger
from connectrio.rpc._client.target import Address, dial
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc._http2.transport import read, run
from connectrio.rpc.backoff import Backoff
from connectrio.rpc.options import ChannelOptions

log = SafeLogger("connectrio.rpc")

Resolve = Callable[[], Awaitable[Sequence[Address]]]


class ChannelState(enum.Enum):
    """The state of a channel, and of its connection to each address.

    Source: gRPC's "Connectivity Semantics and API"; that TRANSIENT_FAILURE lasts until there is a connection, gRFC A62.
    """

    IDLE = enum.auto()  # not connected and not trying; the next call connects
    CONNECTING = enum.auto()  # calls wait
    READY = enum.auto()  # calls are sent
    TRANSIENT_FAILURE = enum.auto()  # calls fail, unless they wait for a server; attempts go on, with longer pauses
    SHUTDOWN = enum.auto()  # closed for good


HealthTold = Callable[[ChannelState, str], None]
"""Called with the state of a connection whose health is watched, and the reason for people."""


class Keepalive:
    """Finds out that a server is gone although it closed no connection. All connections of a channel share one.

    Source: gRFC A8, "Client-side Keepalive".

    :ivar time: seconds without a byte after which a PING is sent
    :param timeout: seconds for any byte to come after it
    :param without_calls: whether to ping while no call is running
    """

    def __init__(self, time: float, timeout: float, *, without_calls: bool) -> None:
        self.time = time
        self._timeout = timeout
        self._without_calls = without_calls

    def slow_down(self, server: str) -> None:
        """Let new connections ping half as often, because the server has complained about too many PINGs."""
        self.time *= 2
        log.warning(
            "%(server)s closed a connection because of too many pings. New connections ping every %(keepalive_time)g s;"
            " set keepalive_time to what the server allows",
            {"server": server, "keepalive_time": self.time},
        )

    async def watch(self, connection: ClientConnection) -> None:
        """Send a PING whenever nothing comes, until the connection is closed; fail it when no answer comes."""
        time = self.time
        while connection.state is not ConnectionState.CLOSED:
            due = connection.heard_at + time
            if anyio.current_time() < due:
                # until then, not for the rest: a rest that is smaller than the clock's resolution would never pass
                await anyio.sleep_until(due)
            elif not (connection.streams or self._without_calls):
                # a call that begins after a long silence pings at once
                await connection.opened.wait()
            else:
                await self._ping(connection)

    async def _ping(self, connection: ClientConnection) -> None:
        reads = connection.reads
        connection.ping()
        with anyio.move_on_after(self._timeout):
            while connection.reads == reads and connection.state is not ConnectionState.CLOSED:
                await connection.received.wait()
            return
        connection.fail(f"keepalive: nothing came for {self._timeout:g} seconds after a PING")


def connection_backoff(options: ChannelOptions) -> Backoff:
    """Return the pauses from the start of one attempt to connect to the start of the next.

    Source: gRPC's "Connection Backoff Protocol".
    """
    return Backoff(
        options.initial_backoff,
        factor=options.backoff_multiplier,
        maximum=options.max_backoff,
        jitter=options.backoff_jitter,
    )


@dataclass(frozen=True)
class SubchannelContext:
    """What all subchannels of a channel share.

    :ivar tasks: runs everything that runs in the background
    :ivar name: the channel's target, for people
    :ivar on_change: called when a state changes, and when one more stream may be opened
    :ivar secure: puts TLS on a transport, if the channel has TLS; raises OSError if that fails
    :ivar watch_health: `HealthWatch.follow`; None if connections are healthy as long as they last
    """

    options: ChannelOptions
    keepalive: Keepalive
    tasks: TaskGroup
    name: str
    on_change: Callable[[], None]
    secure: Callable[[AnyByteStream], Awaitable[AnyByteStream]]
    watch_health: Callable[[ClientConnection, HealthTold], Coroutine[Any, Any, None]] | None = None


class Subchannel:
    """Keeps a connection to the first of some addresses that answers.

    It is the load balancing policy "pick_first" when it has all addresses of a channel. When the connection is lost,
    the next call connects again.

    :param resolve: finds the addresses, again for each attempt
    :param on_change: called instead of the context's `on_change`
    :ivar error: why there is no connection, for people; "" while there is one, or none was tried for
    """

    def __init__(
        self, resolve: Resolve, context: SubchannelContext, on_change: Callable[[], None] | None = None
    ) -> None:
        self.state = ChannelState.IDLE
        self.error = ""
        self._resolve = resolve
        self._context = context
        self._on_change = on_change or context.on_change
        self._backoff = connection_backoff(context.options)
        self._pause = 0.0
        self._next_attempt = 0.0
        self._short_lived_in_a_row = 0
        self._tried = ""
        self._connect_scope: anyio.CancelScope | None = None
        self._current: ClientConnection | None = None
        self._health_scope = anyio.CancelScope()
        self._connections: set[ClientConnection] = set()

    def connect(self) -> None:
        """Leave IDLE; does nothing in another state."""
        if self.state is ChannelState.IDLE:
            may_begin = anyio.current_time() >= self._next_attempt
            self._connect(ChannelState.CONNECTING if may_begin else ChannelState.TRANSIENT_FAILURE)

    def pick(self) -> ClientConnection | None:
        """Return the connection, if a stream can be opened on it right now."""
        connection = self._current
        if connection is None or self.state is not ChannelState.READY:
            return None
        return connection if connection.can_open() else None

    @property
    def is_busy(self) -> bool:
        """Whether a call is running."""
        return any(connection.is_busy for connection in self._connections)

    def disconnect(self) -> None:
        """Stop connecting, and take no more calls; running calls go on. The state is IDLE afterwards."""
        self._stop_connecting()
        current = self._release_current()
        if current is not None:
            self._next_attempt = 0.0
            current.retire()
        self._enter(ChannelState.IDLE)

    def close(self) -> None:
        """End everything for good, running calls too."""
        self._stop_connecting()
        self._release_current()
        self.state = ChannelState.SHUTDOWN
        for connection in self._connections:
            connection.finish()

    # connecting

    def _connect(self, state: ChannelState) -> None:
        scope = self._connect_scope = anyio.CancelScope()
        self._context.tasks.start_soon(self._keep_connecting, scope)
        self._enter(state)

    def _stop_connecting(self) -> None:
        if self._connect_scope is not None:
            self._connect_scope.cancel()
            self._connect_scope = None

    async def _keep_connecting(self, scope: anyio.CancelScope) -> None:
        """Try to connect until there is a connection; the backoff paces the attempts."""
        with scope:
            while True:
                await anyio.sleep_until(self._next_attempt)
                limit = max(self._context.options.connect_timeout, self._pause)
                self._pause = self._backoff.next()
                now = anyio.current_time()
                self._next_attempt = now + self._pause
                connection, error = None, ""
                self._tried = ""
                with anyio.CancelScope(deadline=now + limit):
                    try:
                        connection = await self._establish()
                    except OSError as failure:
                        error = str(failure) or repr(failure)
                if self._connect_scope is not scope:  # stopped, but too late to be cancelled
                    if connection is not None:
                        connection.finish()
                    return
                if connection is not None:
                    self._connect_scope = None
                    self._take(connection)
                    return
                self.error = error or f"{self._tried}no answer within {limit:g} seconds"
                self._enter(ChannelState.TRANSIENT_FAILURE)

    async def _establish(self) -> ClientConnection:
        """Return a connection on which the server's settings have come.

        :raises OSError: no address could be connected to, or the connection was lost before that
        """
        context = self._context
        addresses = await self._resolve()
        self._tried = f"{', '.join(map(str, addresses))}: "
        transport = await dial(addresses, delay=context.options.connection_attempt_delay, secure=context.secure)
        connection = ClientConnection(context.options, clock=anyio.current_time)
        self._connections.add(connection)
        context.tasks.start_soon(self._run, connection, transport)
        try:
            while connection.state is ConnectionState.OPEN and not connection.settings_received:
                await connection.changed.wait()
        except BaseException:
            connection.fail("nobody waits for this connection any more")
            raise
        if connection.state is not ConnectionState.OPEN:
            raise ConnectionError(f"{self._tried}{_why_lost(connection)}")
        return connection

    async def _run(self, connection: ClientConnection, transport: AnyByteStream) -> None:
        """Run `connection` until it is closed, or takes no more calls and its last call is done."""
        try:
            async with (
                run(transport, connection, partial(read, connection), linger=self._context.options.close_timeout),
                anyio.create_task_group() as upkeep,
            ):
                upkeep.start_soon(self._context.keepalive.watch, connection)
                while connection.state is ConnectionState.OPEN or (
                    connection.state is ConnectionState.GOING_AWAY and connection.is_busy
                ):
                    await connection.changed.wait()
                    self._connection_changed(connection)
                upkeep.cancel_scope.cancel()
        finally:
            self._connections.discard(connection)
            self._connection_changed(connection)

    # what becomes of the connection

    def _take(self, connection: ClientConnection) -> None:
        """Use a new connection for calls, once it is known to be healthy."""
        self._current, self.error = connection, ""
        if self._context.watch_health is None:
            self._enter(ChannelState.READY)
            return
        self._health_scope = anyio.CancelScope()
        self._enter(ChannelState.CONNECTING)
        self._context.tasks.start_soon(self._follow_health, connection, self._health_scope)

    async def _follow_health(self, connection: ClientConnection, scope: anyio.CancelScope) -> None:
        def told(state: ChannelState, reason: str) -> None:
            if connection is self._current:
                self.error = reason or ("" if state is ChannelState.READY else self.error)
                self._enter(state)

        with scope:
            if self._context.watch_health is not None:
                await self._context.watch_health(connection, told)

    def _release_current(self) -> ClientConnection | None:
        """Give the connection no more calls, and watch its health no longer; return it."""
        current, self._current = self._current, None
        self._health_scope.cancel()
        return current

    def _connection_changed(self, connection: ClientConnection) -> None:
        if connection is self._current and connection.state is not ConnectionState.OPEN:
            self._connection_lost(connection)
        else:
            self._on_change()

    def _connection_lost(self, connection: ClientConnection) -> None:
        """Become IDLE; after a second connection in a row that was of no use, reconnect after the backoff (rule 3)."""
        self._release_current()
        if connection.told_to_ping_less:
            self._context.keepalive.slow_down(self._context.name)
        if connection.has_answered or anyio.current_time() >= self._next_attempt:
            self._backoff.reset()
            self._short_lived_in_a_row, self._pause = 0, 0.0
        else:
            self._short_lived_in_a_row += 1
        if self._short_lived_in_a_row <= 1:
            self._next_attempt = 0.0
            self._enter(ChannelState.IDLE)
        else:
            self.error = _why_lost(connection)
            self._connect(ChannelState.TRANSIENT_FAILURE)

    def _enter(self, state: ChannelState) -> None:
        self.state = state
        self._on_change()


def _why_lost(connection: ClientConnection) -> str:
    if connection.end_reason:
        return connection.end_reason
    said = f", saying {connection.goodbye}" if connection.goodbye else ""
    return f"the server ended a new connection at once{said}"
