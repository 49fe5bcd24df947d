"""Calls beyond what the server allows at once, the server's goodbyes, and other limits of a connection."""

from __future__ import annotations

import anyio
import pytest
from grpclib.const import Cardinality, Status
from h2.settings import SettingCodes

from connectrio.rpc import ChannelState, GRPCError
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc.options import ChannelOptions
from rpc.kit.core import ClientCore
from rpc.kit.frames import Headers, request_headers
from rpc.kit.playing import OK, RESPONSE, answer, echo, playing
from rpc.kit.script import BIDI, Note, ScriptStub
from rpc.kit.serving import turns
from rpc.kit.virtual_time import LONG, in_virtual_time

ONE = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}


def requests(peer) -> list[int]:
    return [frame.stream_id for frame in peer.seen if isinstance(frame, Headers)]


# the queue


async def test_calls_beyond_the_limit_wait_in_order():
    async with playing() as played:
        peer = await played.connected(ONE)
        calls = [await played.called(str(number)) for number in range(10)]
        for number in range(10):
            frames = await peer.whole(1 + 2 * number)
            assert requests(peer) == [1 + 2 * earlier for earlier in range(number + 1)]
            assert frames[1].data.endswith(str(number).encode())
            await answer(peer, 1 + 2 * number, str(number))
        assert [await call.answer() for call in calls] == [str(number) for number in range(10)]


async def test_calls_that_connect_together_go_out_in_order():
    async with playing() as played:
        calls = [await played.called(str(number)) for number in range(10)]
        peer = await played.accept()
        for number in range(10):
            frames = await peer.whole(1 + 2 * number)
            assert frames[1].data.endswith(str(number).encode())
            await answer(peer, 1 + 2 * number)
        for call in calls:
            assert await call.status() is Status.OK


async def test_more_streams_when_the_server_allows_more():
    async with playing() as played:
        peer = await played.connected(ONE)
        for _ in range(4):
            await played.called()
        await peer.whole(1)
        await peer.send(peer.make.settings({SettingCodes.MAX_CONCURRENT_STREAMS: 3}))
        await peer.whole(5)
        await turns()
        await peer.send(peer.make.ping())
        assert requests(peer) == [1, 3, 5]


async def test_fewer_when_it_allows_fewer():
    async with playing() as played:
        peer = await played.connected({SettingCodes.MAX_CONCURRENT_STREAMS: 3})
        for _ in range(3):
            await played.called()
        await peer.whole(5)
        await peer.send(peer.make.settings(ONE))
        late = await played.called("late")
        for stream_id in 1, 3:
            await answer(peer, stream_id)
            await turns()
        assert requests(peer) == [1, 3, 5]
        await answer(peer, 5)
        await echo(peer, 7)
        assert await late.answer() == "late"


async def test_none_at_all_is_a_limit_too():
    async with playing() as played:
        peer = await played.connected({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
        call = await played.called("patience")
        assert requests(peer) == []
        await peer.send(peer.make.settings(ONE))
        await echo(peer, 1)
        assert await call.answer() == "patience"


@in_virtual_time
async def test_who_waits_in_line_waits_no_longer_than_its_deadline():
    async with playing(patience=LONG) as played:
        peer = await played.connected(ONE)
        running = await played.called("running")
        hurried, patient = played.call(timeout=10), await played.called("patient")
        assert await hurried.status() is Status.DEADLINE_EXCEEDED
        await echo(peer, 1)
        await echo(peer, 3)
        assert await running.answer() == "running"
        assert await patient.answer() == "patient"
        assert requests(peer) == [1, 3], "who gave up never asked"


async def test_a_call_that_is_over_but_not_left_takes_no_slot():
    async with playing() as played:
        peer = await played.connected(ONE)
        async with played.channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream:
            await stream.send_message(Note("a"))
            await peer.until(lambda frame: isinstance(frame, Headers))
            waiting = await played.called("next")
            await peer.send(peer.make.headers(1, RESPONSE + OK, end_stream=True))
            await stream.recv_trailing_metadata()
            await echo(peer, 3)
            assert await waiting.answer() == "next"


async def test_a_call_that_is_cancelled_gives_its_slot_back():
    async with playing() as played:
        peer = await played.connected(ONE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ScriptStub(played.channel).unary, Note())
            await peer.whole(1)
            tasks.cancel_scope.cancel()
        call = await played.called("next")
        await echo(peer, 3)
        assert await call.answer() == "next"


async def test_calls_in_line_move_on_when_the_connection_is_lost():
    async with playing() as played:
        first = await played.connected(ONE)
        running, waiting = await played.called(), await played.called("waiting")
        await first.transport.aclose()
        assert await running.status() is Status.UNAVAILABLE
        await echo(await played.accept(), 1)
        assert await waiting.answer() == "waiting"


# goodbyes


async def test_after_a_goodbye_calls_finish_and_the_next_one_connects_at_once():
    async with playing() as played:
        first = await played.connected()
        old = [await played.called(str(number)) for number in range(3)]
        await first.send(first.make.goaway(2**31 - 1))
        await turns()
        assert played.channel.state is ChannelState.IDLE
        new = played.call("new")
        second = await played.accept()
        await echo(second, 1)
        assert await new.answer() == "new"
        await first.send(first.make.goaway(5))
        for number in range(3):
            await echo(first, 1 + 2 * number)
        assert [await call.answer() for call in old] == ["0", "1", "2"]
        await first.until_closed()
        assert played.channel.state is ChannelState.READY


async def test_goodbyes_can_overtake_each_other():
    """Three connections at once, of which two finish what they have."""
    async with playing(initial_backoff=0.01) as played:
        calls, peers = [], []
        for number in range(3):
            peers.append(await played.connected())
            calls.append(await played.called(str(number)))
            await peers[-1].whole(1)
            await peers[-1].send(peers[-1].make.goaway(1))
            await turns()
        for number in reversed(range(3)):
            await echo(peers[number], 1)
            assert await calls[number].answer() == str(number)
            await peers[number].until_closed()


async def test_a_goodbye_without_calls_is_no_reason_to_connect():
    async with playing() as played:
        peer = await played.connected()
        await peer.send(peer.make.goaway(0))
        await peer.until_closed()
        await turns()
        assert played.raw.connections == 1
        assert played.channel.state is ChannelState.IDLE


async def test_the_reason_of_a_goodbye_is_in_the_error():
    async with playing() as played:
        peer = await played.connected()
        call = await played.called()
        await peer.send(peer.make.goaway(1, 11, b"too much of a good thing"))
        await turns()
        await peer.transport.aclose()
        assert await call.status() is Status.UNAVAILABLE
        assert "ENHANCE_YOUR_CALM too much of a good thing" in str(call.error)


async def test_a_goodbye_with_a_code_that_nobody_knows():
    async with playing() as played:
        peer = await played.connected()
        call = await played.called()
        await peer.send(peer.make.goaway(1, 4242, b"\xff"))
        await turns()
        await peer.transport.aclose()
        assert await call.status() is Status.UNAVAILABLE
        assert "4242" in str(call.error)


# other limits


def test_a_connection_that_has_used_up_its_stream_ids_takes_no_more_calls():
    client = ClientCore()
    client.connection.h2.highest_outbound_stream_id = 2**31 - 5
    client.connection.open(request_headers())
    assert client.connection.can_open()
    last = client.connection.open(request_headers())
    assert last.id == 2**31 - 1
    assert not client.connection.can_open()
    assert client.connection.state is ConnectionState.GOING_AWAY


async def test_calls_go_on_when_the_stream_ids_are_used_up():
    async with playing() as played:
        first = await played.connected()
        played.channel._policy.pick().h2.highest_outbound_stream_id = 2**31 - 3
        last = await played.called("last")
        following = played.call("following")
        await echo(await played.accept(), 1)
        assert await following.answer() == "following"
        await echo(first, 2**31 - 1)
        assert await last.answer() == "last"


async def test_headers_beyond_what_the_server_takes_are_not_sent():
    async with playing() as played:
        peer = await played.connected({SettingCodes.MAX_HEADER_LIST_SIZE: 500})
        too_much = await played.called(metadata={"x-large": "x" * 200})
        assert await too_much.status() is Status.INTERNAL
        assert "the server takes at most 500" in str(too_much.error)
        call = await played.called("small")
        await echo(peer, 1)
        assert await call.answer() == "small"


def test_what_was_not_written_is_not_written_later():
    client = ClientCore()
    stream = client.connection.open(request_headers())
    client.connection.fail("the peer closed the connection")
    assert client.sent() == []
    assert "before the request was sent" in str(stream.termination)


def test_what_was_written_may_have_been_seen():
    client = ClientCore()
    stream = client.connection.open(request_headers())
    client.sent()
    client.connection.fail("the peer closed the connection")
    assert "the connection was lost" in str(stream.termination)


def test_finishing_sends_what_waits():
    client = ClientCore()
    client.connection.open(request_headers())
    client.connection.finish()
    assert [type(frame) for frame in client.sent()] == [Headers]


def test_the_clock_is_read_when_bytes_come():
    now = [10.0]
    connection = ClientConnection(ChannelOptions(), clock=lambda: now[0])
    now[0] = 15.0
    assert connection.heard_at == 10
    connection.feed(b"")
    assert connection.heard_at == 15


async def test_a_status_that_comes_before_the_request_is_whole_ends_the_sending():
    """gRPC over HTTP2, "Early Server Closure": RST_STREAM with NO_ERROR, and nobody waits for a window any more."""
    async with playing() as played:
        peer = await played.connected({SettingCodes.INITIAL_WINDOW_SIZE: 10})
        async with played.channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream:

            async def send() -> None:
                with pytest.raises(GRPCError) as raised:
                    await stream.send_message(Note("x" * 1000))
                assert raised.value.status is Status.RESOURCE_EXHAUSTED

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                await peer.until(lambda frame: isinstance(frame, Headers))
                await peer.send(peer.make.headers(1, [*RESPONSE, ("grpc-status", "8")], end_stream=True))
            with pytest.raises(GRPCError) as raised:
                await stream.recv_message()
            assert raised.value.status is Status.RESOURCE_EXHAUSTED
        frames = await peer.whole(1)
        assert frames[-1].error_code == 0
