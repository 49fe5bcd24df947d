"""A gRPC client for anyio, for betterproto's and grpclib's stubs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, cast

import anyio
import grpclib.metadata
from anyio.abc import AnyByteStream, TaskGroup
from grpclib.const import Cardinality, Status
from grpclib.encoding.base import CodecBase
from grpclib.events import _DispatchChannelEvents
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from connectrio.rpc import _transport
from connectrio.rpc._client_connection import ClientConnection
from connectrio.rpc._connection import ConnectionState
from connectrio.rpc._headers import Metadata
from connectrio.rpc.client_stream import ClientStream
from connectrio.rpc.codec import MessageCodec
from connectrio.rpc.deadline import Deadline
from connectrio.rpc.options import ChannelOptions
from connectrio.rpc.stubs import serve_bidirectional_stubs
from connectrio.rpc.target import parse_target

_Send = TypeVar("_Send")
_Recv = TypeVar("_Recv")

Connect: TypeAlias = Callable[[], Awaitable[AnyByteStream]]

serve_bidirectional_stubs()


class Channel:
    """A client's view of one server; give it to a stub: `GreeterStub(channel)`.

    An async context manager, because its connection lives in a task group. It connects when the first call is made,
    and again when the connection was lost or the server has said that it goes away. Calls beyond what the server
    allows at once wait for their turn.

    :param target: "host:port", "[ipv6]:port", "unix:/path", or a function that opens a byte stream to the server
    :param options: limits and time-outs
    :param codec: how messages are encoded; betterproto2's and protobuf's messages by default, see `MessageCodec`
    """

    def __init__(
        self, target: str | Connect, *, options: ChannelOptions | None = None, codec: CodecBase | None = None
    ) -> None:
        self.options = options or ChannelOptions()
        self.codec = codec or MessageCodec()
        if isinstance(target, str):
            self._connect, self.authority = parse_target(target)
            self._name = target
        else:
            self._connect, self.authority, self._name = target, "localhost", "the server"
        self._tasks: TaskGroup | None = None
        self._attempt: _Attempt | None = None
        self._connection: ClientConnection | None = None  # the one for new calls
        self._connections: set[ClientConnection] = set()  # and those that finish theirs
        self._call_scopes: set[anyio.CancelScope] = set()
        # grpclib.events.listen(channel, …) registers here
        self.__dispatch__ = _DispatchChannelEvents()

    def request(
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[_Send],
        reply_type: type[_Recv],
        *,
        timeout: float | None = None,
        deadline: grpclib.metadata.Deadline | None = None,
        metadata: Any = None,
    ) -> ClientStream[_Send, _Recv]:
        """A call that is not opened yet; stubs use this.

        :param name: "/package.Service/Method"
        :param timeout: seconds the call may take from now
        :param deadline: when it must be done; with a `timeout` as well, the earlier of the two counts
        :param metadata: pairs, or a mapping, of lower-case keys to printable ASCII (`bytes` for keys ending in `-bin`)
        """
        limits = [Deadline.convert(deadline)] if deadline is not None else []
        if timeout is not None:
            limits.append(Deadline.from_timeout(timeout))
        return ClientStream(
            self,
            name,
            cardinality,
            request_type,
            reply_type,
            deadline=min(limits, default=None),
            metadata=cast("Metadata", MultiDict(metadata or ())),
        )

    async def connected(self) -> ClientConnection:
        """A connection on which a stream can be opened right now.

        :raises GRPCError: UNAVAILABLE, when the server cannot be reached, or the channel is closed meanwhile
        """
        self._check_open()
        while True:
            connection = self._connection
            if connection is None or connection.state is not ConnectionState.OPEN:
                await self._wait_for_connection()
            elif connection.can_open():
                return connection
            else:
                await connection.changed.wait()

    async def _wait_for_connection(self) -> None:
        if self._tasks is None:
            raise GRPCError(Status.UNAVAILABLE, "the channel was closed")
        if self._attempt is None:
            self._attempt = _Attempt(anyio.current_time() + self.options.connect_timeout)
            self._tasks.start_soon(self._run_connection, self._attempt)
        attempt = self._attempt
        await attempt.ended.wait()
        if attempt.error is not None:
            raise GRPCError(Status.UNAVAILABLE, f"cannot connect to {self._name}: {attempt.error}")

    async def _run_connection(self, attempt: _Attempt) -> None:
        try:
            transport = await self._establish(attempt)
            if transport is not None:
                await self._converse(transport, attempt)
        finally:
            self._end_attempt(attempt, "the channel was closed")

    async def _establish(self, attempt: _Attempt) -> AnyByteStream | None:
        """Open a transport; None, and the attempt is over, when that failed."""
        try:
            with attempt.scope:
                return await self._connect()
            error = self._too_late
        except Exception as failure:  # noqa: BLE001 - a function that the channel was given may raise anything
            error = str(failure) or repr(failure)
        if self._tasks is not None:
            self._end_attempt(attempt, error)
        return None

    async def _converse(self, transport: AnyByteStream, attempt: _Attempt) -> None:
        """Run a connection until it is lost, or the server goes away and its last call is done."""
        connection = ClientConnection(self.options)
        async with _transport.run(transport, connection, linger=self.options.close_timeout):
            self._connections.add(connection)
            try:
                if self._tasks is None:
                    connection.finish()
                await self._until_ready(connection, attempt)
                while connection.state is ConnectionState.OPEN or (
                    connection.state is ConnectionState.GOING_AWAY and connection.streams
                ):
                    await connection.changed.wait()
            finally:
                self._connections.discard(connection)

    async def _until_ready(self, connection: ClientConnection, attempt: _Attempt) -> None:
        """Wait for the server's settings; whatever comes of it, the attempt is over then."""
        with anyio.CancelScope(deadline=attempt.scope.deadline):
            while connection.state is ConnectionState.OPEN and not connection.is_ready:
                await connection.changed.wait()
        if connection.state is ConnectionState.OPEN and not connection.is_ready:
            connection.fail(self._too_late)
        if connection.state is ConnectionState.OPEN:
            self._connection = connection
            self._end_attempt(attempt, None)
        else:
            self._end_attempt(attempt, connection.end_reason or "the server is going away")

    @property
    def _too_late(self) -> str:
        return f"no answer within {self.options.connect_timeout:g} seconds"

    def _end_attempt(self, attempt: _Attempt, error: str | None) -> None:
        """Tell those who wait for the attempt; does nothing when it is over already."""
        if not attempt.ended.is_set():
            attempt.error = error
            attempt.ended.set()
            self._attempt = None

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        """Run a call's own task (one that sends while another receives) until it ends or the channel is closed."""
        self._check_open().start_soon(self._run_for_a_call, function, *args)

    async def _run_for_a_call(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        if self._tasks is None:
            return
        with anyio.CancelScope() as scope:
            self._call_scopes.add(scope)
            try:
                await function(*args)
            finally:
                self._call_scopes.discard(scope)

    def _check_open(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError("the channel is not open; use it as `async with Channel(…) as channel:`")
        return self._tasks

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._check_open(), None
        if self._attempt is not None:
            self._attempt.scope.cancel()
        for scope in self._call_scopes:
            scope.cancel()
        for connection in self._connections:
            connection.finish()  # flushes what is written, within `close_timeout`
        # the block's own exception passes by the task group, which would wrap it into a group
        await tasks.__aexit__(None, None, None)


class _Attempt:
    """One try at a connection, that all calls that want one wait for.

    :param deadline: on the event loop's clock, when it has failed
    """

    def __init__(self, deadline: float) -> None:
        self.ended = anyio.Event()
        self.error: str | None = None
        self.scope = anyio.CancelScope(deadline=deadline)
