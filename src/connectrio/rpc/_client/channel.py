"""A gRPC client for anyio, for betterproto's and grpclib's stubs."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import anyio
import grpclib.metadata
from anyio.abc import AnyByteStream, TaskGroup
from grpclib.const import Cardinality, Status
from grpclib.encoding.base import CodecBase
from grpclib.events import _DispatchChannelEvents
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from connectrio.rpc._client.balancing import PickFirst, Policy, RoundRobin
from connectrio.rpc._client.call import ClientStream
from connectrio.rpc._client.call_queue import CallQueue, Place
from connectrio.rpc._client.connectivity import ChannelState
from connectrio.rpc._client.keepalive import Keepalive
from connectrio.rpc._client.stubs import adopt_stubs
from connectrio.rpc._client.subchannel import ChannelContext
from connectrio.rpc._client.target import Connect, parse_target
from connectrio.rpc._grpc.headers import Metadata
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.stream import Headers, Stream
from connectrio.rpc._http2.wakeup import Wakeup
from connectrio.rpc.codec import MessageCodec
from connectrio.rpc.deadline import Deadline
from connectrio.rpc.options import ChannelOptions
from connectrio.rpc.tls import ChannelTLS

_Send = TypeVar("_Send")
_Recv = TypeVar("_Recv")

_POLICIES = {"pick_first": PickFirst, "round_robin": RoundRobin}

adopt_stubs()


class Channel:
    """A client's view of one service, at one address or several; give it to a stub: `GreeterStub(channel)`.

    An async context manager, because its connections live in a task group. It connects when the first call is made,
    and again when the connection was lost or the server has said that it goes away. Calls beyond what the server
    allows at once wait for their turn, in order. A call that no server has seen is made again (gRFC A6). While there is
    no server calls fail with UNAVAILABLE, unless they were told to wait (see `when_ready`).

    :param target: "host:port", "dns:///host:port", "[ipv6]:port", "ipv4:address:port,…", "ipv6:[address]:port,…",
        "unix:/path", or a function that opens a byte stream to the server
    :param options: limits and time-outs
    :param codec: how messages are encoded; betterproto2's and protobuf's messages by default, see `MessageCodec`
    :param tls: how the server proves who it is; None for a plaintext connection
    :raises ValueError: the target is none of these
    """

    def __init__(
        self,
        target: str | Connect,
        *,
        options: ChannelOptions | None = None,
        codec: CodecBase | None = None,
        tls: ChannelTLS | None = None,
    ) -> None:
        self.options = options or ChannelOptions()
        self.codec = codec or MessageCodec()
        self._target = parse_target(target)
        self.authority = self._target.authority if tls is None else tls.server_hostname or self._target.authority
        self.scheme = "http" if tls is None else "https"
        self._tls = tls
        self._tasks: TaskGroup | None = None
        self._policy: Policy | None = None
        self._queue = CallQueue()
        self._call_scopes: set[anyio.CancelScope] = set()
        self._state = ChannelState.IDLE
        self._state_changed = Wakeup()
        self._used = Wakeup()
        self._changed = Wakeup()
        # grpclib.events.listen(channel, …) registers here
        self.__dispatch__ = _DispatchChannelEvents()

    # calls

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
        wait_for_ready: bool | None = None,
    ) -> ClientStream[_Send, _Recv]:
        """A call that is not opened yet; stubs use this.

        :param name: "/package.Service/Method"
        :param timeout: seconds the call may take from now
        :param deadline: when it must be done; with a `timeout` as well, the earlier of the two counts
        :param metadata: pairs, or a mapping, of lower-case keys to printable ASCII (`bytes` for keys ending in `-bin`)
        :param wait_for_ready: whether it waits for a server, or fails when there is none; None is as the options say
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
            wait_for_ready=self.options.wait_for_ready if wait_for_ready is None else wait_for_ready,
        )

    @property
    def when_ready(self) -> WhenReady:
        """This channel for stubs whose calls wait until there is a server, for as long as their deadlines allow."""
        return WhenReady(self)

    async def open_stream(self, headers: Callable[[], Headers], *, wait_for_ready: bool) -> Stream:
        """Wait for a connection, and for the call's turn on it, then begin a stream.

        Cancelled while it waits, nothing was sent and nobody's turn is lost.

        :param headers: makes the request's headers, at the last moment
        :raises GRPCError: UNAVAILABLE, when the server cannot be reached, or the channel is closed meanwhile
        :raises HeadersTooLargeError: the server does not take such headers
        """
        self._check_open()
        self._used.wake()
        try:
            with self._queue.place() as place:
                while True:
                    connection = self._pick(place, wait_for_ready=wait_for_ready)
                    if connection is not None:
                        return connection.open(headers())
                    await place.wait()
        finally:
            self._changed.wake()

    def _pick(self, place: Place, *, wait_for_ready: bool) -> ClientConnection | None:
        if self._policy is None:
            raise GRPCError(Status.UNAVAILABLE, "the channel was closed")
        self._policy.connect()
        connection = self._policy.pick() if place.is_first() else None
        if connection is None and self._state is ChannelState.TRANSIENT_FAILURE and not wait_for_ready:
            raise GRPCError(Status.UNAVAILABLE, self.error)
        return connection

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

    # state

    @property
    def state(self) -> ChannelState:
        """What the channel is up to. With several addresses, the best of their states."""
        return self._state

    @property
    def error(self) -> str:
        """Why there is no server, for people; "" while none is missed."""
        error = self._policy.error if self._policy is not None else ""
        return f"cannot connect to {self._target.name}: {error}" if error else ""

    def connect(self) -> None:
        """Connect now and not with the first call; does nothing when not IDLE."""
        self._check_open()
        self._used.wake()
        if self._policy is not None:
            self._policy.connect()

    async def wait_for_state_change(self, seen: ChannelState) -> ChannelState:
        """Wait until the state is another than `seen`; the state it is then.

        States in between may pass unnoticed. SHUTDOWN never changes, so nothing waits for that.
        """
        while self._state is seen and seen is not ChannelState.SHUTDOWN:
            await self._state_changed.wait()
        return self._state

    async def wait_until_ready(self) -> None:
        """Connect, and wait until there is a connection, however long that takes.

        :raises GRPCError: UNAVAILABLE, the channel was closed meanwhile
        """
        self.connect()
        while self._state is not ChannelState.READY:
            if await self.wait_for_state_change(self._state) is ChannelState.SHUTDOWN:
                raise GRPCError(Status.UNAVAILABLE, "the channel was closed")
            if self._policy is not None:
                self._policy.connect()

    def _on_change(self) -> None:
        """A connection's state has changed, or one more stream may be opened."""
        state = ChannelState.SHUTDOWN if self._policy is None else self._policy.state
        if state is not self._state:
            self._state = state
            self._state_changed.wake()
        if state in (ChannelState.TRANSIENT_FAILURE, ChannelState.SHUTDOWN):
            self._queue.wake_all()
        else:
            self._queue.wake_first()
        self._changed.wake()

    # life

    async def _rest_when_idle(self, policy: Policy) -> None:
        """Disconnect whenever there was no call for `idle_timeout`."""
        while True:
            while self._state is ChannelState.IDLE or self._queue or policy.is_busy:
                await self._changed.wait()
            with anyio.move_on_after(self.options.idle_timeout):
                await self._used.wait()
                continue
            policy.rest()

    async def _secure(self, transport: AnyByteStream) -> AnyByteStream:
        return transport if self._tls is None else await self._tls.secure(transport, self._target.authority)

    def _check_open(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError("the channel is not open; use it as `async with Channel(…) as channel:`")
        return self._tasks

    async def __aenter__(self) -> Self:
        if self._state is ChannelState.SHUTDOWN:
            raise RuntimeError("the channel was closed; make another")
        options = self.options
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        keepalive = Keepalive(
            options.keepalive_time, options.keepalive_timeout, without_calls=options.keepalive_without_calls
        )
        context = ChannelContext(options, keepalive, tasks, self._target.name, self._on_change, self._secure)
        self._tasks = tasks
        self._policy = _POLICIES[options.load_balancing](self._target.resolve, context)
        if options.idle_timeout != math.inf:
            self.start_soon(self._rest_when_idle, self._policy)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._check_open(), None
        policy, self._policy = self._policy, None
        for scope in self._call_scopes:
            scope.cancel()
        if policy is not None:
            policy.close()  # flushes what is written, within `close_timeout`
        self._on_change()
        # the block's own exception passes by the task group, which would wrap it into a group
        await tasks.__aexit__(None, None, None)


class WhenReady:
    """A channel as stubs see it, whose calls wait for a server; see `Channel.when_ready`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def request(self, *args: Any, **kwargs: Any) -> ClientStream[Any, Any]:
        """See `Channel.request`."""
        return self._channel.request(*args, wait_for_ready=True, **kwargs)

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        """See `Channel.start_soon`."""
        self._channel.start_soon(function, *args)
