"""Every await of rpc/ is cancelled, right there; and what is true afterwards.

Scenes are played again and again. As soon as a task of a scene suspends at an await that was not cancelled before, the
whole scene is cancelled. Afterwards nothing of it is left, and a call that runs beside all scenes still works.
`ELSEWHERE` lists the awaits that no scene reaches, each with the reason. An await that is in neither fails this test
with its name.
"""

from __future__ import annotations

import errno
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import AnyByteStream, Listener, SocketAttribute, TaskGroup
from anyio.lowlevel import checkpoint
from grpclib.const import Cardinality, Status
from grpclib.events import (
    RecvInitialMetadata,
    RecvMessage,
    RecvRequest,
    RecvTrailingMetadata,
    SendInitialMetadata,
    SendMessage,
    SendRequest,
    SendTrailingMetadata,
    listen,
)
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthStub
from connectrio.idl.grpc.reflection.v1 import ServerReflectionRequest, ServerReflectionStub
from connectrio.rpc import (
    Call,
    Channel,
    ChannelOptions,
    ChannelState,
    MessageStream,
    Proceed,
    RetryPolicy,
    Server,
    ServerOptions,
    StreamWrapper,
    current_call,
)
from connectrio.rpc._client.subchannel import Keepalive
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc.health import Health, ServingStatus
from connectrio.rpc.reflection import Reflection, bundled_descriptors
from connectrio.rpc.sockets import listen_unix
from connectrio.rpc.testing import MemoryListener, memory_channel, memory_transport_pair
from connectrio.rpc.tls import ChannelTLS, ServerTLS
from connectrio.telemetry.stacks import frames_of as frames
from rpc.kit.certificates import Pki
from rpc.kit.core import SMALL, check_windows
from rpc.kit.elsewhere import ELSEWHERE
from rpc.kit.frames import Data, FrameFactory
from rpc.kit.playing import RESPONSE
from rpc.kit.positions import each_suspension, positions, waiting
from rpc.kit.raw import RawServer
from rpc.kit.script import BIDI, Note, ScriptBase, ScriptStub
from rpc.kit.serving import eventually, leaving_nothing, turns

LARGE = Note("x" * 70_000)

# how often all scenes are played before an await counts as not reached: trio runs tasks in random order
ROUNDS = 20

Scene = Callable[[Server, TaskGroup], Awaitable[None]]


# scenes


unserved: list[AnyByteStream] = []  # what was cancelled before anybody could serve it


def open_pair(server: Server, tasks: TaskGroup, wrap=lambda transport: transport) -> AnyByteStream:
    """A connection to `server` that belongs to the scene, and on which every send has to wait."""

    async def serve() -> None:
        unserved.remove(theirs)
        await server.serve_connection(wrap(theirs))

    ours, theirs = memory_transport_pair(buffered_sends=0)
    unserved.append(theirs)
    tasks.start_soon(serve)
    return ours


def connecting(server: Server, tasks: TaskGroup, wrap=lambda transport: transport):
    """For a channel."""

    async def connect() -> AnyByteStream:
        return open_pair(server, tasks, wrap)

    return connect


async def for_a_while(function: Callable[[], Awaitable[Any]]) -> None:
    """Cancel it when it has had turns enough to come to rest."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function)
        await turns(30)
        tasks.cancel_scope.cancel()


async def call_all(channel: Channel) -> None:
    stub = ScriptStub(channel)
    assert await stub.unary(LARGE) == LARGE
    assert await stub.client_streaming([LARGE, Note("y")]) == Note(LARGE.text + "y")
    async with aclosing(stub.server_streaming(Note("abc"))) as answers:
        assert [note.text async for note in answers] == ["a", "b", "c"]

    async def questions() -> AsyncIterator[Note]:
        for note in (LARGE, Note("y")):
            await checkpoint()
            yield note

    async with aclosing(stub.bidi(questions())) as answers:
        assert [note async for note in answers] == [LARGE, Note("y")]
    with suppress(GRPCError):
        await stub.unary(Note("late"), timeout=0.0)


async def calls(server: Server, tasks: TaskGroup) -> None:
    async with Channel(connecting(server, tasks), options=ChannelOptions(**SMALL)) as channel:
        await call_all(channel)


async def a_call_step_by_step(server: Server, tasks: TaskGroup) -> None:
    async with (
        Channel(connecting(server, tasks), options=ChannelOptions(**SMALL)) as channel,
        channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream,
    ):
        await stream.send_request()
        await stream.send_message(Note("x"))
        await stream.recv_initial_metadata()
        await stream.recv_message()
        await stream.end()
        await stream.recv_trailing_metadata()


async def round_robin(server: Server, tasks: TaskGroup) -> None:
    options = ChannelOptions(**SMALL, load_balancing="round_robin", idle_timeout=1000, keepalive_time=1000)
    async with Channel(connecting(server, tasks), options=options) as channel:
        await channel.wait_until_ready()
        await ScriptStub(channel).unary(Note())
        await turns(30)


async def nobody_there(server: Server, tasks: TaskGroup) -> None:
    async def connect() -> AnyByteStream:
        await checkpoint()
        raise OSError("nobody")

    for policy in "pick_first", "round_robin":
        async with Channel(connect, options=ChannelOptions(load_balancing=policy)) as channel:
            await for_a_while(partial(ScriptStub(channel.when_ready).unary, Note()))


async def a_silent_server(server: Server, tasks: TaskGroup) -> None:
    async with RawServer() as raw, Channel(raw.connect, options=ChannelOptions(close_timeout=0.01)) as channel:
        await for_a_while(partial(ScriptStub(channel).unary, Note()))


async def the_end_of_a_server(server: Server, tasks: TaskGroup) -> None:
    own = Server([ScriptBase()], options=ServerOptions(**SMALL, linger=0.01, drain_ping_timeout=0.01))
    async with Channel(connecting(own, tasks), options=ChannelOptions(**SMALL, close_timeout=0.01)) as channel:
        async with channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream:
            await stream.send_message(Note("x"))
            await stream.recv_message()
            tasks.start_soon(own.shutdown, 0.01)
            with suppress(GRPCError):
                await stream.recv_message()
            await stream.cancel()
        await own.shutdown(0)


async def a_memory_channel(server: Server, tasks: TaskGroup) -> None:
    async with memory_channel(server, ChannelOptions(**SMALL)) as channel:
        await call_all(channel)


async def over_sockets(server: Server, tasks: TaskGroup) -> None:
    own = Server([ScriptBase()], options=ServerOptions(linger=0.01))
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    addresses = await tasks.start(own.serve, listener)
    async with Channel(f"localhost:{addresses[0][1]}", options=ChannelOptions(close_timeout=0.01)) as channel:
        await ScriptStub(channel).unary(Note())
    await own.shutdown(0)
    await turns()


async def over_unix_sockets(server: Server, tasks: TaskGroup, directory: Path) -> None:
    own = Server([ScriptBase()], options=ServerOptions(linger=0.01))
    path = directory / f"{id(tasks)}.sock"
    await tasks.start(own.serve, await listen_unix(path))
    async with Channel(f"unix:{path}", options=ChannelOptions(close_timeout=0.01)) as channel:
        await ScriptStub(channel).unary(Note())
    await own.shutdown(0)


async def inside_tls(server: Server, tasks: TaskGroup, pki: Pki) -> None:
    connect = connecting(server, tasks, ServerTLS(pki.server.cert, pki.server.key).wrap)
    async with Channel(connect, tls=ChannelTLS(pki.ca), options=ChannelOptions(close_timeout=0.01)) as channel:
        await ScriptStub(channel).unary(Note("x"))


async def hearing_of_everything(server: Server, tasks: TaskGroup) -> None:
    """With listeners that take their time."""

    async def listener(event) -> None:
        await checkpoint()

    own = Server([ScriptBase()], options=ServerOptions(linger=0.01))
    async with Channel(connecting(own, tasks), options=ChannelOptions(close_timeout=0.01)) as channel:
        for event in SendRequest, SendMessage, RecvInitialMetadata, RecvMessage, RecvTrailingMetadata:
            listen(channel, event, listener)
        for event in RecvRequest, RecvMessage, SendInitialMetadata, SendMessage, SendTrailingMetadata:
            listen(own, event, listener)
        assert await ScriptStub(channel).unary(Note("x")) == Note("x")
        with suppress(GRPCError):
            await ScriptStub(channel)._unary_unary("/no/such", Note(), Note)
        async with channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream:
            await stream.send_request(end=True)


@asynccontextmanager
async def slow_interceptor(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    """Waits at each step, on whichever side."""
    await checkpoint()
    async with proceed() as stream:
        yield StreamWrapper(stream)
        await checkpoint()


async def through_interceptors(server: Server, tasks: TaskGroup) -> None:
    """With initial metadata from a servicer, before its message and with a status."""

    class Headers(ScriptBase):
        async def unary(self, note: Note) -> Note:
            current_call().set_initial_metadata([("x-first", "1")])
            if note.text:
                await current_call().send_initial_metadata()
                return note
            raise GRPCError(Status.NOT_FOUND, "no text")

    async def listener(event) -> None:
        await checkpoint()

    interceptors = [slow_interceptor, slow_interceptor]
    own = Server([Headers()], options=ServerOptions(linger=0.01), interceptors=interceptors)
    listen(own, SendInitialMetadata, listener)
    options = ChannelOptions(close_timeout=0.01)
    async with Channel(connecting(own, tasks), options=options, interceptors=interceptors) as channel:
        await ScriptStub(channel).unary(Note("x"))
        with suppress(GRPCError):
            await ScriptStub(channel).unary(Note())
        assert await ScriptStub(channel).client_streaming([Note("x"), Note("y")]) == Note("xy")


async def health_and_reflection(server: Server, tasks: TaskGroup) -> None:
    health = Health()
    own = Server([health, Reflection([], bundled_descriptors())], options=ServerOptions(linger=0.01))
    async with Channel(connecting(own, tasks), options=ChannelOptions(close_timeout=0.01)) as channel:
        async with aclosing(HealthStub(channel).watch(HealthCheckRequest())) as answers:
            await anext(answers)
            await turns(30)
        questions = [ServerReflectionRequest(list_services="*")] * 2
        async with aclosing(ServerReflectionStub(channel).server_reflection_info(questions)) as answers:
            async for _ in answers:
                await turns()


async def keepalive(server: Server, tasks: TaskGroup) -> None:
    """Without silence, with silence but no call, and with a PING that nobody answers."""
    for time, without_calls in (1000, False), (0, False), (0, True):
        connection = ClientConnection(ChannelOptions(), clock=anyio.current_time)
        await for_a_while(partial(Keepalive(time, 1000, without_calls=without_calls).watch, connection))


async def flood(server: Server, tasks: TaskGroup) -> None:
    """Clients that make a server answer, and do not read."""
    own = Server([], options=ServerOptions(control_budget=10**6, max_control_backlog=2000, linger=0.01))
    async with open_pair(own, tasks) as ours, open_pair(own, tasks) as others:
        make = FrameFactory()
        for client in ours, others:
            await client.send(make.preface() + 1000 * make.settings({}))
        await turns(60)


async def a_flood_from_the_server(server: Server, tasks: TaskGroup) -> None:
    """More frames at once than a client reads in one turn."""
    async with RawServer() as raw, Channel(raw.connect, options=ChannelOptions(close_timeout=0.01)) as channel:

        async def send() -> None:
            peer = await raw.accept()
            await peer.send(200 * peer.make.ping())

        tasks.start_soon(send)
        await channel.wait_until_ready()
        await turns(60)


async def refused_tls(server: Server, tasks: TaskGroup, pki: Pki) -> None:
    """Clients that do not speak TLS; some read why, others do not. To HTTP, TLS says nothing."""
    tls = ServerTLS(pki.server.cert, pki.server.key)
    for hello in b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello":
        for reads in False, True:
            async with open_pair(server, tasks, tls.wrap) as ours:
                await ours.send(hello)
                if reads:
                    with suppress(anyio.EndOfStream):
                        await ours.receive()
                await turns(30)


async def a_tls_listener(server: Server, tasks: TaskGroup, pki: Pki) -> None:
    own = Server([ScriptBase()], options=ServerOptions(linger=0.01))
    tls = ServerTLS(pki.server.cert, pki.server.key)
    [address] = await tasks.start(own.serve, tls.listen(await anyio.create_tcp_listener(local_host="127.0.0.1")))
    options = ChannelOptions(close_timeout=0.01)
    async with Channel(f"localhost:{address[1]}", tls=ChannelTLS(pki.ca), options=options) as channel:
        await ScriptStub(channel).unary(Note())
    await own.shutdown(0)
    await turns()


async def listeners_that_serve_by_themselves(server: Server, tasks: TaskGroup, pki: Pki, directory: Path) -> None:
    own = Server([ScriptBase()], options=ServerOptions(linger=0.01))
    options = ChannelOptions(close_timeout=0.01)
    path = directory / f"own-{id(tasks)}.sock"
    async with await listen_unix(path) as listener, anyio.create_task_group() as serving:
        serving.start_soon(listener.serve, own.serve_connection)
        async with Channel(f"unix:{path}", options=options) as channel:
            await ScriptStub(channel).unary(Note())
        serving.cancel_scope.cancel()
    sockets = await anyio.create_tcp_listener(local_host="127.0.0.1")
    target = f"localhost:{sockets.extra(SocketAttribute.local_port)}"
    tls = ServerTLS(pki.server.cert, pki.server.key)
    async with tls.listen(sockets) as listener, anyio.create_task_group() as serving:
        serving.start_soon(listener.serve, own.serve_connection)
        async with Channel(target, tls=ChannelTLS(pki.ca), options=options) as channel:
            await ScriptStub(channel).unary(Note())
        serving.cancel_scope.cancel()


async def beginning_with_a_stream(server: Server, tasks: TaskGroup) -> None:
    async with (
        Channel(connecting(server, tasks), options=ChannelOptions(**SMALL)) as channel,
        aclosing(ScriptStub(channel).bidi([Note("x")])) as answers,
    ):
        assert [note async for note in answers] == [Note("x")]


async def refused(raw: RawServer, window: int) -> None:
    """A server that has not seen the call, then another that takes but its first bytes."""
    first = await raw.accept({SettingCodes.INITIAL_WINDOW_SIZE: window})
    await first.send(first.make.window_update(0, 2**30))
    sent = min(window, len(LARGE.text) + 5)
    await first.until(lambda _: sum(len(each.data) for each in first.seen if isinstance(each, Data)) == sent)
    await first.send(first.make.goaway(0))
    second = await raw.accept({SettingCodes.INITIAL_WINDOW_SIZE: 10})
    await second.until(lambda frame: isinstance(frame, Data))
    await turns(30)
    await second.transport.aclose()


async def a_call_that_moves(server: Server, tasks: TaskGroup) -> None:
    """While it sends, and while it waits for its answer."""
    for window in 10, 2**31 - 1:
        async with RawServer() as raw, Channel(raw.connect, options=ChannelOptions(close_timeout=0.01)) as channel:
            tasks.start_soon(refused, raw, window)
            with suppress(GRPCError):
                await ScriptStub(channel).unary(LARGE)


async def a_call_that_is_refused_again(server: Server, tasks: TaskGroup) -> None:
    async with RawServer() as raw, Channel(raw.connect, options=ChannelOptions(close_timeout=0.01)) as channel:

        async def refuse() -> None:
            peer = await raw.accept()
            for stream_id in 1, 3, 5:
                await peer.whole(stream_id)
                await peer.send(peer.make.reset(stream_id, ErrorCodes.REFUSED_STREAM))
            calling.cancel_scope.cancel()

        async with anyio.create_task_group() as calling:
            calling.start_soon(refuse)
            await ScriptStub(channel).unary(Note())


async def calls_with_a_retry_policy(server: Server, tasks: TaskGroup) -> None:
    """After an answer, and while no server can be reached."""
    options = ChannelOptions(close_timeout=0.01, retry=RetryPolicy(initial_backoff=1000, max_backoff=1000))

    async def fail(raw: RawServer) -> None:
        peer = await raw.accept()
        await peer.whole(1)
        await peer.send(peer.make.headers(1, [*RESPONSE, ("grpc-status", "14")], end_stream=True))

    async with RawServer() as raw, Channel(raw.connect, options=options) as channel:
        tasks.start_soon(fail, raw)
        await for_a_while(partial(ScriptStub(channel).unary, Note()))

    async def connect() -> AnyByteStream:
        raise OSError("nobody")

    async with Channel(connect, options=options) as channel:
        await for_a_while(partial(ScriptStub(channel).unary, Note()))


async def a_channel_that_checks_health(server: Server, tasks: TaskGroup) -> None:
    """Of a server that serves; of one with no room for the check, which then ends it and fails it."""
    options = ChannelOptions(close_timeout=0.01, load_balancing="round_robin", health_service="", initial_backoff=1000)
    health = Health()
    health.set("", ServingStatus.SERVING)
    own = Server([health, ScriptBase()], options=ServerOptions(linger=0.01))
    async with Channel(connecting(own, tasks), options=options) as channel:
        await ScriptStub(channel).unary(Note())

    async def serve(raw: RawServer) -> None:
        peer = await raw.accept({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
        await turns(30)
        await peer.send(peer.make.settings({SettingCodes.MAX_CONCURRENT_STREAMS: 10}))
        await peer.whole(1)
        await peer.send(peer.make.headers(1, [*RESPONSE, ("grpc-status", "13")], end_stream=True))

    async with RawServer() as raw, Channel(raw.connect, options=options) as channel:
        tasks.start_soon(serve, raw)
        channel.connect()
        await channel.wait_for_state(ChannelState.TRANSIENT_FAILURE)
        await turns(30)


async def ending_with_a_message_in_line(server: Server, tasks: TaskGroup) -> None:
    async with RawServer() as raw, Channel(raw.connect, options=ChannelOptions(close_timeout=0.01)) as channel:
        tasks.start_soon(raw.accept, {SettingCodes.INITIAL_WINDOW_SIZE: 10})
        async with channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream:
            await stream.send_request()
            await for_a_while(partial(stream.send_message, LARGE))
            await for_a_while(stream.end)
            await stream.cancel()


class NoMoreFiles(Listener[AnyByteStream]):
    """Cannot accept at first, and then nobody comes."""

    def __init__(self) -> None:
        self.attempts = 0
        self.waits = anyio.Event()

    async def accept(self) -> AnyByteStream:
        self.attempts += 1
        if self.attempts == 1:
            raise OSError(errno.EMFILE, "too many open files")
        self.waits.set()
        await anyio.sleep_forever()

    async def serve(self, handler, task_group=None) -> None:
        raise AssertionError("it can accept")

    async def aclose(self) -> None:
        pass


async def no_more_files(server: Server, tasks: TaskGroup) -> None:
    own, listener = Server([]), NoMoreFiles()
    await tasks.start(own.serve, listener)
    await listener.waits.wait()
    await turns()
    await own.shutdown(0)


async def listening_in_memory(server: Server, tasks: TaskGroup) -> None:
    own, listener = Server([ScriptBase()], options=ServerOptions(linger=0.01)), MemoryListener()
    await tasks.start(own.serve, listener)
    async with Channel(listener.connect, options=ChannelOptions(close_timeout=0.01)) as channel:
        await ScriptStub(channel).unary(Note())
    await own.shutdown(0)


async def round_robin_over_sockets(server: Server, tasks: TaskGroup) -> None:
    own = Server([ScriptBase()], options=ServerOptions(linger=0.01))
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    addresses = await tasks.start(own.serve, listener)
    options = ChannelOptions(close_timeout=0.01, load_balancing="round_robin")
    async with Channel(f"localhost:{addresses[0][1]}", options=options) as channel:
        await ScriptStub(channel).unary(Note())
    await own.shutdown(0)


# cancelling them


class Explorer:
    """Plays scenes, and cancels each as soon as one of its tasks waits where none was cancelled yet.

    :ivar reached: the names of the positions where that has happened
    """

    def __init__(self) -> None:
        self.reached: set[str] = set()

    async def explore(self, scene: Scene, server: Server, check: Callable[[], Awaitable[None]]) -> None:
        """Play `scene` until it comes to nothing new, and `check` what is left each time."""
        cancelled = True
        while cancelled:
            cancelled = await self._played(scene, server)
            while unserved:
                await anyio.aclose_forcefully(unserved.pop())
            await check()

    async def _played(self, scene: Scene, server: Server) -> bool:
        """Whether it was cancelled."""
        over = anyio.Event()

        async def play() -> None:
            async with anyio.create_task_group() as tasks:
                await scene(server, tasks)
                tasks.cancel_scope.cancel()
            over.set()

        def suspended(coroutine: Any) -> None:
            if not stage.cancel_scope.cancel_called and self._is_new(coroutine):
                stage.cancel_scope.cancel()

        async with anyio.create_task_group() as stage:
            with each_suspension(suspended):
                stage.start_soon(play)
                await over.wait()
        return stage.cancel_scope.cancel_called

    def _is_new(self, coroutine: Any) -> bool:
        """Whether a task waits where none was cancelled yet; then that counts as reached."""
        new = {each.name for each in waiting(coroutine)} - self.reached
        self.reached |= new
        return bool(new)


class Sibling:
    """A call that goes on beside all the scenes."""

    def __init__(self, server: Server, stream) -> None:
        self._server = server
        self._stream = stream
        [self._connection] = server._connections

    async def check(self) -> None:
        """Nothing is left of the others; this call is as it was."""
        await eventually(lambda: list(self._server._connections) == [self._connection])
        assert self._server.active_calls == 1
        await self._stream.send_message(Note("still"))
        assert await self._stream.recv_message() == Note("still")


@asynccontextmanager
async def beside(server: Server) -> AsyncIterator[Sibling]:
    async with memory_channel(server, ChannelOptions(**SMALL)) as channel:
        async with channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream:
            await stream.send_message(Note("first"))
            assert await stream.recv_message() == Note("first")
            yield Sibling(server, stream)
            await stream.end()
            assert await stream.recv_message() is None
        await eventually(lambda: server.active_calls == 0)
        for connection in server._connections:
            check_windows(connection.core)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


async def test_each_suspension_is_told():
    """The tool of this file does what it says: only tasks of the block count, and only when they suspend."""
    told = []

    async def checkpoints(count: int) -> None:
        for _ in range(count):
            await checkpoint()

    async def waits_for_another(tasks: TaskGroup) -> None:
        tasks.start_soon(checkpoints, 3)
        await before.wait()

    before = anyio.Event()
    async with anyio.create_task_group() as outside:
        outside.start_soon(before.wait)
        await checkpoint()
        with each_suspension(lambda coroutine: told.append(innermost(coroutine))):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits_for_another, tasks)
                await turns()
                before.set()
    assert told.count("checkpoints") == 3
    assert told.count("waits_for_another") == 1


def innermost(coroutine: Any) -> str:
    """The function of this file that a task waits in."""
    names = [frame.f_code.co_name for frame in frames(coroutine) if frame.f_code.co_filename == __file__]
    return names[-1]


async def test_every_await_is_cancelled_right_there(pki: Pki, tmp_path: Path):
    scenes: list[Scene] = [
        calls,
        a_call_step_by_step,
        round_robin,
        nobody_there,
        a_silent_server,
        the_end_of_a_server,
        a_memory_channel,
        over_sockets,
        lambda server, tasks: over_unix_sockets(server, tasks, tmp_path),
        hearing_of_everything,
        through_interceptors,
        health_and_reflection,
        keepalive,
        flood,
        a_flood_from_the_server,
        a_call_that_moves,
        a_call_that_is_refused_again,
        calls_with_a_retry_policy,
        a_channel_that_checks_health,
        ending_with_a_message_in_line,
        no_more_files,
        listening_in_memory,
        round_robin_over_sockets,
        beginning_with_a_stream,
        lambda server, tasks: inside_tls(server, tasks, pki),
        lambda server, tasks: refused_tls(server, tasks, pki),
        lambda server, tasks: a_tls_listener(server, tasks, pki),
        lambda server, tasks: listeners_that_serve_by_themselves(server, tasks, pki, tmp_path),
    ]
    every = {each.name for each in positions()}
    gone = ELSEWHERE.keys() - every
    assert not gone, "ELSEWHERE has awaits that are no longer in the source:\n" + "\n".join(sorted(gone))
    explorer = Explorer()
    server = Server([ScriptBase()], options=ServerOptions(**SMALL))
    # the scenes are many: on a busy machine, only the limit of each test's time ends them
    async with leaving_nothing(math.inf), beside(server) as sibling:
        for _ in range(ROUNDS):
            for scene in scenes:
                await explorer.explore(scene, server, sibling.check)
            missing = every - explorer.reached - ELSEWHERE.keys()
            if not missing:
                break
    assert not missing, "awaits that neither a scene nor ELSEWHERE has:\n" + "\n".join(sorted(missing))
