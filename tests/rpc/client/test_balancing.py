"""Calls that are dealt out over several addresses."""

from __future__ import annotations

import anyio
import pytest
from grpclib.const import Status
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectrio.rpc import Channel, ChannelOptions, ChannelState, Server
from rpc.kit.addresses import Names
from rpc.kit.playing import Place, echo, playing_at
from rpc.kit.raw import RawPeer
from rpc.kit.script import Note, Script, ScriptStub
from rpc.kit.serving import eventually, leaving_nothing, listening, turns
from rpc.kit.virtual_time import in_virtual_time

DOWN = ConnectionRefusedError("nobody is there")
ROUND_ROBIN = {"load_balancing": "round_robin"}


async def serve(place: Place, served: list[str], settings=None) -> None:
    """Echo every call at `place`, on connection after connection, and note who did."""

    async def serve_connection(peer: RawPeer) -> None:
        stream_id = 1
        try:
            while True:
                await echo(peer, stream_id)
                served.append(place.name)
                stream_id += 2
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass

    async with anyio.create_task_group() as tasks:
        while True:
            tasks.start_soon(serve_connection, await (place.accept() if settings is None else place.accept(settings)))


def three() -> list[Place]:
    return [Place(name) for name in "abc"]


def two() -> list[Place]:
    return [Place(name) for name in "ab"]


@in_virtual_time
async def test_calls_take_turns():
    places, served = three(), []
    async with playing_at(Names(*places), **ROUND_ROBIN) as played:
        for place in places:
            played.tasks.start_soon(serve, place, served)
        await played.channel.wait_until_ready()
        await turns()
        for number in range(9):
            assert await played.call(str(number)).answer() == str(number)
    assert {tuple(served[start : start + 3]) for start in (0, 3, 6)} == {tuple(served[:3])}
    assert sorted(served[:3]) == ["a", "b", "c"]


@in_virtual_time
async def test_whoever_is_not_there_has_no_turn():
    places, served = three(), []
    places[1].error = DOWN
    async with playing_at(Names(*places), **ROUND_ROBIN) as played:
        for place in places:
            played.tasks.start_soon(serve, place, served)
        await played.channel.wait_until_ready()
        await turns()
        for _ in range(10):
            assert await played.call().status() is Status.OK
        assert sorted(served) == ["a"] * 5 + ["c"] * 5

        served.clear()
        places[1].error = None
        await anyio.sleep(200)  # it reconnects in the background
        for _ in range(9):
            assert await played.call().status() is Status.OK
        assert sorted(served) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


@in_virtual_time
async def test_calls_wait_while_some_connect_and_fail_when_all_have_failed():
    places = three()
    places[0].error = places[1].error = DOWN
    async with playing_at(Names(*places), **ROUND_ROBIN, connect_timeout=5) as played:
        call = played.call()
        await anyio.sleep(4)
        assert played.channel.state is ChannelState.CONNECTING
        assert await call.status() is Status.UNAVAILABLE
        assert "a: nobody is there; b: nobody is there; c: no answer within 5 seconds" in str(call.error)
        assert played.channel.state is ChannelState.TRANSIENT_FAILURE


@in_virtual_time
async def test_a_lost_connection_comes_back_without_a_call():
    place, served = Place(), []
    async with playing_at(Names(place), **ROUND_ROBIN) as played:
        peer = await played.connected()
        await anyio.sleep(10)
        await peer.transport.aclose()
        await played.accept()
        await played.channel.wait_until_ready()
        assert served == []
        assert played.channel.state is ChannelState.READY


@in_virtual_time
async def test_each_address_has_its_own_backoff():
    steady, flaky = Place("steady"), Place("flaky", DOWN)
    async with playing_at(Names(steady, flaky), **ROUND_ROBIN) as played:
        played.tasks.start_soon(serve, steady, [])
        await played.channel.wait_until_ready()
        await anyio.sleep(60)
        assert len(steady.tried) == 1
        assert 6 <= len(flaky.tried) <= 9


@in_virtual_time
async def test_a_goodbye_is_followed_by_a_new_connection_and_old_calls_finish():
    place = Place()
    async with playing_at(Names(place), **ROUND_ROBIN) as played:
        first = await played.connected()
        old = await played.called("old")
        await first.send(first.make.goaway(1))
        second = await played.accept()
        new = played.call("new")
        await echo(second, 1)
        assert await new.answer() == "new"
        await echo(first, 1)
        assert await old.answer() == "old"
        await first.until_closed()


@in_virtual_time
async def test_a_refused_call_is_made_again_at_another_address():
    places = two()
    async with playing_at(Names(*places), **ROUND_ROBIN) as played:
        played.channel.connect()
        peers = [await place.accept() for place in places]
        await turns()
        call = await played.called("again")
        await peers[0].whole(1)
        await peers[0].send(peers[0].make.reset(1, ErrorCodes.REFUSED_STREAM))
        await echo(peers[1], 1)
        assert await call.answer() == "again"


@in_virtual_time
async def test_calls_go_where_there_is_room():
    places = two()
    async with playing_at(Names(*places), **ROUND_ROBIN) as played:
        played.channel.connect()
        small = await places[0].accept({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        large = await places[1].accept({SettingCodes.MAX_CONCURRENT_STREAMS: 3})
        await turns()
        calls = [await played.called(str(number)) for number in range(6)]
        await small.whole(1)
        for stream_id in 1, 3, 5:
            await large.whole(stream_id)
        await echo(small, 1)
        await small.whole(3)
        await echo(large, 1)
        await large.whole(7)
        await echo(small, 3)
        for stream_id in 3, 5, 7:
            await echo(large, stream_id)
        assert [await call.answer() for call in calls] == list("012345")


# names that change


@in_virtual_time
async def test_a_failure_makes_the_name_be_resolved_again_but_not_too_often():
    stays, old, new = three()
    names = Names(stays, old)
    async with stays, new, playing_at(names, **ROUND_ROBIN, resolution_interval=30) as played:
        served: list[str] = []
        played.tasks.start_soon(serve, stays, served)
        played.tasks.start_soon(serve, new, served)
        played.channel.connect()
        peer = await old.accept()
        await anyio.sleep(10)
        names.addresses = [stays, new]
        old.error = DOWN
        await peer.transport.aclose()
        await anyio.sleep(19.5)
        assert len(names.asked) == 1, "another address answers, so there is no hurry"
        await anyio.sleep(1)
        for number in range(4):
            assert await played.call(str(number)).answer() == str(number)
        assert sorted(served) == ["a", "a", "c", "c"]
        assert names.asked[1] - names.asked[0] == pytest.approx(30, abs=0.1)
        tried = len(old.tried)
        await anyio.sleep(1000)
        assert len(old.tried) == tried, "an address that is gone is left alone"
        assert len(names.asked) == 2


@in_virtual_time
async def test_a_name_is_resolved_soon_when_none_of_its_addresses_answers():
    """As when all pods of a headless Service were replaced."""
    old, new = Place("old"), Place("new")
    names = Names(old)
    options = {"resolution_interval": 30, "initial_backoff": 1, "backoff_multiplier": 2, "backoff_jitter": 0}
    async with new, playing_at(names, **ROUND_ROBIN, **options) as played:
        served: list[str] = []
        played.tasks.start_soon(serve, new, served)
        peer = await played.connected()
        await anyio.sleep(5)
        old.error = DOWN
        await peer.transport.aclose()
        await anyio.sleep(100)
        pauses = [later - earlier for earlier, later in zip(names.asked, names.asked[1:], strict=False)]
        assert pauses == pytest.approx([5, 2, 4, 8, 16, 30, 30], abs=0.1), "and no more than 30 s later"
        names.addresses = [new]
        assert await played.call("moved", wait_for_ready=True).answer() == "moved"
        assert served == ["new"]
        asked = len(names.asked)
        await anyio.sleep(1000)
        assert len(names.asked) == asked


@in_virtual_time
async def test_an_address_that_is_gone_finishes_its_calls_and_gets_no_more():
    stays, goes, fails = three()
    names = Names(stays, goes, fails)
    async with playing_at(names, **ROUND_ROBIN) as played:
        played.channel.connect()
        peers = {place.name: await place.accept() for place in (stays, goes, fails)}
        await turns()
        calls = [await played.called(str(number)) for number in range(3)]
        names.addresses = [stays]
        fails.error = DOWN
        await peers["c"].transport.aclose()
        await anyio.sleep(60)
        later = await played.called("later")
        await echo(peers["a"], 1)
        await echo(peers["a"], 3)
        await echo(peers["b"], 1)
        assert await later.answer() == "later"
        assert [await call.status() for call in calls].count(Status.OK) == 2
        await peers["b"].until_closed()
        assert len(goes.tried) == 1


@in_virtual_time
async def test_closing_ends_calls_at_addresses_that_are_gone():
    goes, fails = two()
    stays = Place("stays")
    names = Names(goes, fails)
    async with stays, playing_at(names, **ROUND_ROBIN) as played:
        played.channel.connect()
        peer, failing = await goes.accept(), await fails.accept()
        await turns()
        slow = await played.called("slow")
        await peer.whole(1)
        names.addresses = [stays]
        await failing.transport.aclose()
        await stays.accept()
        await turns()
        assert not slow.ended.is_set()
        played.channel._policy.close()
        assert await slow.status() is Status.UNAVAILABLE
        await peer.until_closed()


@in_virtual_time
async def test_a_name_that_cannot_be_resolved_any_more_keeps_its_addresses():
    place = Place()
    names = Names(place)
    async with playing_at(names, **ROUND_ROBIN) as played:
        peer = await played.connected()
        await anyio.sleep(60)
        names.addresses = OSError("the name server is down")
        await peer.transport.aclose()
        call = played.call("still here", wait_for_ready=True)
        await echo(await played.accept(), 1)
        assert await call.answer() == "still here"
        await anyio.sleep(600)
        assert 3 < len(names.asked) <= 16, "with backoff"
        assert played.channel.state is ChannelState.READY


@in_virtual_time
async def test_a_name_that_never_could_be_resolved():
    place = Place()
    names = Names(place)
    async with playing_at(names, **ROUND_ROBIN) as played:
        names.addresses = OSError("no such name")
        call = played.call()
        assert await call.status() is Status.UNAVAILABLE
        assert "cannot connect to connectors.test: no such name" in str(call.error)
        names.addresses = []
        await anyio.sleep(2)
        assert "it has no addresses" in str((await failed(played)).error)
        names.addresses = [place]
        patient = played.call("patient", wait_for_ready=True)
        await echo(await played.accept(), 1)
        assert await patient.answer() == "patient"


async def failed(played):
    call = played.call()
    assert await call.status() is Status.UNAVAILABLE
    return call


async def test_closing_ends_everything_at_every_address():
    places = three()
    channel = Channel(places[0].connect, options=ChannelOptions(close_timeout=0.01, **ROUND_ROBIN))
    async with leaving_nothing(), places[0], places[1], places[2]:
        channel._target = type(channel._target)("connectors.test", "connectors.test", Names(*places))
        places[1].error = DOWN
        async with channel:
            channel.connect()
            peer = await places[0].accept()
            await places[2].accept_silently()
            await channel.wait_until_ready()
        await peer.until_closed()


async def test_closing_right_after_connecting():
    for waiting in range(4):
        place = Place()
        channel = Channel(place.connect, options=ChannelOptions(close_timeout=0.01, **ROUND_ROBIN))
        async with leaving_nothing(), place, channel:
            channel.connect()
            await turns(waiting)


def ready(channel: Channel) -> int:
    """Return how many addresses are connected."""
    return sum(subchannel.state is ChannelState.READY for subchannel in channel._policy._rotation)


async def test_three_servers_over_sockets_one_of_which_restarts(held_port: int):
    answered: dict[str, int] = {}

    def named(name: str) -> Script:
        async def reply(stream):
            await stream.recv_message()
            answered[name] = answered.get(name, 0) + 1
            await stream.send_message(Note(name))

        return Script(reply)

    options = ChannelOptions(initial_backoff=0.01, backoff_multiplier=1, resolution_interval=0.01, **ROUND_ROBIN)
    async with leaving_nothing(), listening(Server([named("a")])) as a, listening(Server([named("b")])) as b:
        target = f"ipv4:127.0.0.1:{a},127.0.0.1:{b},127.0.0.1:{held_port}"
        async with Channel(target, options=options) as channel:
            stub = ScriptStub(channel)
            await channel.wait_until_ready()
            while len(answered) < 2:
                await stub.unary(Note())
            async with listening(Server([named("c")]), held_port):
                while len(answered) < 3:
                    await stub.unary(Note())
                    await anyio.sleep(0.001)
            await eventually(lambda: ready(channel) == 2)
            for _ in range(10):
                await stub.unary(Note())
