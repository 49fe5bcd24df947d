"""Connecting, failing to, and trying again; calls meanwhile."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest
from grpclib.const import Status
from h2.settings import SettingCodes

from connectrio.rpc import Channel, ChannelOptions, ChannelState, GRPCError, Server
from rpc.kit.addresses import Names
from rpc.kit.playing import Place, answer, echo, playing, playing_at
from rpc.kit.script import Note, Script, ScriptStub
from rpc.kit.serving import PATIENCE, eventually, leaving_nothing, listening, turns
from rpc.kit.virtual_time import LONG, in_virtual_time

DOWN = ConnectionRefusedError("nobody is there")


def apart(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(moments)]


# attempts


@in_virtual_time
async def test_attempts_are_further_and_further_apart():
    place = Place(error=DOWN)
    async with playing_at(Names(place)) as played:
        assert await played.call().status() is Status.UNAVAILABLE
        await anyio.sleep(3000)
        waits = apart(place.tried)
        assert waits[:5] == pytest.approx([1, 1.6, 2.56, 4.096, 6.5536], abs=0.1)
        assert waits[-5:] == pytest.approx([120] * 5, abs=0.1)


@in_virtual_time
async def test_an_attempt_that_takes_long_delays_the_next_no_further():
    """Pauses count from the start of one attempt to the start of the next."""
    place = Place()
    async with playing_at(Names(place), connect_timeout=2) as played:
        call = played.call()
        await anyio.sleep(20)
        assert await call.status() is Status.UNAVAILABLE
        assert "connectors.test: place: no answer within 2 seconds" in str(call.error)
        assert apart(place.tried)[:4] == pytest.approx([2, 2, 2.56, 4.096], abs=0.1)


@in_virtual_time
async def test_after_a_long_pause_an_attempt_may_take_as_long():
    place = Place(error=DOWN)
    async with playing_at(Names(place), initial_backoff=50) as played:
        assert await played.call().status() is Status.UNAVAILABLE
        place.error = None
        await anyio.sleep(51)
        call = played.call(wait_for_ready=True)
        await anyio.sleep(40)
        peer = await played.accept()
        await echo(peer, 1)
        assert await call.answer() == ""


@in_virtual_time
async def test_success_begins_the_waits_anew():
    place = Place(error=DOWN)
    async with playing_at(Names(place)) as played:
        patient = played.call("patient", wait_for_ready=True)
        await anyio.sleep(100)
        place.error = None
        peer = await played.accept()
        await echo(peer, 1)
        assert await patient.answer() == "patient"

        place.error = DOWN
        place.tried.clear()
        await peer.transport.aclose()
        await turns()
        assert await played.call().status() is Status.UNAVAILABLE
        await anyio.sleep(3)
        assert apart(place.tried)[:2] == pytest.approx([1, 1.6], abs=0.1)


@in_virtual_time
async def test_the_name_is_resolved_for_each_attempt():
    old, new = Place("old", DOWN), Place("new")
    names = Names(old)
    async with new, playing_at(names) as played:
        assert await played.call().status() is Status.UNAVAILABLE
        names.addresses = [new]
        call = played.call(wait_for_ready=True)
        peer = await new.accept()
        await echo(peer, 1)
        assert await call.answer() == ""
        assert len(old.tried) == 1
        assert len(names.asked) == 2


@in_virtual_time
async def test_a_name_that_cannot_be_resolved_is_tried_again():
    place = Place()
    names = Names(place)
    async with playing_at(names) as played:
        names.addresses = OSError("cannot resolve 'connectors.test'")
        call = played.call()
        assert await call.status() is Status.UNAVAILABLE
        assert "cannot connect to connectors.test: cannot resolve" in str(call.error)
        names.addresses = [place]
        patient = played.call("patient", wait_for_ready=True)
        await echo(await played.accept(), 1)
        assert await patient.answer() == "patient"


# servers that are none


@in_virtual_time
async def test_what_takes_connections_and_drops_them_is_not_asked_in_a_circle():
    """One failure to serve is forgiven at once, for servers do restart; then there is backoff."""
    place = Place()
    async with playing_at(Names(place)) as played:
        for _ in range(6):
            await played.called(wait_for_ready=True)
            peer = await played.accept()
            await peer.transport.aclose()
        assert apart(place.tried) == pytest.approx([0, 1.6, 2.56, 4.096, 6.5536], abs=0.1)


@in_virtual_time
async def test_a_connection_that_lived_for_long_was_of_use():
    place = Place()
    async with playing_at(Names(place)) as played:
        for _ in range(5):
            peer = await played.connected()
            await anyio.sleep(10)
            await peer.transport.aclose()
            await turns()
            assert played.channel.state is ChannelState.IDLE
        assert apart(place.tried) == pytest.approx([10] * 4, abs=0.1)


async def test_settings_come_first():
    """Without settings the client does not know how many streams are allowed."""
    async with playing() as played:
        call = await played.called()
        peer = await played.raw.accept_silently()
        await turns()
        assert not peer.of(1)
        await peer.send(peer.make.settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1}))
        await echo(peer, 1)
        assert await call.answer() == ""


# calls meanwhile


@in_virtual_time
async def test_calls_fail_at_once_while_there_is_no_server_and_say_why():
    place = Place(error=DOWN)
    async with playing_at(Names(place)) as played:
        assert await played.call().status() is Status.UNAVAILABLE
        began = anyio.current_time()
        for _ in range(100):
            call = played.call()
            assert await call.status() is Status.UNAVAILABLE
            assert str(call.error) == str(
                GRPCError(Status.UNAVAILABLE, "cannot connect to connectors.test: place: nobody is there")
            )
        assert anyio.current_time() - began < 0.5
        assert len(place.tried) == 1


@in_virtual_time
async def test_calls_fail_as_well_while_another_attempt_is_under_way():
    """An attempt that hangs would keep them all waiting (gRFC A62)."""
    place = Place(error=DOWN)
    async with playing_at(Names(place)) as played:
        assert await played.call().status() is Status.UNAVAILABLE
        place.error = None
        await played.raw.accept_silently()
        assert played.channel.state is ChannelState.TRANSIENT_FAILURE
        assert await played.call().status() is Status.UNAVAILABLE


@in_virtual_time
async def test_calls_that_wait_wait_for_the_server():
    place = Place(error=DOWN)
    async with playing_at(Names(place)) as played:
        calls = [played.call(str(number), wait_for_ready=True) for number in range(3)]
        await anyio.sleep(1000)
        place.error = None
        peer = await played.accept()
        for number in range(3):
            await echo(peer, 1 + 2 * number)
        assert sorted([await call.answer() for call in calls]) == ["0", "1", "2"]


@in_virtual_time
async def test_calls_that_wait_wait_no_longer_than_their_deadline():
    async with playing_at(Names(Place(error=DOWN))) as played:
        began = anyio.current_time()
        call = played.call(wait_for_ready=True, timeout=100)
        assert await call.status() is Status.DEADLINE_EXCEEDED
        assert "nobody is there" in str(call.error)
        assert anyio.current_time() - began == pytest.approx(100, abs=0.1)


@in_virtual_time
async def test_those_that_do_not_wait_are_not_held_up_by_those_that_do():
    async with playing_at(Names(Place(error=DOWN))) as played:
        await played.called(wait_for_ready=True)
        began = anyio.current_time()
        assert await played.call().status() is Status.UNAVAILABLE
        assert anyio.current_time() - began < 0.1


@in_virtual_time
async def test_those_that_do_not_wait_fail_together_whoever_is_first_in_line():
    async with playing_at(Names(Place()), connect_timeout=5) as played:
        patient = await played.called(wait_for_ready=True)
        hasty = [await played.called() for _ in range(3)]
        began = anyio.current_time()
        for call in hasty:
            assert await call.status() is Status.UNAVAILABLE
        assert anyio.current_time() - began == pytest.approx(5, abs=0.1)
        assert not patient.ended.is_set()


@in_virtual_time
async def test_waiting_can_be_the_channels_habit_and_a_calls_exception():
    async with playing_at(Names(Place(error=DOWN)), wait_for_ready=True) as played:
        patient = await played.called()
        assert await played.call(wait_for_ready=False).status() is Status.UNAVAILABLE
        assert not patient.ended.is_set()


@in_virtual_time
@pytest.mark.parametrize("method", ["unary", "server_streaming", "client_streaming", "bidi"])
async def test_stubs_can_wait_for_the_server(method: str):
    place = Place(error=DOWN)
    async with playing_at(Names(place)) as played:
        stub = ScriptStub(played.channel.when_ready)
        message = Note() if method in ("unary", "server_streaming") else [Note()]
        results = []

        async def call() -> None:
            result = getattr(stub, method)(message)
            if method in ("unary", "client_streaming"):
                results.append(await result)
            else:
                results.extend([note async for note in result])

        played.tasks.start_soon(call)
        await anyio.sleep(60)
        place.error = None
        peer = await played.accept()
        await peer.whole(1)
        await answer(peer, 1, "at last")
        await anyio.sleep(1)
        assert results == [Note("at last")]


@in_virtual_time
async def test_cancelled_while_it_waits_for_the_server_the_attempts_go_on():
    place = Place(error=DOWN)
    async with playing_at(Names(place)) as played:
        with anyio.move_on_after(10):
            await ScriptStub(played.channel.when_ready).unary(Note())
        place.error = None
        await played.accept()
        await turns()
        assert played.channel.state is ChannelState.READY


@in_virtual_time
async def test_a_call_that_connects_is_not_failed_by_its_own_attempt_being_slow():
    """Calls fail while TRANSIENT_FAILURE, but not while CONNECTING."""
    async with playing(patience=LONG) as played:
        call = played.call("slow")
        await anyio.sleep(15)
        assert played.channel.state is ChannelState.CONNECTING
        await echo(await played.accept(), 1)
        assert await call.answer() == "slow"


# over sockets


async def test_the_server_is_killed_and_started_again_on_the_same_port(held_port: int):
    options = ChannelOptions(initial_backoff=0.01, backoff_multiplier=1)
    async with leaving_nothing(), Channel(f"127.0.0.1:{held_port}", options=options) as channel:
        patient, hasty = ScriptStub(channel.when_ready), ScriptStub(channel)
        with pytest.raises(GRPCError) as raised:
            await hasty.unary(Note())
        assert raised.value.status is Status.UNAVAILABLE
        assert f"cannot connect to 127.0.0.1:{held_port}" in str(raised.value.message)
        for number in range(5):
            async with listening(Server([Script()]), held_port):
                assert await patient.unary(Note(f"life {number}"), timeout=PATIENCE) == Note(f"life {number}")
                assert await hasty.unary(Note("and again")) == Note("and again")
            await channel.wait_for_state_change(ChannelState.READY)
            assert channel.state is ChannelState.IDLE


async def test_calls_through_restarts_of_the_server_arrive_when_they_wait(held_port: int):
    options = ChannelOptions(initial_backoff=0.005, backoff_multiplier=1, wait_for_ready=True)
    replies = []

    async def caller(stub: ScriptStub) -> None:
        while len(replies) < 200:
            try:
                replies.append((await stub.unary(Note("x"), timeout=PATIENCE)).text)
            except GRPCError as error:
                # cut off in the middle, which a graceful server would not do
                assert error.status is Status.UNAVAILABLE, error  # noqa: PT017 - it may also not happen

    async with (
        leaving_nothing(),
        Channel(f"127.0.0.1:{held_port}", options=options) as channel,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(5):
            tasks.start_soon(caller, ScriptStub(channel))
        while len(replies) < 200:
            async with listening(Server([Script()]), held_port):
                enough = min(len(replies) + 20, 200)
                await eventually(lambda: len(replies) >= enough)  # noqa: B023 - before the next one
    assert set(replies) == {"x"}
