"""Calls that no server has seen are made again (gRFC A6), and others never."""

from __future__ import annotations

import anyio
import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectrio.rpc._grpc import decode_timeout
from rpc.kit.frames import Data, Headers
from rpc.kit.playing import OK, RESPONSE, UnreadServer, answer, echo, playing
from rpc.kit.raw import RawPeer
from rpc.kit.script import BIDI, CLIENT_STREAMING, UNARY, Note, ScriptStub
from rpc.kit.serving import eventually, turns
from rpc.kit.virtual_time import LONG, in_virtual_time

LARGE = "x" * 200_000


async def refuse(peer: RawPeer, stream_id: int) -> None:
    """Accept a call, then refuse it."""
    await peer.whole(stream_id)
    await peer.send(peer.make.reset(stream_id, ErrorCodes.REFUSED_STREAM))


# unary calls


@pytest.mark.parametrize("text", ["", "hello", LARGE], ids=["empty", "small", "large"])
async def test_a_refused_call_is_made_again_on_the_same_connection(text: str):
    async with playing() as played:
        call = played.call(text)
        peer = await played.accept()
        await refuse(peer, 1)
        await echo(peer, 3)
        assert await call.answer() == text
        assert peer.of(1)[0].headers == peer.of(3)[0].headers
        assert data_of(peer.of(1)) == data_of(peer.of(3))
        assert played.raw.connections == 1


@in_virtual_time
async def test_a_call_that_is_refused_for_ever_ends():
    async with playing(patience=LONG) as played:
        call = played.call()
        peer = await played.accept()
        began = anyio.current_time()
        for number in range(8):
            await refuse(peer, 1 + 2 * number)
        assert await call.status() is Status.UNAVAILABLE
        assert "REFUSED_STREAM" in str(call.error)
        assert 0.3 < anyio.current_time() - began < 1
        await anyio.sleep(10)
        assert not peer.of(17)


@in_virtual_time
async def test_a_call_that_waits_after_a_refusal_holds_up_no_other():
    async with playing(patience=LONG) as played:
        refused = played.call("refused")
        peer = await played.accept({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        for stream_id in (1, 3):
            await refuse(peer, stream_id)
        other = played.call("other")
        await echo(peer, 5)
        assert await other.answer() == "other"
        await echo(peer, 7)
        assert await refused.answer() == "refused"


@in_virtual_time
async def test_the_deadline_passes_between_refusals():
    async with playing(patience=LONG) as played:
        call = played.call(timeout=0.1)
        peer = await played.accept()
        began = anyio.current_time()
        with anyio.move_on_after(1):
            for number in range(8):
                await refuse(peer, 1 + 2 * number)
        assert await call.status() is Status.DEADLINE_EXCEEDED
        assert anyio.current_time() - began < 1.2


async def test_a_call_above_the_last_of_goaway_moves_to_a_new_connection():
    async with playing() as played:
        seen, unseen = played.call("seen"), None
        first = await played.accept()
        await first.whole(1)
        unseen = played.call("unseen")
        await first.whole(3)
        await first.send(first.make.goaway(1))

        second = await played.accept()
        await echo(second, 1)
        assert await unseen.answer() == "unseen"
        await answer(first, 1, "seen")
        assert await seen.answer() == "seen"


@in_virtual_time
async def test_a_call_that_no_server_wants_to_see_is_unavailable():
    async with playing(patience=LONG) as played:
        call = played.call(wait_for_ready=True)
        for last in range(8):
            peer = await played.accept()
            await peer.whole(1)
            await peer.send(peer.make.goaway(0, reason=b"goodbye %d" % last))
        assert await call.status() is Status.UNAVAILABLE
        assert "goodbye 7" in str(call.error)
        assert played.raw.connections == 8


@in_virtual_time
async def test_a_refusal_and_a_goaway_count_together():
    async with playing(patience=LONG) as played:
        call = played.call(wait_for_ready=True)
        for _ in range(4):
            peer = await played.accept()
            await refuse(peer, 1)
            await peer.whole(3)
            await peer.send(peer.make.goaway(0))
        assert await call.status() is Status.UNAVAILABLE


async def test_a_connection_lost_in_the_middle_of_a_call_is_the_calls_end():
    """The server may have done the work already."""
    async with playing() as played:
        call = played.call()
        peer = await played.accept()
        await peer.whole(1)
        await peer.transport.aclose()
        assert await call.status() is Status.UNAVAILABLE
        assert played.raw.connections == 1


async def test_a_call_that_has_headers_is_not_made_again():
    async with playing() as played:
        call = played.call()
        peer = await played.accept()
        await peer.whole(1)
        await peer.send(peer.make.headers(1, RESPONSE), peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
        assert await call.status() is Status.UNAVAILABLE
        await turns()
        assert not peer.of(3)


async def test_an_informational_response_does_not_commit_the_call():
    async with playing() as played:
        call = played.call("again")
        peer = await played.accept()
        await peer.whole(1)
        await peer.send(peer.make.headers(1, [(":status", "103")]), peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
        await echo(peer, 3)
        assert await call.answer() == "again"


@pytest.mark.parametrize("code", [code for code in ErrorCodes if code is not ErrorCodes.REFUSED_STREAM])
async def test_no_other_reset_is_a_reason_to_try_again(code: ErrorCodes):
    async with playing() as played:
        call = played.call()
        peer = await played.accept()
        await peer.whole(1)
        await peer.send(peer.make.reset(1, code))
        assert await call.status() is not Status.OK
        await turns()
        assert not peer.of(3)


@in_virtual_time
async def test_the_deadline_is_the_same_for_all_attempts():
    async with playing(patience=LONG) as played:
        call = played.call(timeout=10)
        peer = await played.accept()
        await peer.whole(1)
        await anyio.sleep(4)
        await peer.send(peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
        await peer.whole(3)
        timeouts = [decode_timeout(frame["grpc-timeout"]) for frame in peer.seen if isinstance(frame, Headers)]
        assert timeouts == pytest.approx([10, 6], abs=0.1)

        began = anyio.current_time()
        assert await call.status() is Status.DEADLINE_EXCEEDED
        assert anyio.current_time() - began == pytest.approx(6, abs=0.1)


@in_virtual_time
async def test_past_the_deadline_nothing_is_tried_again():
    async with playing(patience=LONG) as played:
        call = played.call(timeout=10)
        peer = await played.accept()
        await peer.whole(1)
        await peer.send(peer.make.goaway(0))
        second = await played.raw.accept_silently()  # and nothing is said on it
        assert await call.status() is Status.DEADLINE_EXCEEDED
        await second.send(second.make.settings({}))
        await turns()
        assert not second.of(1)


async def test_cancelled_while_it_waits_to_be_made_again_it_takes_no_slot():
    async with playing() as played:
        scope = anyio.CancelScope()

        async def cancellable() -> None:
            with scope:
                await ScriptStub(played.channel).unary(Note("first"))

        peer = await played.connected({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        played.tasks.start_soon(cancellable)
        await peer.whole(1)
        second, third = await played.called("second"), await played.called("third")
        await peer.send(peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
        await peer.whole(3)  # the second was first in line
        await turns()
        scope.cancel()
        await answer(peer, 3, "second")
        await echo(peer, 5)
        assert await second.answer() == "second"
        assert await third.answer() == "third"


# calls that never left


async def test_a_call_that_was_not_written_is_made_again_however_often():
    async with playing(UnreadServer, initial_backoff=0.001) as played:
        call = played.call("cold", wait_for_ready=True)
        for _ in range(3):
            peer = await played.accept()
            await turns()
            await peer.transport.aclose()  # without having read a byte
        peer = await played.accept()
        await echo(peer, 1)
        assert await call.answer() == "cold"
        assert played.raw.connections == 4


# streams of requests


def streaming(played, path: str = BIDI, cardinality: Cardinality = Cardinality.STREAM_STREAM):
    return played.channel.request(path, cardinality, Note, Note)


def carries(text: bytes):
    return lambda frame: isinstance(frame, Data) and frame.data.endswith(text)


def data_of(frames) -> bytes:
    return b"".join(frame.data for frame in frames if isinstance(frame, Data))


async def test_all_that_was_streamed_is_sent_again():
    async with playing() as played, streaming(played) as stream:
        peer = await played.connected()
        await stream.send_message(Note("a"))
        await stream.send_message(Note("b"))
        await peer.until(carries(b"b"))
        await peer.send(peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
        await turns()
        await stream.send_message(Note("c"))
        await stream.end()

        assert data_of(await peer.whole(3)) == b"".join(b"\0\0\0\0\1" + text for text in (b"a", b"b", b"c"))
        await peer.send(peer.make.headers(3, RESPONSE), peer.make.message(3, b"done"))
        assert await stream.recv_message() == Note("done")
        await peer.send(peer.make.headers(3, OK, end_stream=True))


async def test_a_stream_that_outgrew_the_buffer_is_not_made_again():
    async with playing(retry_buffer_size=10) as played:
        peer = await played.connected()
        with pytest.raises(GRPCError) as raised:  # noqa: PT012 - where it is raised is the point
            async with streaming(played) as stream:
                await stream.send_message(Note("1234"))
                await stream.send_message(Note("5678"))
                await peer.until(carries(b"5678"))
                await peer.send(peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
        assert raised.value.status is Status.UNAVAILABLE
        assert not peer.of(3)


async def test_the_receiver_repeats_what_the_sender_has_sent():
    """One task waits for the response, the other for something to send."""
    async with playing() as played:
        more = anyio.Event()
        answers = []

        async def questions():
            yield Note("a")
            await more.wait()
            yield Note("b")

        async def ask() -> None:
            async for note in ScriptStub(played.channel).bidi(questions()):
                answers.append(note.text)  # noqa: PERF401 - they come one by one

        first = await played.connected()
        played.tasks.start_soon(ask)
        await first.until(carries(b"a"))
        await first.send(first.make.goaway(0))
        second = await played.accept()
        await second.until(carries(b"a"))
        await second.send(second.make.headers(1, RESPONSE), second.make.message(1, b"A"))
        await eventually(lambda: answers == ["A"])
        more.set()
        await second.whole(1)
        await second.send(second.make.message(1, b"B"), second.make.headers(1, OK, end_stream=True))
        await eventually(lambda: answers == ["A", "B"])


async def test_a_sender_that_waits_for_a_window_begins_again_on_the_next_stream():
    """Cut off in the middle of a message, the message is whole on the other stream."""
    async with playing() as played:
        peer = await played.connected({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        call = played.call(LARGE)
        await peer.until(carries(b"x"))
        await peer.send(peer.make.settings({SettingCodes.INITIAL_WINDOW_SIZE: 1}))
        await peer.send(peer.make.window_update(0, 2**30), peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
        await peer.send(peer.make.settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1}))
        await echo(peer, 3)
        assert await call.answer() == LARGE


@pytest.mark.parametrize("connections", [1, 2])
async def test_two_tasks_that_see_the_refusal_make_the_call_again_once(connections: int):
    """One waits for a window, the other for the response."""
    async with playing() as played, streaming(played) as stream:
        first = await played.connected({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        replies = []

        async def send() -> None:
            await stream.send_message(Note(LARGE), end=True)

        async def receive() -> None:
            replies.append(await stream.recv_message())

        await stream.send_request()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(receive)
            await first.until(carries(b"x"))
            if connections == 1:
                await first.send(first.make.settings({SettingCodes.INITIAL_WINDOW_SIZE: 1}))
                await first.send(first.make.window_update(0, 2**30))
                await first.send(first.make.reset(1, ErrorCodes.REFUSED_STREAM))
                await first.send(first.make.settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1}))
                peer, stream_id = first, 3
            else:
                await first.send(first.make.goaway(0))
                peer, stream_id = await played.accept(), 1
            await echo(peer, stream_id)
        assert replies == [Note(LARGE)]
        await turns()
        assert len([frame for frame in peer.seen if isinstance(frame, Headers)]) == (2 if connections == 1 else 1)


async def test_what_must_wait_is_replayed_while_the_response_is_read():
    """The server answers before it takes the rest; the call must not wait for that."""
    async with playing() as played, streaming(played) as stream:
        first = await played.connected()
        await stream.send_message(Note("x" * 50_000))
        await first.until(carries(b"x"))
        await first.send(first.make.goaway(0))

        received = []

        async def receive() -> None:
            received.append(await stream.recv_message())

        played.tasks.start_soon(receive)
        second = await played.accept({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        await second.until(carries(b"x"))
        await second.send(second.make.headers(1, RESPONSE), second.make.message(1, b"early"))
        await eventually(lambda: received == [Note("early")])
        await second.send(second.make.window_update(1, 100_000))
        await second.until(lambda frame: len(data_of(second.of(1))) == 50_005)
        await second.send(second.make.headers(1, OK, end_stream=True))


async def test_ended_without_a_message_it_is_ended_again():
    async with playing() as played, streaming(played, CLIENT_STREAMING, Cardinality.STREAM_UNARY) as stream:
        peer = await played.connected()
        await stream.send_request(end=True)
        assert [type(frame) for frame in await peer.whole(1)] == [Headers, Data], "gRPC wants an empty DATA frame"
        await peer.send(peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
        received = []

        async def receive() -> None:
            received.append(await stream.recv_message())

        played.tasks.start_soon(receive)
        assert await peer.whole(3) == [Headers(3, peer.of(1)[0].headers), Data(3, b"", end_stream=True)]
        await answer(peer, 3, "none")
        await eventually(lambda: received == [Note("none")])


async def test_a_receiver_that_is_cancelled_leaves_the_repetition_to_the_next():
    async with playing() as played, streaming(played, UNARY, Cardinality.UNARY_UNARY) as stream:
        first = await played.connected()
        await stream.send_message(Note("patient"))
        await first.whole(1)
        await first.send(first.make.goaway(0))
        async with anyio.create_task_group() as impatient:
            impatient.start_soon(stream.recv_message)
            second = await played.raw.accept_silently()
            await turns()
            impatient.cancel_scope.cancel()  # it waits for a connection on which nothing is said
        await second.send(second.make.settings({}), second.make.settings_ack())
        played.tasks.start_soon(echo, second, 1)
        assert await stream.recv_message() == Note("patient")


async def test_a_call_that_was_cancelled_is_not_made_again():
    async with playing() as played, streaming(played) as stream:
        peer = await played.connected()
        await stream.send_message(Note("a"))
        await peer.until(carries(b"a"))
        await peer.send(peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
        await turns()
        await stream.cancel()
        with pytest.raises(GRPCError) as raised:
            await stream.send_message(Note("b"))
        assert raised.value.status is Status.CANCELLED
        await turns()
        assert not peer.of(3)


async def test_a_call_that_was_cancelled_stays_so_when_no_connection_can_be_had_to_repeat_it():
    async with playing() as played, streaming(played, UNARY, Cardinality.UNARY_UNARY) as stream:
        first = await played.connected()
        failed = []

        async def receive() -> None:
            with pytest.raises(GRPCError) as raised:
                await stream.recv_message()
            failed.append((raised.value.status, raised.value.__cause__))

        await stream.send_message(Note())
        await first.whole(1)
        await first.send(first.make.goaway(0))
        played.tasks.start_soon(receive)
        second = await played.raw.accept_silently()
        await turns()
        await stream.cancel()
        await second.transport.aclose()
        await eventually(lambda: failed)
        [(status, cause)] = failed
        assert status is Status.CANCELLED
        assert isinstance(cause, GRPCError)
        assert cause.status is Status.UNAVAILABLE


async def test_a_call_that_is_left_while_another_task_repeats_it_leaves_no_stream_behind():
    async with playing() as played:
        peer = await played.connected({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        failed = []
        async with streaming(played) as stream:

            async def send() -> None:
                try:
                    await stream.send_message(Note("b"))
                except GRPCError as error:
                    failed.append(error.status)

            await stream.send_message(Note("a"))
            await peer.until(carries(b"a"))
            other = await played.called("other")
            await peer.send(peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
            await peer.whole(3)
            played.tasks.start_soon(send)
            await turns()
            stream.abandon()
        await answer(peer, 3, "other")
        assert await other.answer() == "other"
        await eventually(lambda: failed == [Status.CANCELLED])
        assert not played.channel._policy.is_busy
