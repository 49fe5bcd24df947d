"""The channel's state, as a program sees it."""

from __future__ import annotations

import math

import anyio
import pytest
from grpclib.const import Status

from connectrio.rpc import Channel, ChannelOptions, ChannelState, GRPCError
from rpc.kit.addresses import Names
from rpc.kit.playing import Place, answer, echo, playing, playing_at
from rpc.kit.raw import RawServer
from rpc.kit.serving import leaving_nothing, turns
from rpc.kit.virtual_time import LONG, in_virtual_time

DOWN = ConnectionRefusedError("nobody is there")


class Diary:
    """Record the states that a channel goes through, as a task that watches it sees them."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.states = [channel.state]

    async def keep(self) -> None:
        while self.states[-1] is not ChannelState.SHUTDOWN:
            self.states.append(await self.channel.wait_for_state_change(self.states[-1]))


async def test_the_states_of_a_good_life():
    async with leaving_nothing(), RawServer() as raw, anyio.create_task_group() as tasks:
        channel = Channel(raw.connect, options=ChannelOptions(close_timeout=0.01))
        assert channel.state is ChannelState.IDLE
        diary = Diary(channel)
        async with channel:
            tasks.start_soon(diary.keep)
            await turns()
            assert channel.state is ChannelState.IDLE
            channel.connect()
            await turns()
            assert channel.state is ChannelState.CONNECTING
            peer = await raw.accept()
            await channel.wait_until_ready()
            await turns()
            await peer.send(peer.make.goaway(0))
            await channel.wait_for_state_change(ChannelState.READY)
            await turns()
        await turns()
    assert diary.states == [
        ChannelState.IDLE,
        ChannelState.CONNECTING,
        ChannelState.READY,
        ChannelState.IDLE,
        ChannelState.SHUTDOWN,
    ]


@in_virtual_time
async def test_the_states_of_a_bad_one():
    place = Place(error=DOWN)
    async with playing_at(Names(place)) as played:
        diary = Diary(played.channel)
        played.tasks.start_soon(diary.keep)
        await turns()
        played.channel.connect()
        await anyio.sleep(100)
        assert played.channel.error == "cannot connect to connectors.test: place: nobody is there"
        place.error = None
        await played.accept()
        await played.channel.wait_until_ready()
        assert played.channel.error == ""
        await turns()
        # it may be too short for anybody to see that it is connecting
        assert [state for state in diary.states if state is not ChannelState.CONNECTING] == [
            ChannelState.IDLE,
            ChannelState.TRANSIENT_FAILURE,
            ChannelState.READY,
        ]


async def test_waiting_for_a_change_that_has_happened_waits_for_nothing():
    async with playing() as played:
        await played.connected()
        assert await played.channel.wait_for_state_change(ChannelState.IDLE) is ChannelState.READY


async def test_waiting_for_a_closed_channel_waits_for_nothing():
    async with playing() as played:
        channel = played.channel
    assert channel.state is ChannelState.SHUTDOWN
    assert await channel.wait_for_state_change(ChannelState.SHUTDOWN) is ChannelState.SHUTDOWN
    with pytest.raises(RuntimeError, match="async with"):
        channel.connect()
    with pytest.raises(RuntimeError, match="make another"):
        await channel.__aenter__()


async def test_closing_ends_the_wait_for_a_connection():
    failed = []

    async def wait(channel: Channel) -> None:
        try:
            await channel.wait_until_ready()
        except GRPCError as error:
            failed.append(error.status)

    async with (
        leaving_nothing(),
        RawServer() as raw,
        anyio.create_task_group() as tasks,
        Channel(raw.connect) as channel,
    ):
        tasks.start_soon(wait, channel)
        await raw.accept_silently()
    assert failed == [Status.UNAVAILABLE]


@in_virtual_time
async def test_waiting_until_ready_survives_connections_that_are_lost_at_once():
    place = Place()
    async with playing_at(Names(place)) as played:
        ready = anyio.Event()

        async def wait() -> None:
            await played.channel.wait_until_ready()
            ready.set()

        played.tasks.start_soon(wait)
        for _ in range(4):
            peer = await played.raw.accept_silently()
            await peer.transport.aclose()
            await turns()
            assert not ready.is_set()
        await played.accept()
        await ready.wait()


# idleness


@in_virtual_time
async def test_a_channel_without_calls_disconnects_after_a_while():
    async with playing(patience=LONG, idle_timeout=300) as played:
        first = played.call("first")
        peer = await played.accept()
        await echo(peer, 1)
        assert await first.answer() == "first"
        began = anyio.current_time()
        assert await played.channel.wait_for_state_change(ChannelState.READY) is ChannelState.IDLE
        assert anyio.current_time() - began == pytest.approx(300, abs=0.1)
        await peer.until_closed()

        second = played.call("second")
        await echo(await played.accept(), 1)
        assert await second.answer() == "second"


@in_virtual_time
async def test_a_channel_with_calls_is_not_idle_however_long_they_take():
    async with playing(patience=LONG, idle_timeout=300) as played:
        peer = await played.connected()
        slow = await played.called()
        await anyio.sleep(10_000)
        assert played.channel.state is ChannelState.READY
        await answer(peer, 1)
        assert await slow.answer() == ""
        await anyio.sleep(290)
        assert played.channel.state is ChannelState.READY
        await played.called()
        await answer(peer, 3)
        await anyio.sleep(290)
        assert played.channel.state is ChannelState.READY
        await anyio.sleep(20)
        assert played.channel.state is ChannelState.IDLE


@in_virtual_time
async def test_a_channel_without_calls_stops_trying_to_connect():
    place = Place(error=DOWN)
    async with playing_at(Names(place), idle_timeout=300) as played:
        assert await played.call().status() is Status.UNAVAILABLE
        await anyio.sleep(301)
        assert played.channel.state is ChannelState.IDLE
        tried = len(place.tried)
        await anyio.sleep(1000)
        assert len(place.tried) == tried


@in_virtual_time
async def test_rest_does_not_shorten_the_pause_between_attempts():
    place = Place(error=DOWN)
    async with playing_at(Names(place), idle_timeout=5, initial_backoff=100) as played:
        assert await played.call().status() is Status.UNAVAILABLE
        await anyio.sleep(6)
        assert played.channel.state is ChannelState.IDLE
        call = played.call()
        assert await call.status() is Status.UNAVAILABLE
        assert "nobody is there" in str(call.error)
        assert len(place.tried) == 1


@in_virtual_time
async def test_a_channel_that_rests_early_connects_again_at_once():
    place = Place()
    async with playing_at(Names(place), idle_timeout=0.1) as played:
        for number in range(5):
            call = played.call(str(number))
            await echo(await played.accept(), 1)
            assert await call.answer() == str(number)
            assert await played.channel.wait_for_state_change(ChannelState.READY) is ChannelState.IDLE
        assert place.tried[-1] - place.tried[0] < 1


@in_virtual_time
async def test_a_call_that_waits_for_the_server_is_a_call():
    place = Place(error=DOWN)
    async with playing_at(Names(place), idle_timeout=300) as played:
        patient = await played.called(wait_for_ready=True)
        await anyio.sleep(1000)
        assert played.channel.state is ChannelState.TRANSIENT_FAILURE
        place.error = None
        await echo(await played.accept(), 1)
        assert await patient.answer() == ""


@in_virtual_time
@pytest.mark.parametrize("load_balancing", ["pick_first", "round_robin"])
async def test_idle_is_idle_with_every_policy(load_balancing):
    place = Place()
    async with playing_at(Names(place), idle_timeout=300, load_balancing=load_balancing) as played:
        await played.connected()
        await anyio.sleep(1000)
        assert played.channel.state is ChannelState.IDLE
        assert len(place.tried) == 1
        call = played.call("on")
        await echo(await played.accept(), 1)
        assert await call.answer() == "on"


def test_channels_never_rest_by_default():
    assert ChannelOptions().idle_timeout == math.inf


@in_virtual_time
async def test_waiting_for_a_connection_goes_on_when_the_channel_has_come_to_rest():
    """No call is running, so it gives a server up that says nothing."""
    options = ChannelOptions(idle_timeout=5, connect_timeout=LONG, close_timeout=0.01)
    async with leaving_nothing(), RawServer() as raw, Channel(raw.connect, options=options) as channel:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.wait_until_ready)
            await raw.accept_silently()
            await raw.accept()
        assert channel.state is ChannelState.READY
    assert raw.connections == 2
