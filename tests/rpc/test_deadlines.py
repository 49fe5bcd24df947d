"""Deadlines, on both sides; in virtual time where it matters how long something takes."""

from __future__ import annotations

import math
from contextlib import suppress

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from connectrio.rpc import Deadline, Server, ServerOptions, current_call
from connectrio.rpc._client.response_status import Outcome
from connectrio.rpc.testing import memory_channel
from rpc.kit.frames import Data, Headers, Reset
from rpc.kit.playing import RESPONSE, channel_to, request_on
from rpc.kit.raw import RawServer, raw_client
from rpc.kit.script import CLIENT_STREAMING, SERVER_STREAMING, UNARY, Note, Script, ScriptStub
from rpc.kit.serving import PATIENCE, eventually, in_both_ways, in_memory, leaving_nothing, timeouts
from rpc.kit.virtual_time import LONG, in_virtual_time


async def expired(call) -> GRPCError:
    with pytest.raises(GRPCError) as raised:
        await call
    assert raised.value.status is Status.DEADLINE_EXCEEDED
    return raised.value


# the client's side


@in_both_ways
async def test_a_call_that_takes_too_long(serving):
    begun, cleaned_up = anyio.Event(), anyio.Event()

    async def slow(stream):
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned_up.set()

    async with serving(Script(slow)) as served:
        for timeout in timeouts():
            await expired(served.stub.unary(Note(), timeout=timeout))
            if begun.is_set():
                break
        await cleaned_up.wait()
        await eventually(lambda: served.server.active_calls == 0)
        assert await served.stub.client_streaming([Note("on")]) == Note("on")


@pytest.mark.parametrize("timeout", [0, -1])
async def test_a_deadline_that_has_passed_before_the_call(timeout: float):
    async with in_memory(Script()) as served:
        await expired(served.stub.unary(Note(), timeout=timeout))
        await expired(served.stub.unary(Note(), deadline=Deadline.from_timeout(timeout)))


async def test_a_deadline_that_passes_just_before_the_call():
    """A whole call fits between two ticks of uvloop's clock, so it is made when the clock has moved."""
    async with in_memory(Script()) as served:
        deadline = Deadline.from_timeout(1e-9)
        await eventually(lambda: anyio.current_time() > deadline.at)
        await expired(served.stub.unary(Note(), deadline=deadline))


async def test_grpclibs_deadlines_work():
    import grpclib.metadata

    async with in_memory(Script()) as served:
        await expired(served.stub.unary(Note(), deadline=grpclib.metadata.Deadline.from_timeout(0)))
        assert await served.stub.unary(Note(), deadline=grpclib.metadata.Deadline.from_timeout(PATIENCE)) == Note()


@in_virtual_time
async def test_the_time_left_travels_with_the_request():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        tasks.start_soon(expired, ScriptStub(channel).unary(Note(), timeout=0.5))
        peer = await raw.accept()
        headers = await peer.until(request_on(1))
        assert isinstance(headers, Headers)
        assert headers["grpc-timeout"][-1] == "u"
        assert 0 < int(headers["grpc-timeout"][:-1]) <= 500_000
        await peer.until(lambda frame: frame == Reset(1, ErrorCodes.CANCEL))


async def test_no_deadline_is_no_timeout():
    async def none(stream):
        call = current_call()
        assert stream.deadline is None is call.deadline
        await stream.send_message(await stream.recv_message())

    async with in_memory(Script(none)) as served:
        await served.stub.unary(Note())


@in_virtual_time
@pytest.mark.parametrize("silent", ["before the response", "after its headers", "after a message"])
async def test_a_server_that_says_nothing(silent: str):
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:

        async def call() -> None:
            error = await expired(ScriptStub(channel).unary(Note(), timeout=0.5))
            assert "deadline" in str(error.message)

        tasks.start_soon(call)
        peer = await raw.accept()
        await peer.whole(1)
        if silent != "before the response":
            await peer.send(peer.make.headers(1, RESPONSE))
        if silent == "after a message":
            await peer.send(peer.make.message(1, b"a"))
        await peer.until(lambda frame: frame == Reset(1, ErrorCodes.CANCEL))


@in_virtual_time
async def test_a_window_that_stays_shut():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        tasks.start_soon(expired, ScriptStub(channel).unary(Note("x" * 1000), timeout=0.5))
        peer = await raw.accept({4: 10})
        await peer.until(lambda frame: frame == Reset(1, ErrorCodes.CANCEL))
        assert [len(frame.data) for frame in peer.seen if isinstance(frame, Data)] == [10]


@in_virtual_time
@pytest.mark.parametrize("how", ["reset", "trailers"])
async def test_cancelled_past_the_deadline_is_the_deadline(how: str):
    """A server that ends a call at its deadline may be faster than the client's own clock."""
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        cardinality = Script().__mapping__()[UNARY].cardinality
        stream = channel.request(UNARY, cardinality, Note, Note, timeout=0.2)
        tasks.start_soon(stream.send_message, Note())
        peer = await raw.accept()
        await peer.whole(1)
        if how == "reset":
            await peer.send(peer.make.reset(1, ErrorCodes.CANCEL))
        else:
            await peer.send(peer.make.headers(1, [*RESPONSE, ("grpc-status", "1")], end_stream=True))
        await peer.send(peer.make.ping())
        await peer.until(lambda frame: type(frame).__name__ == "Ping")
        await anyio.sleep(0.2)
        await expired(stream.recv_message())
        stream.abandon()


@in_virtual_time
async def test_a_deadline_in_the_middle_of_a_stream():
    async def some(stream):
        await stream.recv_message()
        await stream.send_message(Note("one"))
        await anyio.sleep_forever()

    async with in_memory(Script(server_streaming=some)) as served:
        answers = served.stub.server_streaming(Note(), timeout=0.1)
        assert await anext(answers) == Note("one")
        await expired(anext(answers))


# the server's side


async def test_the_server_ends_a_call_at_its_deadline_by_itself():
    async def slow(stream):
        await stream.recv_message()
        await anyio.sleep_forever()

    async with leaving_nothing():
        server = Server([Script(slow, slow)])
        async with raw_client(server) as client:
            for stream_id, path in (1, UNARY), (3, SERVER_STREAMING):
                await client.send(
                    client.make.request(stream_id, path, extra=[("grpc-timeout", "50m")]),
                    client.make.message(stream_id, b"", end_stream=True),
                )
                trailers = await client.trailers(stream_id)
                assert trailers["grpc-status"] == str(Status.DEADLINE_EXCEEDED.value)
            await eventually(lambda: server.active_calls == 0)


@in_virtual_time
async def test_clients_that_reset_their_calls_at_the_deadline_are_no_attackers():
    async def slow(stream):
        await stream.recv_message()
        await anyio.sleep_forever()

    async with leaving_nothing(LONG):
        server = Server([Script(slow)], options=ServerOptions(reset_budget=5))
        async with raw_client(server) as client:
            for stream_id in range(1, 101, 2):
                await client.send(
                    client.make.request(stream_id, UNARY, extra=[("grpc-timeout", "20m")]),
                    client.make.message(stream_id, b"", end_stream=True),
                )
                await anyio.sleep(0.019)
                await client.send(client.make.reset(stream_id, ErrorCodes.CANCEL))
            await client.send(client.make.request(101, CLIENT_STREAMING, end_stream=True))
            assert (await client.trailers(101))["grpc-status"] == "0"


@in_virtual_time
async def test_what_was_sent_before_the_deadline_stays_sent():
    async def slow(stream):
        await stream.send_message(Note("one"))
        await anyio.sleep_forever()

    async with leaving_nothing():
        server = Server([Script(server_streaming=slow)])
        async with raw_client(server) as client:
            await client.send(
                client.make.request(1, SERVER_STREAMING, extra=[("grpc-timeout", "50m")], end_stream=True)
            )
            frames = await client.whole(1)
            assert [type(frame) for frame in frames] == [Headers, Data, Headers]
            assert frames[-1]["grpc-status"] == str(Status.DEADLINE_EXCEEDED.value)


async def deadline_outcome(method) -> Headers:
    """The trailers of a call whose deadline is soon."""
    async with leaving_nothing():
        server = Server([Script(method)])
        async with raw_client(server) as client:
            await client.send(
                client.make.request(1, extra=[("grpc-timeout", "30m")]), client.make.message(1, b"", end_stream=True)
            )
            trailers = await client.trailers(1)
            await eventually(lambda: server.active_calls == 0)
            await client.send(client.make.request(3, "/test.Script/Bidi", end_stream=True))
            assert (await client.trailers(3))["grpc-status"] == "0"
            return trailers


async def test_cleaning_up_may_take_its_time():
    async def method(stream):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)

    assert (await deadline_outcome(method))["grpc-status"] == "4"


@pytest.mark.parametrize(
    "error", [ValueError(), SystemExit(), GRPCError(Status.ABORTED), ExceptionGroup("e", [ValueError()])]
)
async def test_an_exception_in_cleaning_up_is_still_the_deadline(error: BaseException):
    async def method(stream):
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    assert (await deadline_outcome(method))["grpc-status"] == "4"


async def test_an_exception_beside_the_cancellation_is_still_the_deadline():
    async def method(stream):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_in_cleaning_up)
            await anyio.sleep_forever()

    async def fail_in_cleaning_up() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError

    assert (await deadline_outcome(method))["grpc-status"] == "4"


async def test_a_swallowed_cancellation_without_a_response_is_the_deadline():
    async def method(stream):
        with suppress(BaseException):
            await anyio.sleep_forever()

    assert (await deadline_outcome(method))["grpc-status"] == "4"


async def test_a_response_in_spite_of_the_deadline_is_a_response():
    """Nobody is helped by throwing it away; the client has its own clock."""

    async def method(stream):
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.05)
            await stream.send_message(Note("late"))

    assert (await deadline_outcome(method))["grpc-status"] == "0"


async def test_a_servicers_own_time_out_is_not_the_calls():
    async def method(stream):
        with anyio.fail_after(0.01):
            await anyio.sleep_forever()

    async with in_memory(Script(method)) as served:
        with pytest.raises(GRPCError) as raised:
            await served.stub.unary(Note(), timeout=PATIENCE)
        assert raised.value.status is Status.UNKNOWN


async def test_a_deadline_while_the_clients_window_is_shut():
    async def method(stream):
        await stream.recv_message()
        await stream.send_message(Note("x" * 100))

    async with leaving_nothing():
        server = Server([Script(method)])
        async with raw_client(server, {4: 10}) as client:
            await client.send(
                client.make.request(1, extra=[("grpc-timeout", "50m")]), client.make.message(1, b"", end_stream=True)
            )
            assert (await client.trailers(1))["grpc-status"] == "4"
            await eventually(lambda: server.active_calls == 0)


# at the deadline, on clocks of any resolution

# seconds; many parts of uvloop's millisecond
TIMEOUTS = [number * 0.00037 for number in range(1, 100)]


async def test_who_sleeps_until_a_deadline_finds_it_passed():
    async def sleep(timeout: float) -> None:
        deadline = Deadline.from_timeout(timeout)
        await anyio.sleep_until(deadline.at)
        assert deadline.has_passed
        error = Outcome(deadline).settle(Status.CANCELLED, None, ["details of CANCELLED"])
        assert (error.status, error.details) == (Status.DEADLINE_EXCEEDED, None)

    async with anyio.create_task_group() as tasks:
        for timeout in TIMEOUTS:
            tasks.start_soon(sleep, timeout)


@pytest.mark.parametrize("resolution", [1e-9, 1e-6, 1e-3])
async def test_a_clock_that_rounds_down_never_hides_that_a_deadline_has_passed(monkeypatch, resolution: float):
    now = 86_400.0
    monkeypatch.setattr(anyio, "current_time", lambda: math.floor(now / resolution) * resolution)
    for timeout in TIMEOUTS:
        deadline = Deadline.from_timeout(timeout)
        begun = now
        assert deadline.has_passed == (timeout < 0.001)
        now = deadline.at - 0.0011
        assert not deadline.has_passed
        now = deadline.at
        assert deadline.has_passed
        now = begun + 1


@in_virtual_time
async def test_a_servicer_that_passes_on_that_its_own_call_was_cancelled_at_the_deadline():
    """By a clock that was less than a millisecond ahead."""

    async def method(stream):
        await anyio.sleep_until(stream.deadline.at - 0.0005)
        raise GRPCError(Status.CANCELLED)

    assert (await deadline_outcome(method))["grpc-status"] == "4"


# hours, in no time


@in_virtual_time
async def test_an_hour_on_a_clock_that_jumps():
    async def slow(stream):
        call = current_call()
        assert call.deadline is not None
        seen.append(call.deadline.time_remaining())
        await anyio.sleep(7200)

    seen: list[float] = []
    async with memory_channel(Server([Script(slow)])) as channel:
        before = anyio.current_time()
        await expired(ScriptStub(channel).unary(Note(), timeout=3600))
        assert anyio.current_time() - before == pytest.approx(3600, abs=1)
        assert seen == [pytest.approx(3600, abs=1)]


@in_virtual_time
async def test_a_call_that_is_done_in_time_on_a_clock_that_jumps():
    async def slow(stream):
        await anyio.sleep(3599)
        await stream.send_message(await stream.recv_message())

    async with memory_channel(Server([Script(slow)])) as channel:
        assert await ScriptStub(channel).unary(Note("done"), timeout=3600) == Note("done")


@in_virtual_time
@pytest.mark.parametrize("timeout", ["1H", "60M", "3600S", "3600000m"])
async def test_the_servers_deadline_on_a_clock_that_jumps(timeout: str):
    async def slow(stream):
        await anyio.sleep(math.inf)

    server = Server([Script(slow)])
    async with raw_client(server) as client:
        before = anyio.current_time()
        await client.send(client.make.request(1, extra=[("grpc-timeout", timeout)], end_stream=True))
        assert (await client.trailers(1))["grpc-status"] == "4"
        assert anyio.current_time() - before == pytest.approx(3600, abs=1)
