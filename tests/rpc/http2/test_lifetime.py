"""Ages, idleness, keepalive and time-outs of a server's connections, and how often a client may ping, by the clock."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from connectrio.rpc import ChannelOptions, Server, ServerOptions
from connectrio.rpc._http2.connection import LAST_POSSIBLE_STREAM, ConnectionState
from connectrio.rpc._http2.lifetime import Due, Failure, Lifetime
from connectrio.rpc.testing import memory_channel
from rpc.kit.core import ServerCore
from rpc.kit.frames import GoAway, Ping
from rpc.kit.raw import raw_client
from rpc.kit.script import UNARY, Note, Script, ScriptStub
from rpc.kit.serving import eventually, leaving_nothing, turns
from rpc.kit.virtual_time import in_virtual_time

HOUR = 3600.0
NEVER = {"keepalive_time": math.inf}


class TimedCore(ServerCore):
    """A server's core whose driver is asleep but when something is due.

    :ivar now: seconds
    :ivar aborted: whether the calls that are left were to be cancelled
    """

    def __init__(self, *, handshake: bool = True, **options: Any) -> None:
        self.now = 1000.0
        self.aborted = False
        super().__init__(handshake=handshake, clock=lambda: self.now, **options)
        self.lifetime = Lifetime(self.connection)

    def wait(self, seconds: float) -> list:
        """What the core sends in that time."""
        end, lifetime = self.now + seconds, self.lifetime
        while self.connection.state is not ConnectionState.CLOSED:
            due = lifetime.due()
            self.now = max(self.now, min(end, due))
            if due > end:
                break
            self._do(lifetime.tick(self.now))
            assert lifetime.due() > self.now or self.connection.state is ConnectionState.CLOSED, "a tick had no effect"
        self.now = end
        self._do(lifetime.tick(end))
        return self.sent()

    def _do(self, due: Due | Failure | None) -> None:
        match due:
            case Failure(reason):
                self.connection.fail(reason)
            case Due.PING:
                self.connection.ping()
            case Due.DRAIN:
                self.connection.drain()
            case Due.ABORT:
                self.aborted = True


def is_drain(frames: list) -> bool:
    return frames == [GoAway(LAST_POSSIBLE_STREAM, ErrorCodes.NO_ERROR), Ping(b"drain...")]


# maximum age


def test_a_connection_is_drained_at_its_age_give_or_take_a_tenth():
    for _ in range(20):
        server = TimedCore(max_connection_age=HOUR, **NEVER)
        assert server.wait(0.9 * HOUR - 1) == []
        assert is_drain(server.wait(0.2 * HOUR + 2))
        assert server.connection.state is ConnectionState.DRAINING


def test_ages_differ():
    ages = [TimedCore(max_connection_age=HOUR, **NEVER).lifetime.due() - 1000 for _ in range(200)]
    assert all(0.9 * HOUR <= age <= 1.1 * HOUR for age in ages)
    assert min(ages) < 0.96 * HOUR
    assert max(ages) > 1.04 * HOUR


def test_what_is_left_after_the_grace_is_cancelled():
    server = TimedCore(max_connection_age=HOUR, max_connection_age_grace=60, **NEVER)
    server.request(1)
    server.wait(0.9 * HOUR + 59)
    assert not server.aborted
    server.wait(0.2 * HOUR + 2)
    assert server.aborted
    assert server.connection.state is not ConnectionState.CLOSED, "its calls are told first"


def test_calls_may_take_for_ever_by_default():
    server = TimedCore(max_connection_age=HOUR, **NEVER)
    server.request(1)
    server.wait(1000 * HOUR)
    assert not server.aborted


def test_no_connection_is_too_old_by_default():
    server = TimedCore(**NEVER)
    assert server.wait(10_000 * HOUR) == []
    assert server.connection.state is ConnectionState.OPEN


# idleness


def test_a_connection_without_calls_is_drained():
    server = TimedCore(max_connection_idle=60, **NEVER)
    assert server.wait(59) == []
    assert is_drain(server.wait(2))


def test_a_call_is_not_idleness_however_long_it_takes():
    server = TimedCore(max_connection_idle=60, **NEVER)
    server.wait(30)
    stream = server.request(1)
    assert server.wait(10 * HOUR) == []
    stream.release()
    assert server.wait(59) == []
    assert is_drain(server.wait(2))


def test_each_call_begins_the_idleness_anew():
    server = TimedCore(max_connection_idle=60, **NEVER)
    for stream_id in range(1, 41, 2):
        assert server.wait(50) == []
        server.request(stream_id).release()
    assert server.wait(59) == []
    assert is_drain(server.wait(2))


# keepalive


def test_a_silent_client_is_pinged_and_then_given_up():
    server = TimedCore(keepalive_time=600, keepalive_timeout=20)
    stream = server.request(1)
    assert server.wait(599) == []
    assert server.wait(2) == [Ping(b"keepaliv")]
    server.wait(18)
    assert server.connection.state is ConnectionState.OPEN
    server.wait(2)
    assert server.connection.state is ConnectionState.CLOSED
    assert "keepalive" in server.connection.end_reason
    assert stream.termination is not None


def test_a_client_that_answers_is_pinged_again_and_again():
    server = TimedCore(keepalive_time=600, keepalive_timeout=20)
    for _ in range(5):
        assert server.wait(601) == [Ping(b"keepaliv")]
        server.exchange(server.peer.ping(b"keepaliv", ack=True))
    assert server.connection.state is ConnectionState.OPEN


def test_an_answer_in_the_very_moment_is_one():
    server = TimedCore(keepalive_time=600, keepalive_timeout=20)
    server.wait(600)
    server.exchange(server.peer.ping(b"keepaliv", ack=True))
    server.wait(30)
    assert server.connection.state is ConnectionState.OPEN


def test_whatever_comes_is_a_sign_of_life():
    server = TimedCore(keepalive_time=600, keepalive_timeout=20)
    for number in range(10):
        assert Ping(b"keepaliv") not in server.wait(599)
        server.request(2 * number + 1).release()


# clients that do not go on


def test_a_client_that_never_says_hello():
    server = TimedCore(handshake=False, handshake_timeout=20)
    server.wait(19)
    assert server.connection.state is ConnectionState.OPEN
    server.wait(2)
    assert server.connection.state is ConnectionState.CLOSED
    assert "handshake" in server.connection.end_reason


def test_a_header_block_without_end():
    server = TimedCore(header_block_timeout=10)
    server.exchange(server.peer.raw(0x01, 0x0, 1, b"\x82"))
    for _ in range(9):  # a CONTINUATION every second does not help
        server.wait(1)
        server.exchange(server.peer.raw(0x09, 0x0, 1, b"\x82"))
    assert server.connection.state is ConnectionState.OPEN
    server.wait(2)
    assert server.connection.state is ConnectionState.CLOSED
    assert "header block" in server.connection.end_reason


def test_a_header_block_that_ends_in_time():
    server = TimedCore(header_block_timeout=10)
    server.exchange(server.peer.raw(0x01, 0x0, 1, b"\x82"))
    server.wait(9)
    server.exchange(server.peer.raw(0x09, 0x4, 1, b""))
    server.wait(HOUR)
    assert server.connection.state is ConnectionState.OPEN


def test_a_client_that_does_not_read():
    server = TimedCore(write_stall_timeout=60)
    server.connection.writing_since = server.now
    server.wait(59)
    assert server.connection.state is ConnectionState.OPEN
    server.wait(2)
    assert server.connection.state is ConnectionState.CLOSED
    assert "does not read" in server.connection.end_reason


# how often a client may ping


def pings(server: TimedCore, count: int, interval: float) -> bool:
    """Whether the client may do so."""
    for _ in range(count):
        server.wait(interval)
        server.exchange(server.peer.ping())
    return server.connection.state is ConnectionState.OPEN


@pytest.mark.parametrize("interval", [10.0, 30.0, 300.0])
def test_a_client_with_a_call_may_ping_as_the_executor_does(interval: float):
    server = TimedCore(**NEVER)
    server.request(1)
    assert pings(server, 200, interval)


def test_the_third_strike_is_one_too_many():
    server = TimedCore(**NEVER)
    server.request(1)
    assert pings(server, 3, 9), "the first ping is none, then there are two strikes"
    server.wait(9)
    sent = server.exchange(server.peer.ping())
    assert GoAway(1, ErrorCodes.ENHANCE_YOUR_CALM) in sent
    assert server.connection.end_reason == "too_many_pings"


def test_without_a_call_a_client_may_ping_every_two_hours():
    assert pings(TimedCore(**NEVER), 20, 2 * HOUR)
    assert not pings(TimedCore(**NEVER), 4, 1.9 * HOUR)


def test_what_is_sent_to_a_client_gives_it_reason_to_ping():
    server = TimedCore(**NEVER)
    stream = server.request(1)
    stream.send_headers([(":status", "200")])
    for _ in range(100):
        stream.send_some(memoryview(b"data"))
        assert pings(server, 3, 0.1)


def test_answers_to_our_own_pings_are_no_pings():
    server = TimedCore(**NEVER)
    for _ in range(100):
        server.exchange(server.peer.ping(ack=True))
    assert server.connection.state is ConnectionState.OPEN


def test_the_interval_can_be_set():
    server = TimedCore(min_ping_interval=300, **NEVER)
    server.request(1)
    assert not pings(server, 4, 30)


# all of it at work


@in_virtual_time
async def test_a_channel_outlives_its_connections():
    """A call an hour for a week; connections live for about a day."""
    async with leaving_nothing(math.inf):
        # no limit is short, so that little happens in a week
        limits = dict.fromkeys(("handshake_timeout", "header_block_timeout", "write_stall_timeout"), HOUR)
        options = ServerOptions(max_connection_age=24 * HOUR, keepalive_timeout=HOUR, **limits)
        server = Server([Script()], options=options)
        async with memory_channel(server) as channel:
            for number in range(7 * 24):
                assert await ScriptStub(channel).unary(Note(str(number))) == Note(str(number))
                await anyio.sleep(HOUR)


@in_virtual_time
async def test_a_call_that_takes_longer_than_age_and_grace():
    async def slow(stream):
        await anyio.sleep(100 * HOUR)

    async with leaving_nothing(math.inf):
        options = ServerOptions(max_connection_age=HOUR, max_connection_age_grace=600)
        async with memory_channel(Server([Script(slow)], options=options)) as channel:
            began = anyio.current_time()
            with pytest.raises(GRPCError, match="shutting down") as raised:
                await ScriptStub(channel).unary(Note())
            assert raised.value.status is Status.UNAVAILABLE
            assert 0.9 * HOUR + 600 <= anyio.current_time() - began <= 1.1 * HOUR + 700


@in_virtual_time
async def test_the_executors_pings_over_a_call_of_an_hour():
    """Both sides' keepalive, at a pace that neither minds."""

    async def slow(stream):
        await anyio.sleep(HOUR)
        await stream.send_message(await stream.recv_message())

    async with leaving_nothing(math.inf):
        server = Server([Script(slow)], options=ServerOptions(keepalive_time=45))
        async with memory_channel(server, ChannelOptions(keepalive_time=30)) as channel:
            assert await ScriptStub(channel).unary(Note("a")) == Note("a")


async def test_a_connection_that_is_over_keeps_nobody_busy():
    """What was due when it ended stays due while its last call cleans up; nobody may turn in circles over it."""

    async def slow_to_leave(stream):
        began.set()
        try:
            await anyio.sleep(math.inf)
        finally:
            with anyio.CancelScope(shield=True):
                leaving.set()
                await may_leave.wait()

    began, leaving, may_leave = anyio.Event(), anyio.Event(), anyio.Event()
    ticks = 0

    def count(now: float) -> Due | Failure | None:
        nonlocal ticks
        ticks += 1
        return tick(now)

    async with leaving_nothing():
        server = Server([Script(slow_to_leave)], options=ServerOptions(header_block_timeout=0.01))
        async with raw_client(server) as client:
            await client.send(client.make.request(1, UNARY))
            await began.wait()
            [connection] = server._connections
            connection.core.header_block_since = -math.inf
            await leaving.wait()
            tick, connection._lifetime.tick = connection._lifetime.tick, count
            await turns(200)
            may_leave.set()
            assert ticks <= 1
            await eventually(lambda: server.active_calls == 0)
