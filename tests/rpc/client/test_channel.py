"""A channel's connections: opening, waiting, losing, leaving."""

from __future__ import annotations

import errno
import math
import socket
from functools import partial

import anyio
import pytest
from anyio.abc import AnyByteStream
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from h2.settings import SettingCodes

from connectrio.rpc import Channel, ChannelOptions, ChannelState, Deadline, Server, ServerOptions
from connectrio.rpc._grpc import frame_message
from connectrio.rpc.testing import memory_channel, memory_transport_pair
from rpc.kit.frames import AnyFrame, Data, Headers, Settings
from rpc.kit.playing import PROMPT, answer, channel_to, request_on
from rpc.kit.raw import RawServer
from rpc.kit.script import BIDI, UNARY, Note, Script, ScriptStub
from rpc.kit.serving import (
    PATIENCE,
    cancelled_at_rest,
    held_port,
    in_both_ways,
    in_memory,
    leaving_nothing,
    listening,
    same_server,
    turns,
)

# seconds; no attempt to connect follows by itself while a test runs
ONCE = {"initial_backoff": 3600.0}


class Outcome:
    """What became of a call that was made in a task of its own."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.error: BaseException | None = None
        self.reply: Note | None = None

    async def of(self, stub: ScriptStub, text: str = "", **options) -> None:
        try:
            self.reply = await stub.unary(Note(text), **options)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        finally:
            self.ended.set()

    @property
    def status(self) -> Status:
        assert isinstance(self.error, GRPCError)
        return self.error.status


# opening


async def test_a_request_is_exactly_these_frames():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        tasks.start_soon(Outcome().of, ScriptStub(channel), "abc")
        peer = await raw.accept()
        await peer.whole(1)

        headers, data = peer.of(1)
        assert isinstance(headers, Headers)
        assert (
            dict(headers.headers).items()
            >= {
                ":method": "POST",
                ":scheme": "http",
                ":path": UNARY,
                ":authority": "localhost",
                "te": "trailers",
                "content-type": "application/grpc",
            }.items()
        )
        assert headers["user-agent"].startswith("grpc-python-connectrio/")
        assert data == Data(1, b"\0\0\0\0\3abc", end_stream=True)
        await answer(peer, 1)


async def test_one_connection_serves_all_calls():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        outcomes = [Outcome() for _ in range(3)]
        for outcome in outcomes:
            tasks.start_soon(outcome.of, ScriptStub(channel))
        peer = await raw.accept()
        for stream_id in 1, 3, 5:
            await peer.whole(stream_id)
            await answer(peer, stream_id, str(stream_id))
        for outcome in outcomes:
            await outcome.ended.wait()
        assert {outcome.reply.text for outcome in outcomes if outcome.reply} == {"1", "3", "5"}
    assert raw.connections == 1


async def test_no_connection_without_a_call():
    raw = RawServer()
    async with channel_to(raw):
        await turns()
    assert raw.connections == 0


async def test_no_call_before_the_servers_settings():
    """The settings say how many calls the server allows."""
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        outcomes = [Outcome() for _ in range(2)]
        for outcome in outcomes:
            tasks.start_soon(outcome.of, ScriptStub(channel))
        peer = await raw.accept_silently()
        await peer.until(lambda frame: isinstance(frame, Settings))
        await turns()
        await peer.send(peer.make.settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1}))
        await peer.whole(1)
        await turns()
        await answer(peer, 1)
        await peer.whole(3)  # only now
        await answer(peer, 3)
        for outcome in outcomes:
            await outcome.ended.wait()
            assert outcome.reply == Note()


async def test_calls_beyond_what_the_server_allows_wait_for_their_turn():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        outcomes = [Outcome() for _ in range(3)]
        for outcome in outcomes:
            tasks.start_soon(outcome.of, ScriptStub(channel))
        peer = await raw.accept({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
        await peer.whole(3)
        await peer.send(peer.make.ping())
        await turns()
        assert not any(request_on(5)(frame) for frame in peer.seen)

        await answer(peer, 3)
        await peer.whole(5)
        await answer(peer, 1)
        await answer(peer, 5)
        for outcome in outcomes:
            await outcome.ended.wait()
            assert outcome.error is None


async def test_a_call_that_waits_for_its_turn_has_a_deadline():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        first, second = Outcome(), Outcome()
        tasks.start_soon(first.of, ScriptStub(channel))
        peer = await raw.accept({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        await peer.whole(1)
        await second.of(ScriptStub(channel), timeout=0.05)
        assert second.status is Status.DEADLINE_EXCEEDED
        await answer(peer, 1)
        await first.ended.wait()
        assert first.error is None


# not opening


async def test_a_server_that_is_not_there():
    with held_port() as port:
        async with leaving_nothing(), Channel(f"127.0.0.1:{port}") as channel:
            for _ in range(2):
                with pytest.raises(GRPCError, match=f"cannot connect to 127.0.0.1:{port}") as raised:
                    await ScriptStub(channel).unary(Note())
                assert raised.value.status is Status.UNAVAILABLE


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("127.0.0.1:{0}", "127.0.0.1:{0}: Connection refused"),
        ("localhost:{0}", "localhost:{0}: 127.0.0.1:{0}: Connection refused"),
        (
            "ipv4:127.0.0.1:{0},127.0.0.2:{0}",
            "ipv4:127.0.0.1:{0},127.0.0.2:{0}: 127.0.0.1:{0}: Connection refused; 127.0.0.2:{0}: Connection refused",
        ),
        ("nobody.invalid:{0}", "nobody.invalid:{0}: cannot resolve 'nobody.invalid': Name or service not known"),
        ("unix:/nowhere/grpc.sock", "unix:/nowhere/grpc.sock: No such file or directory"),
        ("unix-abstract:nobody-{0}", "unix-abstract:nobody-{0}: Connection refused"),
    ],
)
async def test_why_a_server_cannot_be_reached(target: str, reason: str, monkeypatch: pytest.MonkeyPatch):
    resolve = anyio.getaddrinfo

    async def getaddrinfo(host, port, **options):
        if host == "nobody.invalid":  # the same text whatever resolver this machine has
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return await resolve("127.0.0.1" if host == "localhost" else host, port, **options)

    monkeypatch.setattr("anyio.getaddrinfo", getaddrinfo)
    with held_port() as port:
        async with leaving_nothing(), Channel(target.format(port)) as channel:
            with pytest.raises(GRPCError) as raised:
                await ScriptStub(channel).unary(Note())
    assert raised.value.status is Status.UNAVAILABLE
    assert raised.value.message == f"cannot connect to {reason.format(port)}"


async def test_a_channel_is_closed_by_the_task_that_has_opened_it():
    async with in_memory(Script()) as served, anyio.create_task_group() as tasks:
        channel = Channel(same_server(served.channel))
        opened, refused, closed = anyio.Event(), anyio.Event(), anyio.Event()

        async def opener() -> None:
            async with channel:
                assert await ScriptStub(channel).unary(Note("a")) == Note("a")
                opened.set()
                await refused.wait()
                with pytest.raises(GRPCError, match="the channel was closed"):
                    await ScriptStub(channel).unary(Note("a"))
            closed.set()

        tasks.start_soon(opener)
        await opened.wait()
        with pytest.raises(RuntimeError, match=r"was opened in another task.*open and close a channel in one task"):
            await channel.__aexit__(None, None, None)
        assert channel.state is ChannelState.SHUTDOWN
        refused.set()
        await closed.wait()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ECONNREFUSED, "refused"), RuntimeError("TLS said no"), anyio.BrokenResourceError()],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_connecting_raises_is_the_calls_end_and_not_the_channels(error: Exception):
    server = Server([Script()])
    failures = [error]

    async with leaving_nothing(), memory_channel(server) as working:

        async def connect() -> AnyByteStream:
            if failures:
                raise failures.pop()
            return await same_server(working)()

        async with Channel(connect, options=ChannelOptions(initial_backoff=0.001)) as channel:
            with pytest.raises(GRPCError, match="cannot connect") as raised:
                await ScriptStub(channel).unary(Note())
            assert raised.value.status is Status.UNAVAILABLE
            assert await ScriptStub(channel.when_ready).unary(Note("again")) == Note("again")


async def test_connecting_takes_no_longer_than_its_time_out():
    async def connect() -> AnyByteStream:
        await anyio.sleep_forever()
        raise AssertionError

    async with leaving_nothing(), Channel(connect, options=ChannelOptions(connect_timeout=0.05)) as channel:
        with pytest.raises(GRPCError, match=r"within 0\.05 seconds") as raised:
            await ScriptStub(channel).unary(Note())
        assert raised.value.status is Status.UNAVAILABLE


async def test_a_server_that_says_nothing_is_given_up():
    raw = RawServer()
    async with channel_to(raw, connect_timeout=0.05) as channel:
        with pytest.raises(GRPCError, match=r"within 0\.05 seconds") as raised:
            await ScriptStub(channel).unary(Note())
        assert raised.value.status is Status.UNAVAILABLE


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(50_000), b"\x15\x03\x01\x00\x02\x02\x50" + bytes(20)]
)
async def test_a_server_that_speaks_something_else(greeting: bytes):
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        outcome = Outcome()
        tasks.start_soon(outcome.of, ScriptStub(channel))
        peer = await raw.accept_silently()
        await peer.send(greeting)
        await peer.transport.aclose()
        await outcome.ended.wait()
        assert outcome.status is Status.UNAVAILABLE
        assert "cannot connect" in str(outcome.error)


async def test_a_server_that_hangs_up_at_once():
    raw = RawServer()
    async with channel_to(raw, **ONCE) as channel, anyio.create_task_group() as tasks:
        outcome = Outcome()
        tasks.start_soon(outcome.of, ScriptStub(channel))
        peer = await raw.accept_silently()
        await peer.transport.aclose()
        await outcome.ended.wait()
        assert outcome.status is Status.UNAVAILABLE
        assert "closed" in str(outcome.error) or "writing failed" in str(outcome.error)
    assert raw.connections == 1


async def test_a_server_that_goes_away_at_once_is_not_asked_in_a_circle():
    raw = RawServer()
    async with channel_to(raw, **ONCE) as channel, anyio.create_task_group() as tasks:
        outcome = Outcome()
        tasks.start_soon(outcome.of, ScriptStub(channel))
        peer = await raw.accept_silently()
        await peer.send(peer.make.settings({}), peer.make.goaway(0))
        await outcome.ended.wait()
        assert outcome.status is Status.UNAVAILABLE
        await peer.transport.aclose()
    assert raw.connections == 1


async def test_a_cancelled_call_does_not_stop_the_connection_that_others_wait_for():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        patient = Outcome()
        async with cancelled_at_rest():
            await ScriptStub(channel).unary(Note())
        tasks.start_soon(patient.of, ScriptStub(channel))
        peer = await raw.accept()
        await peer.whole(1)
        await answer(peer, 1)
        await patient.ended.wait()
        assert patient.reply == Note()
    assert raw.connections == 1


# losing


async def test_a_lost_connection_is_unavailable_and_the_next_call_opens_another():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        lost, found = Outcome(), Outcome()
        tasks.start_soon(lost.of, ScriptStub(channel))
        peer = await raw.accept()
        await peer.whole(1)
        await peer.transport.aclose()
        await lost.ended.wait()
        assert lost.status is Status.UNAVAILABLE

        tasks.start_soon(found.of, ScriptStub(channel))
        peer = await raw.accept()
        await peer.whole(1)
        await answer(peer, 1, "found")
        await found.ended.wait()
        assert found.reply == Note("found")


async def test_the_channel_reconnects_when_the_server_is_back():
    options = ChannelOptions(initial_backoff=0.001)
    with held_port() as port:
        async with leaving_nothing(), Channel(f"127.0.0.1:{port}", options=options) as channel:
            for _ in range(3):
                async with listening(Server([Script()]), port):
                    assert await ScriptStub(channel.when_ready).unary(Note("here")) == Note("here")
                with pytest.raises(GRPCError) as raised:
                    await ScriptStub(channel).unary(Note("gone"))
                assert raised.value.status is Status.UNAVAILABLE


async def test_after_goaway_calls_finish_and_new_ones_go_elsewhere():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        old, new = Outcome(), Outcome()
        tasks.start_soon(old.of, ScriptStub(channel))
        first = await raw.accept()
        await first.whole(1)
        await first.send(first.make.goaway(2**31 - 1))
        await turns()

        tasks.start_soon(new.of, ScriptStub(channel))
        second = await raw.accept()
        await second.whole(1)
        await answer(second, 1, "new")
        await new.ended.wait()
        assert new.reply == Note("new")

        await first.send(first.make.goaway(1))
        await answer(first, 1, "old")
        await old.ended.wait()
        assert old.reply == Note("old")
        await first.until_closed()  # the channel hangs up when the last call is done


async def test_calls_that_no_server_wants_to_see_are_unavailable():
    raw = RawServer()
    async with channel_to(raw, **ONCE) as channel, anyio.create_task_group() as tasks:
        seen, unseen = Outcome(), Outcome()
        tasks.start_soon(seen.of, ScriptStub(channel))
        first = await raw.accept()
        await first.whole(1)
        tasks.start_soon(unseen.of, ScriptStub(channel))
        await first.whole(3)
        await first.send(first.make.goaway(1, reason=b"going home"))
        second = await raw.accept()
        await second.whole(1)
        await second.send(second.make.goaway(0, reason=b"going home as well"))
        await unseen.ended.wait()
        assert unseen.status is Status.UNAVAILABLE
        assert "going home as well" in str(unseen.error)
        await answer(first, 1)
        await seen.ended.wait()
        assert seen.error is None


async def test_calls_that_wait_for_their_turn_go_to_the_next_connection():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        running, waiting = Outcome(), Outcome()
        tasks.start_soon(running.of, ScriptStub(channel))
        first = await raw.accept({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        await first.whole(1)
        tasks.start_soon(waiting.of, ScriptStub(channel))
        await turns()
        await first.send(first.make.goaway(1))
        second = await raw.accept()
        await second.whole(1)
        await answer(second, 1, "second")
        await waiting.ended.wait()
        assert waiting.reply == Note("second")
        await answer(first, 1, "first")
        await running.ended.wait()
        assert running.reply == Note("first")


# leaving


@in_both_ways
@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), GRPCError(Status.ABORTED)], ids=repr)
async def test_what_the_block_raises_comes_out_as_it_is(serving, error: BaseException):
    async def fail(channel: Channel) -> None:
        async with Channel(same_server(channel)) as ours:
            await ScriptStub(ours).unary(Note())
            raise error

    async with serving(Script()) as served:
        with pytest.raises(type(error)) as raised:
            await fail(served.channel)
    assert raised.value is error


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()], ids=repr)
async def test_memory_channels_let_out_what_the_block_raises_as_it_is(error: BaseException):
    async def fail() -> None:
        async with memory_channel(Server([Script()])) as channel:
            await ScriptStub(channel).unary(Note())
            raise error

    async with leaving_nothing():
        with pytest.raises(type(error)) as raised:
            await fail()
    assert raised.value is error


async def test_a_failing_call_comes_out_as_it_is():
    async def fail(stream):
        raise GRPCError(Status.DATA_LOSS, "gone")

    with pytest.raises(GRPCError, match="gone"):
        async with in_memory(Script(fail)) as served:
            await served.stub.unary(Note())


async def test_cancelled_in_the_block_the_channel_ends():
    async with in_memory(Script()) as served:
        with anyio.CancelScope() as scope:
            async with Channel(same_server(served.channel)) as channel:
                await ScriptStub(channel).unary(Note())
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        await turns()
        assert await served.stub.unary(Note("on")) == Note("on")


async def test_leaving_ends_the_calls_of_other_tasks():
    raw = RawServer()
    async with leaving_nothing(), raw, anyio.create_task_group() as tasks:
        outcome = Outcome()
        async with Channel(raw.connect, options=ChannelOptions(**PROMPT)) as channel:
            tasks.start_soon(outcome.of, ScriptStub(channel))
            peer = await raw.accept()
            await peer.whole(1)
        await outcome.ended.wait()
        assert outcome.status is Status.UNAVAILABLE


async def test_closing_ends_calls_before_the_block_is_left():
    async with leaving_nothing(), RawServer() as raw, anyio.create_task_group() as tasks:
        outcome = Outcome()
        async with Channel(raw.connect, options=ChannelOptions(**PROMPT)) as channel:
            tasks.start_soon(outcome.of, ScriptStub(channel))
            peer = await raw.accept()
            await peer.until(lambda frame: isinstance(frame, Headers))
            channel.close()
            assert channel.state is ChannelState.SHUTDOWN
            channel.close()  # once more does nothing
            await outcome.ended.wait()
            assert outcome.status is Status.UNAVAILABLE
            with pytest.raises(GRPCError, match="the channel was closed"):
                await ScriptStub(channel).unary(Note())
        with pytest.raises(RuntimeError, match="make another"):
            await channel.__aenter__()


async def test_leaving_ends_calls_that_wait_for_a_connection():
    async def connect() -> AnyByteStream:
        connecting.set()
        await anyio.sleep_forever()
        raise AssertionError

    connecting = anyio.Event()
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        outcome = Outcome()
        async with Channel(connect) as channel:
            tasks.start_soon(outcome.of, ScriptStub(channel))
            await connecting.wait()
        await outcome.ended.wait()
        assert outcome.status is Status.UNAVAILABLE


async def test_leaving_ends_calls_that_wait_for_their_turn():
    raw = RawServer()
    async with leaving_nothing(), raw, anyio.create_task_group() as tasks:
        running, waiting = Outcome(), Outcome()
        async with Channel(raw.connect, options=ChannelOptions(**PROMPT)) as channel:
            tasks.start_soon(running.of, ScriptStub(channel))
            peer = await raw.accept({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
            await peer.whole(1)
            tasks.start_soon(waiting.of, ScriptStub(channel))
            await turns()
        for outcome in running, waiting:
            await outcome.ended.wait()
            assert outcome.status is Status.UNAVAILABLE


async def test_leaving_ends_calls_on_connections_that_go_away():
    raw = RawServer()
    async with leaving_nothing(), raw, anyio.create_task_group() as tasks:
        old, new = Outcome(), Outcome()
        async with Channel(raw.connect, options=ChannelOptions(**PROMPT)) as channel:
            tasks.start_soon(old.of, ScriptStub(channel))
            first = await raw.accept()
            await first.whole(1)
            await first.send(first.make.goaway(1))
            await turns()
            tasks.start_soon(new.of, ScriptStub(channel))
            second = await raw.accept()
            await second.whole(1)
        for outcome in old, new:
            await outcome.ended.wait()
            assert outcome.status is Status.UNAVAILABLE


async def test_leaving_ends_tasks_that_send():
    asked = anyio.Event()

    async def questions():
        yield Note("one")
        asked.set()
        await anyio.sleep_forever()

    async with in_memory(Script()) as served:
        answers = None
        async with Channel(same_server(served.channel)) as channel:
            answers = ScriptStub(channel).bidi(questions())
            await anext(answers)
            await asked.wait()
        await answers.aclose()


@pytest.mark.parametrize("buffered_sends", [math.inf, 0], ids=["taken at once", "taken late"])
async def test_what_was_sent_before_leaving_arrives(buffered_sends: float):
    """It looks at the wire, because servers differ in what they do when the connection ends after a request."""

    class Server(RawServer):
        pair = staticmethod(partial(memory_transport_pair, buffered_sends))

    async def collect() -> None:
        peer = await raw.accept()
        await peer.until_closed()
        await peer.transport.aclose()
        frames.extend(peer.of(1))

    frames: list[AnyFrame] = []
    note = Note("x" * 200_000)
    async with leaving_nothing(), Server() as raw, anyio.create_task_group() as tasks:
        tasks.start_soon(collect)
        async with Channel(raw.connect, options=ChannelOptions(close_timeout=PATIENCE)) as channel:
            stream = channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note)
            await stream.send_message(note)
            await stream.end()
    assert b"".join(frame.data for frame in frames if isinstance(frame, Data)) == frame_message(
        note.SerializeToString()
    )
    assert [frame for frame in frames if getattr(frame, "end_stream", False)] == frames[-1:]


async def test_a_channel_that_is_not_open_says_so():
    async with leaving_nothing(), RawServer() as raw:
        channel = Channel(raw.connect)
        with pytest.raises(RuntimeError, match="async with Channel"):
            await ScriptStub(channel).unary(Note())
        async with channel:
            pass
        with pytest.raises(RuntimeError, match="async with Channel"):
            await ScriptStub(channel).unary(Note())


async def test_a_wrong_target_is_an_error_at_once():
    with pytest.raises(ValueError, match="expected host:port"):
        Channel("nowhere")


async def test_unix_sockets(tmp_path):
    """With patience: asyncio's loop reports an error of anyio's when a receive is cancelled just as bytes come."""
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        server = Server([Script()], options=ServerOptions(linger=PATIENCE))
        path = tmp_path / "c.sock"
        await tasks.start(server.serve, await anyio.create_unix_listener(path))
        async with Channel(f"unix:{path}", options=ChannelOptions(close_timeout=PATIENCE)) as channel:
            assert await ScriptStub(channel).unary(Note("local")) == Note("local")
        await server.shutdown(grace=PATIENCE)


@pytest.mark.parametrize("timeout", [math.inf, 1e9])
async def test_timeouts_without_end(timeout: float):
    async with in_memory(Script()) as served:
        assert await served.stub.unary(Note("a"), timeout=timeout) == Note("a")


async def test_the_earlier_of_timeout_and_deadline_counts():
    async def remaining(stream):
        await stream.recv_message()
        await stream.send_message(Note(str(stream.deadline.time_remaining())))

    async with in_memory(Script(remaining)) as served:
        for timeout, at in (100, 5000), (5000, 100):
            note = await served.stub.unary(Note(), timeout=timeout, deadline=Deadline.from_timeout(at))
            assert 0 < float(note.text) < 101  # 100, give or take a float's rounding


async def test_a_transport_that_is_written_to_slowly():
    """The sender waits; nothing is lost and no buffer grows."""
    server = Server([Script()])
    async with leaving_nothing(), anyio.create_task_group() as tasks:

        async def connect() -> AnyByteStream:
            ours, theirs = memory_transport_pair(buffered_sends=0)
            tasks.start_soon(server.serve_connection, theirs)
            return ours

        async with Channel(connect) as channel:
            note = Note("x" * 1_000_000)
            assert await ScriptStub(channel).unary(note) == note
