"""Calls that failed are made again as their policy says (gRFC A6), on connections that the test plays."""

from __future__ import annotations

from contextlib import aclosing
from itertools import pairwise

import anyio
import pytest
from grpclib.const import Cardinality
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectrio.rpc import (
    Channel,
    ChannelOptions,
    ChannelState,
    GRPCError,
    MethodConfig,
    RetryPolicy,
    RetryThrottling,
    Server,
    Status,
    current_call,
    response_metadata,
)
from connectrio.rpc.testing import MemoryListener
from rpc.kit.frames import Data, Headers, Reset
from rpc.kit.playing import OK, RESPONSE, Played, answer, echo, playing, request_on
from rpc.kit.raw import RawPeer
from rpc.kit.script import BIDI, Note, ScriptBase, ScriptStub
from rpc.kit.serving import eventually, leaving_nothing, turns
from rpc.kit.virtual_time import LONG, in_virtual_time

UNAVAILABLE = Status.UNAVAILABLE
SOON = RetryPolicy(initial_backoff=0.001, max_backoff=0.001)
# the next attempt is for another day
LATE = RetryPolicy(initial_backoff=50_000, max_backoff=50_000)


async def fail(peer: RawPeer, stream_id: int, status: Status = UNAVAILABLE, *more: tuple[str, str]) -> None:
    """End a call with nothing but a status, once its headers are here."""
    await peer.until(request_on(stream_id))
    code = ("grpc-status", str(status.value))
    await peer.send(peer.make.headers(stream_id, [*RESPONSE, code, ("grpc-message", "no"), *more], end_stream=True))


def previous_attempts(peer: RawPeer, stream_id: int) -> str | None:
    headers = next(frame.headers for frame in peer.of(stream_id) if isinstance(frame, Headers))
    return dict(headers).get("grpc-previous-rpc-attempts")


# attempts


@in_virtual_time
async def test_a_call_is_made_again_until_it_succeeds():
    async with playing(patience=LONG, retry=RetryPolicy(initial_backoff=10, max_backoff=15)) as played:
        call = played.call("hello")
        peer = await played.accept()
        times = []
        for number in range(3):
            await fail(peer, 1 + 2 * number)
            times.append(anyio.current_time())
        await echo(peer, 7)
        times.append(anyio.current_time())
        assert await call.answer() == "hello"
        assert [previous_attempts(peer, stream_id) for stream_id in (1, 3, 5, 7)] == [None, "1", "2", "3"]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        for pause, middle in zip(pauses, [10, 15, 15], strict=True):
            assert 0.8 * middle <= pause <= 1.2 * middle + 0.1


async def test_the_last_failure_is_the_calls():
    async with playing(retry=RetryPolicy(max_attempts=2, initial_backoff=0.001)) as played:
        with response_metadata() as seen:
            call = played.call()
            await turns()
        peer = await played.accept()
        await fail(peer, 1, UNAVAILABLE, ("attempt", "first"))
        await fail(peer, 3, UNAVAILABLE, ("attempt", "last"))
        assert await call.status() is UNAVAILABLE
        await turns()
        assert not peer.of(5)
        assert seen.trailing.getall("attempt") == ["last"]


async def test_other_statuses_and_other_methods_are_not_retried():
    methods = {"test.Script/Unary": MethodConfig()}
    for options, status in (({"retry": SOON}, Status.INTERNAL), ({"retry": SOON, "methods": methods}, UNAVAILABLE)):
        async with playing(**options) as played:
            call = played.call()
            peer = await played.accept()
            await fail(peer, 1, status)
            assert await call.status() is status
            await turns()
            assert not peer.of(3)


@pytest.mark.parametrize("cut", ["lost", "http"])
async def test_calls_that_no_status_has_ended(cut: str):
    async with playing(retry=SOON) as played:
        call = played.call("hello")
        peer = await played.accept()
        await peer.whole(1)
        if cut == "lost":
            await peer.transport.aclose()
            peer, stream_id = await played.accept(), 1
        else:
            # of a proxy, whose text is not waited for
            await peer.send(peer.make.headers(1, [(":status", "503"), ("content-type", "text/html")]))
            await peer.until(lambda frame: isinstance(frame, Reset) and frame.stream_id == 1)
            stream_id = 3
        await echo(peer, stream_id)
        assert await call.answer() == "hello"
        assert previous_attempts(peer, stream_id) == "1"


@in_virtual_time
async def test_while_no_server_can_be_reached():
    tried = 0

    async def connect() -> None:
        nonlocal tried
        tried += 1
        raise OSError("nobody")

    options = ChannelOptions(
        retry=RetryPolicy(max_attempts=3, initial_backoff=10, max_backoff=10), initial_backoff=1000, max_backoff=1000
    )
    async with leaving_nothing(LONG), Channel(connect, options=options) as channel:
        began = anyio.current_time()
        with pytest.raises(GRPCError, match="nobody"):
            await ScriptStub(channel).unary(Note())
        assert 16 <= anyio.current_time() - began <= 24.1
        assert tried == 1  # that has a backoff of its own


@in_virtual_time
async def test_refusals_do_not_count():
    async with playing(patience=LONG, retry=RetryPolicy(max_attempts=2)) as played:
        call = played.call("x")
        peer = await played.accept()
        for stream_id in range(1, 15, 2):
            await peer.whole(stream_id)
            await peer.send(peer.make.reset(stream_id, ErrorCodes.REFUSED_STREAM))
        await fail(peer, 15)
        await echo(peer, 17)
        assert await call.answer() == "x"
        assert [previous_attempts(peer, stream_id) for stream_id in (15, 17)] == [None, "1"]


@in_virtual_time
async def test_a_server_names_the_pause():
    async with playing(patience=LONG, retry=RetryPolicy(initial_backoff=10)) as played:
        call = played.call()
        peer = await played.accept()
        await fail(peer, 1, UNAVAILABLE, ("grpc-retry-pushback-ms", "500000"))
        began = anyio.current_time()
        await echo(peer, 3)
        assert await call.status() is Status.OK
        assert 500 <= anyio.current_time() - began <= 501


async def test_a_server_forbids_a_retry():
    async with playing(retry=SOON) as played:
        call = played.call()
        peer = await played.accept()
        await fail(peer, 1, UNAVAILABLE, ("grpc-retry-pushback-ms", "-1"))
        assert await call.status() is UNAVAILABLE


@pytest.mark.parametrize(("pushback", "attempts"), [("-1", 1), ("0", 4)])
async def test_a_servicer_of_ours_says_when_to_retry(pushback: str, attempts: int):
    made = 0

    class Busy(ScriptBase):
        async def unary(self, note: Note) -> Note:
            nonlocal made
            made += 1
            current_call().set_trailing_metadata([("grpc-retry-pushback-ms", pushback)])
            raise GRPCError(UNAVAILABLE, "busy")

    options = ChannelOptions(retry=LATE)
    async with leaving_nothing(), anyio.create_task_group() as tasks, MemoryListener() as listener:
        tasks.start_soon(Server([Busy()]).serve, listener)
        async with Channel(listener.connect, options=options) as channel:
            with pytest.raises(GRPCError, match="busy"):
                await ScriptStub(channel).unary(Note())
        tasks.cancel_scope.cancel()
    assert made == attempts


async def test_a_channel_whose_calls_fail_retries_no_more_until_some_succeed():
    made = 0

    async def serve(peer: RawPeer) -> None:
        nonlocal made
        for stream_id in range(1, 1000, 2):
            frames = await peer.whole(stream_id)
            made += 1
            if b"good" in frames[1].data:
                await answer(peer, stream_id)
            else:
                await fail(peer, stream_id)

    throttling = RetryThrottling(max_tokens=4, token_ratio=1)
    async with playing(retry=SOON, retry_throttling=throttling) as played:
        played.tasks.start_soon(serve, await played.connected())
        for text, attempts in [("bad", 2), ("bad", 1), *[("good", 1)] * 4, ("bad", 2)]:
            made = 0
            call = played.call(text)
            assert await call.status() is (Status.OK if text == "good" else UNAVAILABLE)
            assert made == attempts


# what commits a call


async def test_a_response_that_has_begun_is_not_retried():
    async with playing(retry=SOON) as played:
        call = played.call()
        peer = await played.accept()
        await peer.whole(1)
        await peer.send(peer.make.headers(1, RESPONSE))
        await peer.send(peer.make.headers(1, [("grpc-status", "14")], end_stream=True))
        assert await call.status() is UNAVAILABLE
        await turns()
        assert not peer.of(3)


@pytest.mark.parametrize(("size", "attempts"), [(90, 2), (100, 1)])
async def test_a_request_that_does_not_fit_into_the_buffer_is_not_retried(size: int, attempts: int):
    async with playing(retry=SOON, retry_buffer_size=100) as played:
        call = played.call("x" * size)
        peer = await played.accept()
        await peer.whole(1)
        await fail(peer, 1)
        if attempts == 2:
            await echo(peer, 3)
        assert (await call.status() is Status.OK) == (attempts == 2)


# time


@in_virtual_time
async def test_the_deadline_is_that_of_all_attempts():
    async with playing(patience=LONG, retry=LATE) as played:
        began = anyio.current_time()
        call = played.call(timeout=100)
        peer = await played.accept()
        await fail(peer, 1)
        assert await call.status() is Status.DEADLINE_EXCEEDED
        assert anyio.current_time() - began < 101


async def test_other_calls_go_on_in_the_pause():
    async with playing(retry=LATE) as played:
        waiting = played.call("late")
        peer = await played.accept({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        await fail(peer, 1)
        await turns()
        other = played.call("other")
        await echo(peer, 3)
        assert await other.answer() == "other"
        assert not waiting.ended.is_set()


async def test_closing_the_channel_ends_the_pause():
    async with playing(retry=LATE) as played:
        call = played.call()
        peer = await played.accept()
        await fail(peer, 1)
        await turns()
        played.channel.close()
        assert await call.status() is UNAVAILABLE
        assert "the channel was closed" in str(call.error)


async def test_closing_the_channel_ends_the_pause_before_the_first_attempt():
    async def connect() -> None:
        raise OSError("nobody")

    failed = []
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        async with Channel(connect, options=ChannelOptions(retry=LATE)) as channel:

            async def call() -> None:
                with pytest.raises(GRPCError, match="the channel was closed"):
                    await ScriptStub(channel).unary(Note())
                failed.append(True)

            tasks.start_soon(call)
            await eventually(lambda: channel.state is ChannelState.TRANSIENT_FAILURE)
            await turns()
        await eventually(lambda: failed == [True])


async def test_cancelling_the_call_ends_the_pause():
    async with (
        playing(retry=LATE) as played,
        played.channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream,
    ):
        peer = await played.connected()
        await stream.send_message(Note("x"))
        await fail(peer, 1)
        failed = []

        async def receive() -> None:
            with pytest.raises(GRPCError) as raised:
                await stream.recv_message()
            failed.append(raised.value.status)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await turns()
            await stream.cancel()
        assert failed == [Status.CANCELLED]
        assert not peer.of(3)


async def test_a_receiver_that_is_cancelled_in_the_pause_leaves_the_retry_to_the_next():
    policy = RetryPolicy(max_attempts=2, initial_backoff=0.001)
    async with (
        playing(retry=policy) as played,
        played.channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream,
    ):
        peer = await played.connected()
        await stream.send_message(Note("x"), end=True)
        await fail(peer, 1)
        await turns()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.recv_message()
        played.tasks.start_soon(echo, peer, 3)
        assert await stream.recv_message() == Note("x")


# streams


async def served(played: Played, *texts: str) -> None:
    """Fail a call after each of these was received, and answer it with all of them at last."""
    peer = await played.accept()
    for number, text in enumerate(texts):
        while text.encode() not in b"".join(frame.data for frame in peer.of(1 + 2 * number) if isinstance(frame, Data)):
            seen = len(peer.seen)
            await peer.until(lambda frame, seen=seen: frame in peer.seen[seen:])
        await fail(peer, 1 + 2 * number)
    stream_id = 1 + 2 * len(texts)
    frames = await peer.whole(stream_id)
    data = b"".join(frame.data for frame in frames if isinstance(frame, Data))
    notes = []
    while data:
        size = 5 + int.from_bytes(data[1:5], "big")
        notes.append(data[5:size].decode())
        data = data[size:]
    await answer(peer, stream_id, "+".join(notes))


async def client_streaming(stub: ScriptStub, notes: list[Note]) -> str:
    return (await stub.client_streaming(notes)).text


async def bidi(stub: ScriptStub, notes: list[Note]) -> str:
    async with aclosing(stub.bidi(notes)) as answers:
        return "".join([note.text async for note in answers])


@pytest.mark.parametrize("call", [client_streaming, bidi])
async def test_a_stream_of_requests_is_sent_again(call):
    async with playing(retry=SOON) as played:
        played.tasks.start_soon(served, played, "a", "c", "b")
        assert await call(ScriptStub(played.channel), [Note("a"), Note("b"), Note("c")]) == "a+b+c"


@pytest.mark.parametrize("call", [client_streaming, bidi])
async def test_what_is_sent_between_a_failure_and_the_retry_is_not_lost(call):
    """The messages come one by one, and the call fails after the first."""
    async with playing(retry=SOON) as played:

        async def notes():
            yield Note("a")
            await eventually(lambda: 1 not in connection.streams or connection.streams[1].is_complete)
            yield Note("b")
            await turns()
            yield Note("c")

        played.tasks.start_soon(served, played, "a")
        await played.channel.wait_until_ready()
        connection = played.channel._policy.pick()
        assert await call(ScriptStub(played.channel), notes()) == "a+b+c"


async def test_a_sender_stops_when_the_last_attempt_has_failed():
    """Though its messages would never end."""
    async with playing(retry=RetryPolicy(max_attempts=2, initial_backoff=0.001)) as played:

        async def forever():
            while True:
                yield Note("")
                await anyio.sleep(0.001)

        async def serve() -> None:
            peer = await played.accept()
            await fail(peer, 1)
            await fail(peer, 3)

        played.tasks.start_soon(serve)
        with pytest.raises(GRPCError) as raised:
            await ScriptStub(played.channel).client_streaming(forever())
        assert raised.value.status is UNAVAILABLE


async def test_a_stream_of_responses_that_has_not_begun_is_made_again():
    async with playing(retry=SOON) as played:

        async def serve() -> None:
            peer = await played.accept()
            await fail(peer, 1)
            await peer.whole(3)
            await peer.send(peer.make.headers(3, RESPONSE), peer.make.message(3, b"one"), peer.make.message(3, b"two"))
            await peer.send(peer.make.headers(3, OK, end_stream=True))

        played.tasks.start_soon(serve)
        async with aclosing(ScriptStub(played.channel).server_streaming(Note("x"))) as notes:
            assert [note.text async for note in notes] == ["one", "two"]


# other settings of methods


@in_virtual_time
async def test_a_methods_time_limit_holds_unless_the_callers_is_shorter():
    methods = {"test.Script": MethodConfig(timeout=50)}
    async with playing(patience=LONG, methods=methods) as played:
        await played.connected()
        for timeout, limit in ((None, 50), (100, 50), (10, 10)):
            began = anyio.current_time()
            call = played.call(timeout=timeout)
            assert await call.status() is Status.DEADLINE_EXCEEDED
            assert abs(anyio.current_time() - began - limit) < 1


async def test_whether_a_methods_calls_wait_for_a_server():
    async def connect() -> None:
        raise OSError("nobody")

    for wait, status in ((True, Status.DEADLINE_EXCEEDED), (False, UNAVAILABLE)):
        options = ChannelOptions(wait_for_ready=not wait, methods={"": MethodConfig(wait_for_ready=wait)})
        async with leaving_nothing(), Channel(connect, options=options) as channel:
            with pytest.raises(GRPCError) as raised:
                await ScriptStub(channel).unary(Note(), timeout=0.05)
            assert raised.value.status is status
