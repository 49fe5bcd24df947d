"""The life of the connection to one server: connecting, losing it, pausing, connecting again.

Rules:
1. At most one connection takes new calls. One that the server has said goodbye on (GOAWAY) goes on beside it until its
   last call is done.
2. A connection counts once the server's settings are here: what accepts but does not speak HTTP/2 is no server.
3. Attempts are spaced by the backoff, which only a connection that was of use resets. Only after the first connection
   in a row that was not may another follow at once.
4. The task that runs a connection acts on its changes, in the next turn of the event loop. Until then a READY
   subchannel may have no connection that is `available`, and calls wait for the change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import anyio
from anyio.abc import AnyByteStream, TaskGroup

from connectrio.rpc._client.backoff import Backoff
from connectrio.rpc._client.connectivity import ChannelState
from connectrio.rpc._client.dial import dial
from connectrio.rpc._client.keepalive import Keepalive
from connectrio.rpc._client.target import Address
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc._http2.transport import read, run
from connectrio.rpc.options import ChannelOptions

Resolve = Callable[[], Awaitable[Sequence[Address]]]


@dataclass(frozen=True)
class ChannelContext:
    """What all connections of a channel share.

    :ivar tasks: where everything that runs in the background runs
    :ivar name: the channel's target, for people
    :ivar on_change: to be called when a state changes, and when one more stream may be opened
    :ivar secure: puts TLS on a transport, if the channel has TLS; raises OSError if that fails
    """

    options: ChannelOptions
    keepalive: Keepalive
    tasks: TaskGroup
    name: str
    on_change: Callable[[], None]
    secure: Callable[[AnyByteStream], Awaitable[AnyByteStream]]


class Subchannel:
    """Keeps a connection to the first of some addresses that answers.

    :param resolve: finds the addresses, again for each attempt
    :ivar error: why there is no connection, for people; "" while there is one, or none was tried for
    """

    def __init__(self, resolve: Resolve, context: ChannelContext, on_change: Callable[[], None]) -> None:
        self.state = ChannelState.IDLE
        self.error = ""
        self._resolve = resolve
        self._context = context
        self._on_change = on_change
        self._backoff = Backoff(context.options)
        self._pause = 0.0
        self._next_attempt = 0.0
        self._fruitless = 0
        self._connecting: anyio.CancelScope | None = None
        self._current: ClientConnection | None = None
        self._connections: set[ClientConnection] = set()

    # what the policy asks

    def connect(self) -> None:
        """Leave IDLE; does nothing in another state."""
        if self.state is ChannelState.IDLE:
            may_begin = anyio.current_time() >= self._next_attempt
            self._connect(ChannelState.CONNECTING if may_begin else ChannelState.TRANSIENT_FAILURE)

    def available(self) -> ClientConnection | None:
        """The connection, if a stream can be opened on it right now."""
        connection = self._current
        return connection if connection is not None and connection.can_open() else None

    @property
    def is_busy(self) -> bool:
        """Whether a call is running."""
        return any(connection.streams for connection in self._connections)

    def retire(self) -> None:
        """Stop trying, and take no more calls; those that run go on. IDLE afterwards."""
        self._stop_connecting()
        current, self._current = self._current, None
        if current is not None:
            self._next_attempt = 0.0
            current.retire()
        self._enter(ChannelState.IDLE)

    def close(self) -> None:
        """End everything, calls included, for good."""
        self._stop_connecting()
        self._current = None
        self.state = ChannelState.SHUTDOWN
        for connection in self._connections:
            connection.finish()

    # connecting

    def _connect(self, state: ChannelState) -> None:
        scope = self._connecting = anyio.CancelScope()
        self._context.tasks.start_soon(self._keep_trying, scope)
        self._enter(state)

    def _stop_connecting(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    async def _keep_trying(self, scope: anyio.CancelScope) -> None:
        with scope:
            connected = False
            while not connected:
                await anyio.sleep_until(self._next_attempt)
                connected = await self._attempt(scope)

    async def _attempt(self, scope: anyio.CancelScope) -> bool:
        """Try to connect, once; whether there is nothing left to do."""
        limit = max(self._context.options.connect_timeout, self._pause)
        self._pause = self._backoff.next_delay()
        now = anyio.current_time()
        self._next_attempt = now + self._pause
        connection, error = None, f"no answer within {limit:g} seconds"
        with anyio.CancelScope(deadline=now + limit):
            try:
                connection = await self._established()
            except OSError as failure:
                error = str(failure) or repr(failure)
        if self._connecting is not scope:  # stopped, but too late to be cancelled
            if connection is not None:
                connection.finish()
            return True
        if connection is None:
            self.error = error
            self._enter(ChannelState.TRANSIENT_FAILURE)
            return False
        self._current, self._connecting, self.error = connection, None, ""
        self._enter(ChannelState.READY)
        return True

    async def _established(self) -> ClientConnection:
        """A connection on which the server has spoken.

        :raises OSError: there is none to be had
        """
        context = self._context
        addresses = await self._resolve()
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
            raise ConnectionError(_why_lost(connection))
        return connection

    async def _run(self, connection: ClientConnection, transport: AnyByteStream) -> None:
        """Run `connection` until it is lost, or has been said goodbye to and its last call is done."""
        try:
            async with (
                run(transport, connection, partial(read, connection), linger=self._context.options.close_timeout),
                anyio.create_task_group() as upkeep,
            ):
                upkeep.start_soon(self._context.keepalive.watch, connection)
                while connection.state is ConnectionState.OPEN or (
                    connection.state is ConnectionState.GOING_AWAY and connection.streams
                ):
                    await connection.changed.wait()
                    self._connection_changed(connection)
                upkeep.cancel_scope.cancel()
        finally:
            self._connections.discard(connection)
            self._connection_changed(connection)

    # what becomes of it

    def _connection_changed(self, connection: ClientConnection) -> None:
        if connection is self._current and connection.state is not ConnectionState.OPEN:
            self._lose(connection)
        else:
            self._on_change()

    def _lose(self, connection: ClientConnection) -> None:
        """The connection takes no more calls."""
        self._current = None
        if connection.told_to_ping_less:
            self._context.keepalive.slow_down(self._context.name)
        if connection.has_answered or anyio.current_time() >= self._next_attempt:
            self._backoff.reset()
            self._fruitless, self._pause = 0, 0.0
        else:
            self._fruitless += 1
        if self._fruitless <= 1:
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
    return f"the server goes away as soon as it is connected to{said}"
