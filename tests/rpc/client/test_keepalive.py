"""Finding out that a server is gone (gRFC A8)."""

from __future__ import annotations

import anyio
import pytest
from grpclib.const import Status
from h2.errors import ErrorCodes

from connectrio.rpc import ChannelState
from connectrio.rpc._client.subchannel import Keepalive
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc.options import ChannelOptions
from rpc.kit.frames import Ping
from rpc.kit.playing import PROMPT, answer, echo, playing
from rpc.kit.raw import RawPeer
from rpc.kit.serving import captured_logs, eventually, turns
from rpc.kit.virtual_time import LONG, in_virtual_time


def pings(peer: RawPeer) -> list[Ping]:
    return [frame for frame in peer.seen if isinstance(frame, Ping) and not frame.ack]


async def read_for(peer: RawPeer, seconds: float, *, acknowledge: bool = True) -> int:
    """Play a server that answers PINGs, or one that does not; return how many PINGs came."""
    before = len(pings(peer))
    with anyio.move_on_after(seconds):
        while True:
            known = len(pings(peer))
            await peer.until(lambda frame: len(pings(peer)) > known)  # noqa: B023 - used in this turn only
            if acknowledge:
                await peer.send(peer.make.ping(pings(peer)[-1].data, ack=True))
    return len(pings(peer)) - before


@in_virtual_time
async def test_nobody_pings_by_default():
    async with playing(patience=LONG) as played:
        peer = await played.connected()
        await played.called()
        assert await read_for(peer, 86_400) == 0


@in_virtual_time
async def test_pings_while_a_call_is_running_and_nothing_comes():
    async with playing(patience=LONG, keepalive_time=60) as played:
        peer = await played.connected()
        call = await played.called()
        assert await read_for(peer, 601) == 10
        await answer(peer, 1)
        assert await call.status() is Status.OK
        assert await read_for(peer, 601) == 0


@in_virtual_time
async def test_any_byte_puts_the_ping_off():
    async with playing(patience=LONG, keepalive_time=60) as played:
        peer = await played.connected()
        await played.called()
        for _ in range(20):
            assert await read_for(peer, 50) == 0
            await peer.send(peer.make.settings({}))
        assert await read_for(peer, 61) == 1


@in_virtual_time
async def test_pings_without_calls_when_told_to():
    async with playing(patience=LONG, keepalive_time=60, keepalive_without_calls=True) as played:
        peer = await played.connected()
        assert await read_for(peer, 601) == 10


@in_virtual_time
async def test_a_call_after_a_long_silence_pings_at_once():
    """So that a dead connection is found within keepalive_timeout, without keepalive_time before it."""
    async with playing(patience=LONG, keepalive_time=60) as played:
        peer = await played.connected()
        assert await read_for(peer, 1000) == 0
        await played.called()
        assert await read_for(peer, 1) == 1


@in_virtual_time
async def test_an_unanswered_ping_ends_the_connection_and_its_calls():
    async with playing(patience=LONG, keepalive_time=60, keepalive_timeout=20) as played:
        peer = await played.connected()
        calls = [await played.called() for _ in range(3)]
        began = anyio.current_time()
        for call in calls:
            assert await call.status() is Status.UNAVAILABLE
            assert "nothing came for 20 seconds after a PING" in str(call.error)
        assert anyio.current_time() - began == pytest.approx(80, abs=0.1)
        await peer.until_closed()
        assert played.channel.state is ChannelState.IDLE

        again = played.call("again")
        await echo(await played.accept(), 1)
        assert await again.answer() == "again"


@in_virtual_time
async def test_any_byte_is_a_sign_of_life():
    async with playing(patience=LONG, keepalive_time=60) as played:
        peer = await played.connected()
        call = await played.called()
        for _ in range(10):
            assert await read_for(peer, 70, acknowledge=False) == 1
            await peer.send(peer.make.window_update(0, 1))
        assert not call.ended.is_set()


@in_virtual_time
async def test_one_that_finishes_its_calls_is_watched_as_well():
    async with playing(patience=LONG, keepalive_time=60) as played:
        peer = await played.connected()
        call = await played.called()
        await peer.send(peer.make.goaway(1))
        assert await read_for(peer, 121) == 2
        await peer.until_closed()
        assert await call.status() is Status.UNAVAILABLE


@in_virtual_time
async def test_too_many_pings_halve_the_rate_of_the_next_connections():
    async with playing(patience=LONG, keepalive_time=60) as played:
        for number, expected in enumerate([60, 120, 240]):
            peer = await played.connected()
            call = await played.called()
            began = anyio.current_time()
            await peer.until(lambda frame: isinstance(frame, Ping))
            assert anyio.current_time() - began == pytest.approx(expected, abs=0.1)
            with captured_logs() as logs:
                await peer.send(peer.make.goaway(1, ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings"))
                await peer.transport.aclose()
                assert await call.status() is Status.UNAVAILABLE
            assert "ENHANCE_YOUR_CALM too_many_pings" in str(call.error), number
            [line] = [line for line in logs if "too many pings" in line["event"]]
            assert line["log_level"] == "warning"
            assert line["keepalive_time"] == expected * 2


@pytest.mark.parametrize(
    ("code", "reason"), [(ErrorCodes.ENHANCE_YOUR_CALM, b"calm"), (ErrorCodes.NO_ERROR, b"too_many_pings")]
)
@in_virtual_time
async def test_other_goodbyes_change_nothing(code: ErrorCodes, reason: bytes):
    async with playing(patience=LONG, keepalive_time=60) as played:
        for _ in range(2):
            peer = await played.connected()
            await played.called()
            assert await read_for(peer, 61) == 1
            await peer.send(peer.make.goaway(1, code, reason))
            await answer(peer, 1)
            await peer.until_closed()


@in_virtual_time
async def test_a_rest_that_is_smaller_than_the_resolution_of_the_clock_passes():
    for number in range(200):
        connection = ClientConnection(ChannelOptions(), clock=anyio.current_time)
        connection.take_output()
        await anyio.sleep(number / 17)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Keepalive(60 + number / 13, LONG, without_calls=True).watch, connection)
            await connection.output_ready.wait()
            tasks.cancel_scope.cancel()


async def test_no_ping_is_answered_twice_and_none_is_lost():
    """h2 answers the server's PINGs, every one."""
    async with playing() as played:
        peer = await played.connected()
        await peer.send(*[peer.make.ping(bytes([number] * 8)) for number in range(10)])
        answers = [Ping(bytes([number] * 8), ack=True) for number in range(10)]
        await peer.until(lambda frame: frame == answers[-1])
        assert [frame for frame in peer.seen if isinstance(frame, Ping)] == answers


async def test_on_every_backend_with_a_short_fuse():
    """The minimum of ten seconds is in the options; `Keepalive` itself has none."""
    options = ChannelOptions(**PROMPT)
    connection = ClientConnection(options, clock=anyio.current_time)
    connection.take_output()
    keepalive = Keepalive(0.01, 0.01, without_calls=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keepalive.watch, connection)
        await eventually(lambda: connection.output_size() > 0)
        connection.feed(b"")
        await eventually(lambda: bool(connection.end_reason))
    assert connection.end_reason == "keepalive: nothing came for 0.01 seconds after a PING"


async def test_cancelled_the_watch_leaves_the_connection_alone():
    connection = ClientConnection(ChannelOptions(), clock=anyio.current_time)
    connection.take_output()
    for time, is_there in ((0.001, lambda: connection.output_size() > 0), (1000, lambda: True)):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Keepalive(time, 1000, without_calls=True).watch, connection)
            await eventually(is_there)  # a PING that nobody answers; the other watch is still asleep
            await turns()
            tasks.cancel_scope.cancel()
    assert connection.state is ConnectionState.OPEN
