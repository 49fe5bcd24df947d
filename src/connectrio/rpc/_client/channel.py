"""A gRPC client for anyio, for betterproto's and grpclib's stubs."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import anyio
import grpclib.metadata
from anyio.abc import AnyByteStream, TaskGroup
from grpclib.const import Cardinality, Status
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.events import _DispatchChannelEvents
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from connectrio.rpc._client.attempts import ChannelContext, UnreachableError
from connectrio.rpc._client.balancing import POLICIES, Policy
from connectrio.rpc._client.call import ClientStream
from connectrio.rpc._client.intercepted_call import intercepted_call
from connectrio.rpc._client.retries import RetryTokens
from connectrio.rpc._client.stubs import StubChannel, adopt_stubs
from connectrio.rpc._client.subchannel import ChannelState, Keepalive, SubchannelContext
from connectrio.rpc._client.target import Connect, parse_target
from connectrio.rpc._grpc import CONTENT_TYPE, PROTO, Metadata
from connectrio.rpc._http2.stream import Headers, Stream
from connectrio.rpc._http2.wakeup import Wakeup
from connectrio.rpc.call import Call, Deadline, OnCall
from connectrio.rpc.codec import MessageCodec
from connectrio.rpc.interceptors import Interceptor, checked
from connectrio.rpc.options import ChannelOptions
from connectrio.rpc.tls import ChannelTLS

_Send = TypeVar("_Send")
_Recv = TypeVar("_Recv")


class Channel(StubChannel):
    """A client's connections to one service, at one address or several; give it to a stub: `GreeterStub(channel)`.

    An async context manager, because its connections live in a task group. The task that opens it closes it; others may
    use it meanwhile. It connects when the first call is made,
    and again when the connection was lost or the server has said that it goes away. Calls beyond what the server
    allows at once wait for their turn, in order. A call that no server has seen is made again (gRFC A6). While no
    server can be reached calls fail with UNAVAILABLE, unless they were told to wait (see `when_ready`).

    :param target: "host:port", "dns:///host:port", "[ipv6]:port", "ipv4:address:port,…", "ipv6:[address]:port,…",
        "unix:/path", "unix-abstract:name", or a function that opens a byte stream to the server
    :param options: limits and time-outs
    :param codec: how messages are encoded; betterproto2's and protobuf's messages by default, see `MessageCodec`. Its
        `__content_subtype__` goes into the requests' content type; a response of another subtype is an error
    :param status_details_codec: how `GRPCError.details` are decoded, see `StatusDetailsCodec`; None leaves them out
    :param tls: how the server proves who it is; None for a plaintext connection
    :param on_call: called for each call before it is sent, and again at its end, see `OnCall`: for traces, metrics,
        logs and metadata
    :param interceptors: code around each call, the first outermost, see `connectrio.rpc.interceptors`
    :raises ValueError: the target is none of these
    :raises TypeError: an interceptor lacks its decorator
    """

    # a private attribute of grpclib's channel, which is our base only for type checkers
    _state: ChannelState  # type: ignore[assignment]

    def __init__(
        self,
        target: str | Connect,
        *,
        options: ChannelOptions | None = None,
        codec: CodecBase | None = None,
        status_details_codec: StatusDetailsCodecBase | None = None,
        tls: ChannelTLS | None = None,
        on_call: OnCall | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> None:
        adopt_stubs()
        self.options = options or ChannelOptions()
        self.codec = codec or MessageCodec()
        subtype = self.codec.__content_subtype__.lower()
        self._target = parse_target(target)
        self.authority = self._target.authority if tls is None else tls.server_hostname or self._target.authority
        self.scheme = "http" if tls is None else "https"
        # grpclib.events.listen(channel, …) registers here
        self.__dispatch__ = _DispatchChannelEvents()
        self._tls = tls
        self._tasks: TaskGroup | None = None
        self._opener = 0
        self._policy: Policy | None = None
        self._queue = CallQueue()
        self._call_task_scopes: set[anyio.CancelScope] = set()
        self._state = ChannelState.IDLE
        self._state_changed = Wakeup()
        self._call_begun = Wakeup()
        self._activity = Wakeup()
        self._context = ChannelContext(
            options=self.options,
            codec=self.codec,
            content_type=CONTENT_TYPE if subtype == PROTO else f"{CONTENT_TYPE}+{subtype}",
            status_details_codec=status_details_codec,
            authority=self.authority,
            scheme=self.scheme,
            grpclib_events=self.__dispatch__,
            open_stream=self.open_stream,
            start_soon=self.start_soon,
            connection_error=lambda: self.error,
            closed=self.wait_for_state,
            retry_tokens=RetryTokens(self.options.retry_throttling) if self.options.retry_throttling else None,
            on_call=on_call,
            interceptors=checked(interceptors),
        )

    # calls

    # ClientStream has the interface of grpclib's client stream, and shares no code with it
    def request(  # type: ignore[override]
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
        """Return a call that is not sent yet; stubs use this.

        :param name: "/package.Service/Method"
        :param timeout: seconds the call may take from now
        :param deadline: when it must be done; with a `timeout` as well, the earlier of the two counts
        :param metadata: pairs, or a mapping, of lower-case keys to printable ASCII (`bytes` for keys ending in `-bin`)
        :param wait_for_ready: whether it waits for a server, or fails when none can be reached; None is as the options
            say
        """
        limits = [Deadline.convert(deadline)] if deadline is not None else []
        config = self.options.method_config(name)
        timeout = config.timeout if timeout is None else min(timeout, config.timeout)
        if timeout != math.inf:
            limits.append(Deadline.from_timeout(timeout))
        if wait_for_ready is None:
            wait_for_ready = config.wait_for_ready
        limit: Deadline | None = min(limits, default=None)
        sent: Metadata = cast("Metadata", MultiDict(metadata or ()))
        is_patient = self.options.wait_for_ready if wait_for_ready is None else wait_for_ready
        context, types = self._context, (request_type, reply_type)
        if not context.interceptors:
            return ClientStream(
                context, name, cardinality, *types, deadline=limit, metadata=sent, wait_for_ready=is_patient
            )
        call = Call(name, sent, cardinality=cardinality, deadline=limit, peer=self.authority)
        return cast("ClientStream[_Send, _Recv]", intercepted_call(context, call, *types, wait_for_ready=is_patient))

    @property
    def when_ready(self) -> WhenReady:
        """This channel for stubs whose calls wait for a server, for as long as their deadlines allow."""
        return WhenReady(self)

    async def open_stream(self, headers: Callable[[], Headers], *, wait_for_ready: bool, is_new: bool = True) -> Stream:
        """Wait for a connection, and for the call's turn on it, then begin a stream.

        Cancelled while it waits, nothing was sent and no call has lost its turn.

        :param headers: makes the request's headers, at the last moment
        :param is_new: whether the call was not made before, so that a channel that is closed is the caller's mistake
        :raises UnreachableError: UNAVAILABLE, the server cannot be reached
        :raises GRPCError: UNAVAILABLE, the channel is closed meanwhile
        :raises HeadersTooLargeError: the server does not take such headers
        """
        if is_new:
            self._check_open()
        self._call_begun.wake()
        try:
            with self._queue.place() as place:
                while True:
                    if self._policy is None:
                        raise GRPCError(Status.UNAVAILABLE, "the channel was closed")
                    self._policy.connect()
                    connection = self._policy.pick() if self._queue.is_first(place) else None
                    if connection is not None:
                        return connection.open(headers())
                    if self._state is ChannelState.TRANSIENT_FAILURE and not wait_for_ready:
                        raise UnreachableError(Status.UNAVAILABLE, self.error)
                    await place.wait()
        finally:
            self._activity.wake()

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        """Run a task of a call (one that sends while another receives) until it ends or the channel is closed."""
        self._check_open().start_soon(self._run_call_task, function, *args)

    async def _run_call_task(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        with anyio.CancelScope() as scope:
            if self._policy is None:  # the channel was closed before this began; somebody may wait for its end
                scope.cancel()
            self._call_task_scopes.add(scope)
            try:
                await function(*args)
            finally:
                self._call_task_scopes.discard(scope)

    # state

    @property
    def state(self) -> ChannelState:
        """The state of the channel. With several addresses, the best of their states."""
        return self._state

    @property
    def error(self) -> str:
        """Why no server can be reached, for people; "" while one can, or none was tried."""
        error = self._policy.error if self._policy is not None else ""
        name = self._target.name
        problem = "cannot connect to" if self.options.health_service is None else "no healthy server for"
        return f"{problem} {name}: {error.removeprefix(f'{name}: ')}" if error else ""

    def connect(self) -> None:
        """Connect now and not with the first call; does nothing when not IDLE."""
        self._check_open()
        self._call_begun.wake()
        if self._policy is not None:
            self._policy.connect()

    async def wait_for_state_change(self, seen: ChannelState) -> ChannelState:
        """Wait until the state is not `seen`, and return the new state.

        States in between may pass unnoticed. SHUTDOWN never changes: it is returned at once.
        """
        while self._state is seen and seen is not ChannelState.SHUTDOWN:
            await self._state_changed.wait()
        return self._state

    async def wait_for_state(self, *states: ChannelState) -> ChannelState:
        """Wait until the channel is in one of these states, or SHUTDOWN, and return it.

        Nothing is done to get there: `connect` begins to connect. A state that soon becomes another may pass unnoticed.
        """
        while self._state not in states and self._state is not ChannelState.SHUTDOWN:
            await self._state_changed.wait()
        return self._state

    async def wait_until_ready(self) -> None:
        """Connect, and wait for a connection, however long that takes.

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
        self._activity.wake()

    # opening and closing

    async def _disconnect_when_idle(self, policy: Policy) -> None:
        """Disconnect whenever no call was made for `idle_timeout`."""
        while True:
            while self._state is ChannelState.IDLE or self._queue or policy.is_busy:
                await self._activity.wait()
            with anyio.move_on_after(self.options.idle_timeout):
                await self._call_begun.wait()
                continue
            policy.disconnect()

    def _watch_health(self) -> Callable[..., Coroutine[Any, Any, None]] | None:
        service = self.options.health_service
        if service is None:
            return None
        from connectrio.rpc._client.health_watch import HealthWatch  # only for channels that check

        return HealthWatch(self._context, service).follow

    async def _secure(self, transport: AnyByteStream) -> AnyByteStream:
        return transport if self._tls is None else await self._tls.secure(transport, self._target.authority)

    def _check_open(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError("the channel is not open; use it as `async with Channel(…) as channel:`")
        return self._tasks

    def close(self) -> None:
        """Close all connections for good; calls fail with UNAVAILABLE, and further ones with an error.

        Leaving the channel's block does this too, and waits until what is written is sent, within `close_timeout`.
        """
        policy, self._policy = self._policy, None
        for scope in self._call_task_scopes:
            scope.cancel()
        if policy is not None:
            policy.close()
        self._on_change()

    async def __aenter__(self) -> Self:
        if self._state is ChannelState.SHUTDOWN:
            raise RuntimeError("the channel was closed; make another")
        options = self.options
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        keepalive = Keepalive(
            options.keepalive_time, options.keepalive_timeout, without_calls=options.keepalive_without_calls
        )
        context = SubchannelContext(
            options, keepalive, tasks, self._target.name, self._on_change, self._secure, self._watch_health()
        )
        self._tasks, self._opener = tasks, anyio.get_current_task().id
        self._policy = POLICIES[options.load_balancing](self._target.resolve, context)
        if options.idle_timeout != math.inf:
            self.start_soon(self._disconnect_when_idle, self._policy)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks, is_opener = self._check_open(), anyio.get_current_task().id == self._opener
        if is_opener:
            self._tasks = None
        self.close()
        if not is_opener:
            raise RuntimeError(
                f"the channel to {self._target.name} was opened in another task. Its connections are closed, but not"
                " its task group: open and close a channel in one task, which lasts as long as the channel, and pass"
                " the channel to the others"
            )
        # the block's own exception passes by the task group, which would wrap it into a group
        await tasks.__aexit__(None, None, None)


class WhenReady(StubChannel):
    """A channel whose calls wait for a server; stubs get it from `Channel.when_ready`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def request(self, *args: Any, **kwargs: Any) -> ClientStream[Any, Any]:  # type: ignore[override]  # as above
        """Return a call that waits for a server; the arguments are those of `Channel.request`."""
        return self._channel.request(*args, wait_for_ready=True, **kwargs)


class CallQueue:
    """Calls that wait for a stream. Only the first may take one; the next is woken when it leaves."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        # a plain dict walks over what was deleted before it finds its first
        self._places: OrderedDict[Wakeup, None] = OrderedDict()

    @contextmanager
    def place(self) -> Iterator[Wakeup]:
        """Hold a place at the end of the queue while the block runs; it is woken when the call should look again.

        However the block ends, no other call loses its turn.
        """
        place = Wakeup()
        self._places[place] = None
        try:
            yield place
        finally:
            del self._places[place]
            self.wake_first()

    def is_first(self, place: Wakeup) -> bool:
        """Return whether it is the turn of the call that holds `place`."""
        return next(iter(self._places)) is place

    def wake_first(self) -> None:
        """Let the first call look for a stream again."""
        if self._places:
            next(iter(self._places)).wake()

    def wake_all(self) -> None:
        """Let every call look again: something concerns them all, such as that no server can be reached."""
        for place in self._places:
            place.wake()

    def __bool__(self) -> bool:
        return bool(self._places)
