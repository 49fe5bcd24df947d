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
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchChannelEvents
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from connectrio.rpc import _transport
from connectrio.rpc._client_connection import ClientConnection
from connectrio.rpc._connection import ConnectionState
from connectrio.rpc._headers import Metadata
from connectrio.rpc.client_stream import ClientStream
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
    :param codec: how messages are encoded; by default anything with `SerializeToString` and `FromString`
    """

    def __init__(
        self, target: str | Connect, *, options: ChannelOptions | None = None, codec: CodecBase | None = None
    ) -> None:
        self.options = options or ChannelOptions()
        self.codec = codec or ProtoCodec()
        if isinstance(target, str):
            self._connect, self.authority = parse_target(target)
            self._name = target
        else:
            self._connect, self.authority, self._name = target, "localhost", "the server"
        self._tasks: TaskGroup | None = None
        self._attempt: _Attempt | None = None
        self._connection: ClientConnection | None = None
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

        :raises GRPCError: UNAVAILABLE, when the server cannot be reached
        """
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
            raise RuntimeError("the channel is not open; use it as `async with Channel(…) as channel:`")
        if self._attempt is None:
            self._attempt = _Attempt()
            self._tasks.start_soon(self._run_connection, self._attempt)
        attempt = self._attempt
        await attempt.ended.wait()
        if attempt.error is not None:
            raise GRPCError(Status.UNAVAILABLE, f"cannot connect to {self._name}: {attempt.error}")

    async def _run_connection(self, attempt: _Attempt) -> None:
        try:
            with anyio.fail_after(self.options.connect_timeout):
                transport = await self._connect()
        except TimeoutError:
            self._end_attempt(attempt, f"no answer within {self.options.connect_timeout:g} seconds")
            return
        except OSError as error:
            self._end_attempt(attempt, str(error))
            return
        connection = ClientConnection(self.options)
        async with _transport.run(transport, connection, linger=self.options.close_timeout):
            self._connection = connection
            self._end_attempt(attempt, None)
            while connection.state is ConnectionState.OPEN or (
                connection.state is ConnectionState.GOING_AWAY and connection.streams
            ):
                await connection.changed.wait()

    def _end_attempt(self, attempt: _Attempt, error: str | None) -> None:
        attempt.error = error
        attempt.ended.set()
        self._attempt = None

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        """Run a call's own task (one that sends while another receives) in the channel's task group."""
        if self._tasks is None:
            raise RuntimeError("the channel is not open; use it as `async with Channel(…) as channel:`")
        self._tasks.start_soon(function, *args)

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            return
        if self._attempt is not None:
            tasks.cancel_scope.cancel()
        elif self._connection is not None:
            self._connection.finish()  # flushes what is written, within `close_timeout`
        # the block's own exception passes by the task group, which would wrap it into a group
        await tasks.__aexit__(None, None, None)


class _Attempt:
    """One try at a connection, that all calls that want one wait for."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.error: str | None = None
