"""Cancelled at any await, what is true afterwards: the connection serves others, no slot is lost, windows are whole.

The awaits of rpc/ that suspend, and what is cancelled there:

- `read_message` (readable), in a servicer and in a client: no message is lost
- `ServerStream.send_message` (writable): the message is cut, and only a failure can follow
- `Attempts.flush` (writable): the message stays in line
- `Attempts.response_headers`, `Channel.open_stream` (a connection, a turn), stubs' senders: the call is over
- `_http2.transport.receive`, `write`, `run` and `ServedConnection._wait_until_over`: the connection is over
- `Server.serve` and `shutdown`, `Channel.__aexit__`: see also test_server.py and test_channel.py
- `Health.watch`: the call is over

Most of these are reached here by cancelling a task at its first, second, third… step, until it is done before that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing, suppress
from typing import Any

import anyio
import pytest
from anyio.abc import AnyByteStream, TaskGroup
from anyio.lowlevel import checkpoint
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, ProtocolError

from connectrio.rpc import Channel, ChannelOptions, Server, ServerOptions
from connectrio.rpc._grpc import frame_message
from connectrio.rpc.testing import memory_channel, memory_transport_pair
from rpc.kit.core import SMALL, check_windows
from rpc.kit.frames import Data, Headers
from rpc.kit.playing import RESPONSE, channel_to
from rpc.kit.raw import RawServer, raw_client
from rpc.kit.script import BIDI, CLIENT_STREAMING, SERVER_STREAMING, Note, Script, ScriptStub, echo, echo_last
from rpc.kit.serving import cancelled_at_rest, eventually, in_memory, leaving_nothing, turns

# so that every send has to wait, several times
LARGE_NOTE = Note("x" * 150_000)


class Steps:
    """Runs a coroutine as it is, but cancels a scope just before it suspends for the nth time.

    :ivar count: how many times it suspended
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], cancel_at: int) -> None:
        self._coroutine = coroutine
        self._cancel_at = cancel_at
        self._scope = anyio.CancelScope()
        self.count = 0

    async def run(self) -> bool:
        """Whether it was cancelled."""
        with self._scope:
            await self
        return self._scope.cancelled_caught

    def __await__(self) -> Generator[Any, Any, Any]:
        resume = self._coroutine.send
        value: Any = None
        while True:
            try:
                waited_for = resume(value)
            except StopIteration as result:
                return result.value
            self.count += 1
            if self.count == self._cancel_at:
                self._scope.cancel()
            try:
                resume, value = self._coroutine.send, (yield waited_for)
            except BaseException as error:  # noqa: BLE001 - handed on
                resume, value = self._coroutine.throw, error


async def cancelled_at_each_step(
    make: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[], Awaitable[None]]
) -> int:
    """Run what `make` makes, again and again, cancelled one step later each time, and `check` after each; how often."""
    for step in range(1, 1000):
        steps = Steps(make(), step)
        await steps.run()
        await check()
        if steps.count < step:
            return step
    raise AssertionError("this takes too many steps")


async def check_is_whole(server: Server, stub: ScriptStub) -> None:
    """Nothing is left of other calls."""
    await eventually(lambda: server.active_calls == 0)
    assert await stub.unary(Note("on")) == Note("on")
    await eventually(lambda: server.active_calls == 0)
    for connection in server._connections:
        check_windows(connection.core)


# a client, step by step


async def unary(stub: ScriptStub) -> None:
    assert await stub.unary(LARGE_NOTE) == LARGE_NOTE


async def server_streaming(stub: ScriptStub) -> None:
    async with aclosing(stub.server_streaming(LARGE_NOTE)) as answers:
        assert [note async for note in answers] == [LARGE_NOTE]


async def client_streaming(stub: ScriptStub) -> None:
    assert await stub.client_streaming([LARGE_NOTE, Note("y")]) == Note(LARGE_NOTE.text + "y")


async def bidi(stub: ScriptStub) -> None:
    async with aclosing(stub.bidi([LARGE_NOTE, Note("y")])) as answers:
        assert [note async for note in answers] == [LARGE_NOTE, Note("y")]


@pytest.mark.parametrize("call", [unary, server_streaming, client_streaming, bidi])
async def test_a_client_cancelled_at_each_step(call):
    async with leaving_nothing():
        server = Server([Script()], options=ServerOptions(**SMALL))
        async with memory_channel(server, ChannelOptions(**SMALL)) as channel:
            stub = ScriptStub(channel)
            await cancelled_at_each_step(lambda: call(stub), lambda: check_is_whole(server, stub))


async def test_a_client_cancelled_at_each_step_while_it_waits_for_its_turn():
    gate = anyio.Event()

    async def method(stream):
        await gate.wait()
        await stream.send_message(await stream.recv_message())

    async with in_memory(Script(method), options=ServerOptions(max_concurrent_streams=1)) as served:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.stub.unary, Note("holds the slot"))
            await eventually(lambda: served.server.active_calls == 1)
            for step in range(1, 4):
                scope = anyio.CancelScope()
                with scope:
                    tasks.start_soon(cancel_after, scope, step)
                    await served.stub.unary(Note("waits"))
                assert scope.cancelled_caught
            assert served.server.active_calls == 1
            gate.set()
        await check_is_whole(served.server, served.stub)


async def cancel_after(scope: anyio.CancelScope, count: int) -> None:
    await turns(count)
    scope.cancel()


# a servicer, step by step


@pytest.mark.parametrize(
    ("method", "call"),
    [(echo, unary), (echo, server_streaming), (echo_last, client_streaming), (echo, bidi)],
    ids=["unary", "server_streaming", "client_streaming", "bidi"],
)
async def test_a_servicer_cancelled_at_each_step(method, call):
    """By a scope of its own, so that it returns in the middle of things."""
    step = last_count = 0

    async def cancelled(stream):
        nonlocal last_count
        if (stream.metadata or {}).get("x-cancel"):
            steps = Steps(method(stream), step)
            await steps.run()
            last_count = steps.count
        else:
            await method(stream)

    async with leaving_nothing():
        server = Server([Script(cancelled, cancelled, cancelled, cancelled)], options=ServerOptions(**SMALL))
        async with memory_channel(server, ChannelOptions(**SMALL)) as channel:
            stub = ScriptStub(channel)
            cancelling = ScriptStub(channel, metadata={"x-cancel": "1"})
            while last_count >= step:
                step += 1
                with suppress(GRPCError, AssertionError):  # it has returned too early
                    await call(cancelling)
                await check_is_whole(server, stub)
        assert step > 1


# a connection, turn by turn


@pytest.mark.parametrize("end", ["cancel", "shutdown", "hang up"])
async def test_a_server_that_ends_at_any_moment(end: str):
    """Its call is answered or UNAVAILABLE, and nothing is left of it."""
    outcomes = set()
    async with leaving_nothing():
        for count in range(1, 60, 3):
            outcomes.add(await outcome_of_an_end(end, count))
    assert outcomes >= {Status.UNAVAILABLE}
    assert outcomes <= {Status.UNAVAILABLE, Status.OK}


async def outcome_of_an_end(end: str, count: int) -> Status | None:
    """How a call ends whose server ends after so many turns."""
    server = Server([Script()], options=ServerOptions(**SMALL, linger=0.02, drain_ping_timeout=0.02))
    outcome = None

    async def call() -> None:
        nonlocal outcome
        outcome = await status_of(client_streaming(ScriptStub(channel)))

    async with anyio.create_task_group() as serving:
        connect = Connections(server, serving)
        options = ChannelOptions(**SMALL, close_timeout=0.02)
        async with Channel(connect, options=options) as channel, anyio.create_task_group() as calls:
            calls.start_soon(call)
            await turns(count)
            if end == "shutdown":
                await server.shutdown(grace=0)
            elif end == "cancel":
                connect.cancel()
            else:
                await connect.hang_up()
        connect.cancel()
    assert server.active_calls == 0
    return outcome


class Connections:
    """Connects to a server in memory; every send waits until it is received."""

    def __init__(self, server: Server, tasks: TaskGroup) -> None:
        self._server = server
        self._tasks = tasks
        self._transports: list[AnyByteStream] = []
        self._scopes: list[anyio.CancelScope] = []

    async def __call__(self) -> AnyByteStream:
        ours, theirs = memory_transport_pair(buffered_sends=0)
        self._transports.append(theirs)
        self._tasks.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, transport: AnyByteStream) -> None:
        with anyio.CancelScope() as scope:
            self._scopes.append(scope)
            await self._server.serve_connection(transport)

    async def hang_up(self) -> None:
        for transport in self._transports:
            await transport.aclose()

    def cancel(self) -> None:
        for scope in self._scopes:
            scope.cancel()


async def status_of(call: Awaitable[None]) -> Status:
    try:
        await call
    except GRPCError as error:
        return error.status
    return Status.OK


async def test_a_channel_that_is_left_at_any_moment():
    outcomes = set()
    server = Server([Script()], options=ServerOptions(**SMALL))

    async def call(channel: Channel) -> None:
        with suppress(RuntimeError):  # the channel is not open any more
            outcomes.add(await status_of(bidi(ScriptStub(channel))))

    async with leaving_nothing(), anyio.create_task_group() as serving:
        connect = Connections(server, serving)
        async with Channel(connect) as working:
            for count in range(1, 60, 3):
                async with anyio.create_task_group() as calls:
                    options = ChannelOptions(**SMALL, close_timeout=0.02)
                    async with Channel(connect, options=options) as channel:
                        calls.start_soon(call, channel)
                        await turns(count)
                await check_is_whole(server, ScriptStub(working))
    assert outcomes >= {Status.UNAVAILABLE}
    assert outcomes <= {Status.UNAVAILABLE, Status.OK}


# what is true of messages


@pytest.mark.parametrize("path", [BIDI, CLIENT_STREAMING, SERVER_STREAMING], ids=["bidi", "client", "server"])
async def test_a_servicers_receiving_can_be_cancelled_without_losing_a_message(path: str):
    received = []

    async def impatient(stream):
        async with cancelled_at_rest():
            await stream.recv_message()
            raise AssertionError("nothing is whole yet")
        cancelled.set()
        received.append(await stream.recv_message())
        if path == CLIENT_STREAMING:
            await stream.send_message(Note())

    cancelled = anyio.Event()
    # of a unary request the end is missing, of others the last byte
    framed = frame_message(b"in pieces")
    now, later = (framed, b"") if path == SERVER_STREAMING else (framed[:-1], framed[-1:])
    async with leaving_nothing():
        server = Server([Script(server_streaming=impatient, client_streaming=impatient, bidi=impatient)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, path), client.make.data(1, now))
            await cancelled.wait()
            await client.send(client.make.data(1, later, end_stream=True))
            assert (await client.trailers(1))["grpc-status"] == "0"
    assert received == [Note("in pieces")]


async def test_a_clients_receiving_can_be_cancelled_without_losing_a_message():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        received = []
        receiving = anyio.CancelScope()

        async def call() -> None:
            nonlocal receiving
            async with channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream:
                await stream.send_request()
                while len(received) < 3:
                    with anyio.CancelScope() as receiving:
                        received.append(await stream.recv_message())
                await stream.cancel()

        tasks.start_soon(call)
        peer = await raw.accept()
        await peer.until(lambda frame: isinstance(frame, Headers))
        parts = [peer.make.headers(1, RESPONSE)]
        parts += [
            peer.make.data(1, bytes([byte])) for byte in frame_message(b"a") + frame_message(b"b") + frame_message(b"c")
        ]
        for part in parts:
            await peer.send(part)
            await turns()
            receiving.cancel()
        await eventually(lambda: len(received) == 3)
    assert received == [Note("a"), Note("b"), Note("c")]


async def test_receiving_is_cancelled_also_where_a_message_is_there():
    async def method(stream):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.recv_message()
        assert scope.cancelled_caught
        await stream.send_message(await stream.recv_message())

    async with in_memory(Script(method)) as served:
        assert await served.stub.unary(Note("kept")) == Note("kept")


async def test_a_servicers_sending_cancelled_half_way_can_only_be_failed():
    errors = []

    async def method(stream):
        await stream.recv_message()
        async with cancelled_at_rest():
            await stream.send_message(Note("x" * 100))
        for go_on in (
            lambda: stream.send_message(Note()),
            stream.send_initial_metadata,
            lambda: stream.send_trailing_metadata(status=Status.OK),
        ):
            try:
                await go_on()
            except ProtocolError as error:
                errors.append(str(error))
        raise GRPCError(Status.ABORTED, "half-way")

    async with leaving_nothing():
        server = Server([Script(server_streaming=method)])
        async with raw_client(server, {4: 10}) as client:
            await client.send(client.make.request(1, SERVER_STREAMING), client.make.message(1, b"", end_stream=True))
            trailers = await client.trailers(1)
    assert len(errors) == 3
    assert all("half-way" in error for error in errors)
    assert (trailers["grpc-status"], trailers["grpc-message"]) == ("10", "half-way")


async def test_a_servicer_that_returns_after_half_a_message_has_failed():
    async def method(stream):
        await stream.recv_message()
        async with cancelled_at_rest():
            await stream.send_message(Note("x" * 100))

    async with leaving_nothing():
        server = Server([Script(method, method)])
        async with raw_client(server, {4: 10}) as client:
            for stream_id, path in (1, SERVER_STREAMING), (3, "/test.Script/Unary"):
                await client.send(
                    client.make.request(stream_id, path), client.make.message(stream_id, b"", end_stream=True)
                )
                assert (await client.trailers(stream_id))["grpc-status"] == str(Status.INTERNAL.value)


async def test_a_servicers_sending_cancelled_before_the_first_byte_has_sent_nothing():
    async def method(stream):
        await stream.recv_message()
        async with cancelled_at_rest():
            await stream.send_message(Note("never"))
        proceed.set()
        await stream.send_message(Note("sent"))

    proceed = anyio.Event()
    async with leaving_nothing():
        server = Server([Script(server_streaming=method)])
        async with raw_client(server, {4: 0}) as client:
            await client.send(client.make.request(1, SERVER_STREAMING), client.make.message(1, b"", end_stream=True))
            await proceed.wait()
            await client.send(client.make.window_update(1, 1000))
            frames = await client.whole(1)
    assert b"".join(frame.data for frame in frames if isinstance(frame, Data)) == frame_message(b"sent")
    assert frames[-1]["grpc-status"] == "0"


async def test_a_clients_sending_cancelled_half_way_stays_in_line():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:

        async def call() -> None:
            async with channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream:
                await stream.send_request()
                async with cancelled_at_rest():
                    await stream.send_message(Note("half"))
                cancelled.set()
                await stream.send_message(Note("whole"))
                await stream.end()

        cancelled = anyio.Event()
        tasks.start_soon(call)
        peer = await raw.accept({4: 7})
        await cancelled.wait()
        await peer.send(peer.make.window_update(1, 1000))
        frames = await peer.whole(1)
        sent = b"".join(frame.data for frame in frames if isinstance(frame, Data))
        assert sent == frame_message(b"half") + frame_message(b"whole")
        await peer.send(peer.make.headers(1, [*RESPONSE, ("grpc-status", "0")], end_stream=True))


async def test_no_step_of_this_file_is_a_step_too_few():
    """The tool of these tests does what it says."""

    async def three_steps() -> None:
        for _ in range(3):
            await checkpoint()

    counts = []
    for step in range(1, 8):
        steps = Steps(three_steps(), step)
        counts.append((await steps.run(), steps.count))
    cancelled = [count for was_cancelled, count in counts if was_cancelled]
    assert cancelled == sorted(cancelled)
    assert cancelled
    assert not counts[-1][0]
