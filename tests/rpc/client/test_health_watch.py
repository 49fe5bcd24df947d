"""Calls go to servers that say that they serve (gRFC A17)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from grpclib.const import Cardinality
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse
from connectrio.rpc import Channel, ChannelOptions, ChannelState, GRPCError, Server, Status
from connectrio.rpc.health import Health, ServingStatus
from connectrio.rpc.testing import memory_channel
from rpc.kit.addresses import Names
from rpc.kit.playing import OK, RESPONSE, Place, Played, answer, playing, playing_at, request_on
from rpc.kit.raw import RawPeer
from rpc.kit.script import BIDI, Note, Script, ScriptStub
from rpc.kit.serving import captured_logs, eventually, leaving_nothing, turns
from rpc.kit.virtual_time import LONG, in_virtual_time

CHECKED = {"load_balancing": "round_robin", "health_service": ""}
READY, FAILING = ChannelState.READY, ChannelState.TRANSIENT_FAILURE
WATCH = "/grpc.health.v1.Health/Watch"


@asynccontextmanager
async def checked(health: Health, *, service: str = "", **options) -> AsyncIterator[Channel]:
    """A channel that asks for a service's health."""
    chosen = ChannelOptions(load_balancing="round_robin", health_service=service, **options)
    async with leaving_nothing(), memory_channel(Server([health, Script()]), chosen) as channel:
        yield channel


async def says(peer: RawPeer, stream_id: int, status: ServingStatus) -> None:
    await peer.send(peer.make.message(stream_id, bytes(HealthCheckResponse(status=status))))


async def watched(peer: RawPeer, stream_id: int = 1, status: ServingStatus = ServingStatus.SERVING) -> None:
    """Answer a Watch for the first time."""
    await peer.until(request_on(stream_id))
    assert peer.of(stream_id)[0][":path"] == WATCH
    await peer.send(peer.make.headers(stream_id, RESPONSE))
    await says(peer, stream_id, status)


async def ended(peer: RawPeer, stream_id: int, status: Status) -> None:
    """Answer a Watch with nothing but a status."""
    await peer.until(request_on(stream_id))
    await peer.send(peer.make.headers(stream_id, [*RESPONSE, ("grpc-status", str(status.value))], end_stream=True))


async def test_a_channel_follows_its_servers_health():
    health = Health()
    health.set("", ServingStatus.NOT_SERVING)
    async with checked(health) as channel:
        channel.connect()
        assert await channel.wait_for_state(READY, FAILING) is FAILING
        with pytest.raises(GRPCError, match="the health service says NOT_SERVING") as raised:
            await ScriptStub(channel).unary(Note())
        assert raised.value.status is Status.UNAVAILABLE
        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ScriptStub(channel.when_ready).unary, Note())
                await turns()
                health.set("", ServingStatus.SERVING)
            assert (channel.state, channel.error) == (READY, "")
            health.set("", ServingStatus.NOT_SERVING)
            assert await channel.wait_for_state(FAILING) is FAILING
        assert channel.error


@pytest.mark.parametrize("service", ["known", "unknown"])
async def test_one_service_may_be_asked_for(service: str):
    health = Health()
    health.set("", ServingStatus.SERVING)
    health.set("known", ServingStatus.SERVING)
    async with checked(health, service=service) as channel:
        channel.connect()
        assert await channel.wait_for_state(READY, FAILING) is (READY if service == "known" else FAILING)
        assert ("SERVICE_UNKNOWN" in channel.error) == (service == "unknown")


async def test_running_calls_go_on_when_the_server_stops_serving():
    health = Health()
    health.set("", ServingStatus.SERVING)
    async with (
        checked(health) as channel,
        channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream,
    ):
        await stream.send_message(Note("a"))
        health.set("", ServingStatus.NOT_SERVING)
        await channel.wait_for_state(FAILING)
        await stream.send_message(Note("b"), end=True)
        assert [note.text async for note in stream] == ["a", "b"]


async def test_no_call_is_sent_before_the_first_answer():
    async with playing(**CHECKED) as played:
        call = played.call("hello")
        peer = await played.accept()
        await peer.until(request_on(1))
        await turns()
        assert played.channel.state is ChannelState.CONNECTING
        assert not peer.of(3)
        await watched(peer)
        await peer.whole(3)
        await answer(peer, 3, "hello")
        assert await call.answer() == "hello"


async def test_a_server_without_health_is_healthy():
    with captured_logs() as log:
        async with playing(**CHECKED) as played:
            call = played.call()
            peer = await played.accept()
            await ended(peer, 1, Status.UNIMPLEMENTED)
            await peer.whole(3)
            await answer(peer, 3)
            assert await call.status() is Status.OK
            assert "it counts as healthy" in str([line["event"] for line in log])


@in_virtual_time
async def test_a_check_that_fails_is_made_again_after_growing_pauses():
    options = {"initial_backoff": 10, "backoff_multiplier": 2, "backoff_jitter": 0, **CHECKED}
    async with playing(patience=LONG, **options) as played:
        played.channel.connect()
        peer = await played.accept()
        times = []
        for stream_id in (1, 3, 5):
            await ended(peer, stream_id, Status.INTERNAL)
            await played.channel.wait_for_state(FAILING)
            assert "the health check failed with INTERNAL" in played.channel.error
            times.append(round(anyio.current_time()))
        await watched(peer, 7)
        await played.channel.wait_for_state(READY)
        times.append(round(anyio.current_time()))
        # one that had answered is made again at once, and then after the first pause
        await peer.send(peer.make.headers(7, OK, end_stream=True))
        await peer.until(request_on(9))
        times.append(round(anyio.current_time()))
        await ended(peer, 9, Status.UNAVAILABLE)
        await peer.until(request_on(11))
        times.append(round(anyio.current_time()))
        assert [time - times[0] for time in times] == [0, 10, 30, 70, 70, 80]
        assert played.raw.connections == 1


async def test_calls_go_to_the_servers_that_serve():
    names = Names(Place("a"), Place("b"))
    async with playing_at(names, patience=30, **CHECKED) as played:
        played.channel.connect()
        peers = [await place.accept() for place in names.addresses]
        await watched(peers[0], status=ServingStatus.NOT_SERVING)
        await watched(peers[1])
        await played.channel.wait_for_state(READY)
        for number in range(3):
            call = await played.called()
            await answer(peers[1], 3 + 2 * number)
            assert await call.status() is Status.OK
        await says(peers[0], 1, ServingStatus.SERVING)
        await says(peers[1], 1, ServingStatus.NOT_SERVING)
        await eventually(lambda: played.channel._policy.pick() is not None and "b: " in played.channel.error)
        call = await played.called()
        await answer(peers[0], 3)
        assert await call.status() is Status.OK
        assert not peers[1].of(9)


async def test_the_check_ends_with_the_connection():
    async with playing(**CHECKED) as played:
        first = await connected(played)
        await first.send(first.make.goaway(1))
        await first.until_closed()  # nothing but the check was on it
        second = await played.accept()
        await watched(second)
        await played.channel.wait_for_state(READY)
        await second.transport.aclose()
        third = await played.accept()
        await watched(third)
        await played.channel.wait_for_state(READY)


async def test_a_check_that_is_refused_is_made_again_on_the_same_connection():
    async with playing(**CHECKED) as played:
        played.channel.connect()
        peer = await played.accept()
        await peer.until(request_on(1))
        await peer.send(peer.make.reset(1, ErrorCodes.REFUSED_STREAM))
        await watched(peer, 3)
        await played.channel.wait_for_state(READY)


async def connected(played: Played) -> RawPeer:
    played.channel.connect()
    peer = await played.accept()
    await watched(peer)
    await played.channel.wait_for_state(READY)
    return peer


@in_virtual_time
async def test_a_check_is_no_call_that_keeps_the_channel_from_being_idle():
    async with playing(patience=LONG, idle_timeout=100, **CHECKED) as played:
        peer = await connected(played)
        call = await played.called()
        await anyio.sleep(1000)
        assert played.channel.state is READY
        await answer(peer, 3)
        assert await call.status() is Status.OK
        began = anyio.current_time()
        await played.channel.wait_for_state(ChannelState.IDLE)
        assert 99 < anyio.current_time() - began < 101
        await peer.until_closed()


async def test_the_applications_codec_and_listeners_do_not_see_the_check():
    begun = []

    def on_call(call) -> None:
        begun.append(call.method)

    health = Health()
    health.set("", ServingStatus.SERVING)
    server = Server([health])
    options = ChannelOptions(compression="gzip", **CHECKED)
    async with leaving_nothing(), memory_channel(server, options, on_call=on_call) as channel:
        await channel.wait_until_ready()
        assert begun == []


async def test_the_check_counts_toward_the_streams_that_the_server_allows():
    async with playing(**CHECKED) as played:
        played.channel.connect()
        peer = await played.accept({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
        await watched(peer)
        await played.channel.wait_for_state(READY)
        first, second = await played.called(), await played.called()
        await peer.whole(3)
        assert peer.of(5) == []
        await answer(peer, 3)
        await peer.whole(5)
        await answer(peer, 5)
        assert [await first.status(), await second.status()] == [Status.OK, Status.OK]


def test_the_request_is_the_protocols():
    assert bytes(HealthCheckRequest(service="a")) == b"\n\x01a"


async def test_states_can_be_waited_for():
    health = Health()
    health.set("", ServingStatus.SERVING)
    async with checked(health) as channel:
        assert await channel.wait_for_state(ChannelState.IDLE) is ChannelState.IDLE
        seen = []

        async def follow() -> None:
            state = channel.state
            while state is not ChannelState.SHUTDOWN:
                seen.append(state)
                state = await channel.wait_for_state_change(state)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await turns()
            await channel.wait_until_ready()
            health.set("", ServingStatus.NOT_SERVING)
            await channel.wait_for_state(FAILING)
            await turns()
            channel.close()
        assert (seen[0], seen[-2:]) == (ChannelState.IDLE, [READY, FAILING])
        assert await channel.wait_for_state(READY) is ChannelState.SHUTDOWN
