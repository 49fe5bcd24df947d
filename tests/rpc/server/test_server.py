"""A server's life: listening, draining, ending."""

from __future__ import annotations

import errno
import math
import socket

import anyio
import pytest
from anyio.abc import AnyByteStream, Listener
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from connectrio.diagnostics import Repeats
from connectrio.rpc import Channel, Server, ServerOptions, current_call
from connectrio.rpc._http2.connection import LAST_POSSIBLE_STREAM
from connectrio.rpc._server import server as _server
from connectrio.rpc.testing import memory_channel, memory_transport_pair
from rpc.kit.frames import FrameFactory, GoAway, Headers, Ping, Reset, Settings
from rpc.kit.raw import RawPeer, raw_client
from rpc.kit.script import BIDI, UNARY, Note, Script, ScriptStub
from rpc.kit.serving import (
    PATIENCE,
    cancelled_at_rest,
    eventually,
    held_port,
    in_both_ways,
    leaving_nothing,
    listening,
    turns,
)

DRAIN_PING = b"drain..."
GOODBYE = GoAway(LAST_POSSIBLE_STREAM, ErrorCodes.NO_ERROR)
# for clients that answer the drain's ping and hang up: nothing is cut short because the machine is slow
PATIENT = ServerOptions(drain_ping_timeout=PATIENCE, linger=PATIENCE)


@pytest.mark.parametrize("name", ["max_receive_message_size", "max_concurrent_streams", "linger"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_bounds_that_make_no_sense(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name} must be more than 0, got {value}"):
        ServerOptions(**{name: value})


class Gate(Script):
    """A servicer whose unary method waits until it is let go.

    :ivar waiting: how many calls wait
    """

    def __init__(self) -> None:
        super().__init__(self._unary)
        self.open = anyio.Event()
        self.waiting = 0
        self.cancelled = 0

    async def _unary(self, stream) -> None:
        note = await stream.recv_message()
        self.waiting += 1
        try:
            await self.open.wait()
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        await stream.send_message(note)


# listening


async def test_the_addresses_are_reported():
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        server = Server([Script()])
        listeners = [await anyio.create_tcp_listener(local_host="127.0.0.1") for _ in range(2)]
        addresses = await tasks.start(server.serve, listeners)
        assert [host for host, _ in addresses] == ["127.0.0.1"] * 2
        for _, port in addresses:
            async with Channel(f"127.0.0.1:{port}") as channel:
                assert await ScriptStub(channel).unary(Note("a")) == Note("a")
        await server.shutdown(grace=PATIENCE)


class Failing(Listener[AnyByteStream]):
    """Cannot accept the first time; then nobody comes."""

    def __init__(self, error: OSError) -> None:
        self.error: OSError | None = error
        self.waits = anyio.Event()
        self.is_closed = False

    async def accept(self) -> AnyByteStream:
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.waits.set()
        await anyio.sleep_forever()

    async def serve(self, handler, task_group=None) -> None:
        raise AssertionError("it can accept")

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOTSOCK, errno.ENETDOWN], ids=errno.errorcode.get)
async def test_an_error_that_will_not_pass_ends_the_server(number: int):
    listener = Failing(OSError(number, "broken"))
    async with leaving_nothing():
        with pytest.RaisesGroup(OSError, flatten_subgroups=True) as raised:
            await Server([]).serve(listener)
        assert raised.group_contains(OSError, match="broken")
    assert listener.is_closed


async def test_a_client_that_left_before_it_was_accepted_is_no_error():
    listener = Failing(OSError(errno.ECONNABORTED, "gone"))
    async with leaving_nothing() as log, anyio.create_task_group() as tasks:
        server = Server([])
        await tasks.start(server.serve, listener)
        await listener.waits.wait()
        await server.shutdown()
        assert log == []


async def test_a_taken_port_is_the_listeners_error():
    async with leaving_nothing(), listening(Server([Script()])) as port:
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the number is checked
            await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        errors = [raised.value, raised.value.__cause__]
        if isinstance(errors[-1], ExceptionGroup):
            errors += errors[-1].exceptions
        assert errno.EADDRINUSE in {getattr(error, "errno", None) for error in errors}


async def test_the_peer_is_the_clients_address():
    seen = []

    async def method(stream):
        call = current_call()
        seen.append((call.peer, stream.peer.addr(), stream.peer.cert()))
        await stream.send_message(await stream.recv_message())

    async with (
        leaving_nothing(),
        listening(Server([Script(method)])) as port,
        Channel(f"127.0.0.1:{port}") as channel,
    ):
        await ScriptStub(channel).unary(Note())
    [(text, (host, peer_port), certificate)] = seen
    assert text == f"{host}:{peer_port}"
    assert host == "127.0.0.1"
    assert certificate is None


async def test_cancelled_the_server_ends_at_once():
    gate = Gate()
    async with leaving_nothing():
        server = Server([gate])
        async with listening(server) as port, anyio.create_task_group() as tasks:
            with socket.create_connection(("127.0.0.1", port)):
                pass  # a connection that says nothing is no hindrance

            async with Channel(f"127.0.0.1:{port}") as channel:
                outcome: list[GRPCError] = []

                async def call() -> None:
                    try:
                        await ScriptStub(channel).unary(Note())
                    except GRPCError as error:
                        outcome.append(error)

                tasks.start_soon(call)
                await eventually(lambda: gate.waiting == 1)
                server.stop_accepting()
                [connection] = [each for each in server._connections if each.core.streams]
                connection.core.fail("the test ends it")
                await eventually(lambda: bool(outcome))
                assert outcome[0].status is Status.UNAVAILABLE
    assert gate.cancelled == 1


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt()], ids=repr)
async def test_what_a_servicer_makes_of_the_servers_cancellation_stays_inside(error: BaseException):
    started = anyio.Event()

    async def method(stream):
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    async with leaving_nothing():
        server = Server([Script(method)])
        ours, theirs = memory_transport_pair()
        async with ours, anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve_connection, theirs)
            make = FrameFactory()
            await ours.send(make.preface() + make.request(1))
            await started.wait()
            tasks.cancel_scope.cancel()
        assert server.active_calls == 0


async def test_a_servicer_that_ends_with_the_server_is_no_fault_of_its_own():
    gate = Gate()
    async with leaving_nothing() as log:
        server = Server([gate])
        ours, theirs = memory_transport_pair()
        async with ours, anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve_connection, theirs)
            make = FrameFactory()
            await ours.send(make.preface() + make.request(1) + make.message(1, b"", end_stream=True))
            await eventually(lambda: gate.waiting == 1)
            tasks.cancel_scope.cancel()
        assert gate.cancelled == 1
        assert [line["event"] for line in log if line["log_level"] == "error"] == []


# draining


async def test_the_drain_on_the_wire():
    gate = Gate()
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        server = Server([gate], options=PATIENT)
        async with raw_client(server) as client:
            await client.send(client.make.request(1), client.make.message(1, b"in flight", end_stream=True))
            await eventually(lambda: gate.waiting == 1)
            tasks.start_soon(server.shutdown)
            await client.until(lambda frame: frame == Ping(DRAIN_PING))
            assert client.seen[-2:] == [GOODBYE, Ping(DRAIN_PING)]

            # a stream that raced with the announcement
            await client.send(client.make.request(3, BIDI), client.make.message(3, b"racing", end_stream=True))
            await client.send(client.make.ping(DRAIN_PING, ack=True))
            await client.until(lambda frame: frame == GoAway(3, ErrorCodes.NO_ERROR))
            assert (await client.trailers(3))["grpc-status"] == "0"

            # and one that should have known better
            await client.send(client.make.request(5, BIDI, end_stream=True))
            assert await client.whole(5) == [Reset(5, ErrorCodes.REFUSED_STREAM)]

            gate.open.set()
            assert (await client.trailers(1))["grpc-status"] == "0"
            await client.until_closed()


async def test_a_client_that_does_not_answer_the_drains_ping():
    gate = Gate()
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        server = Server([gate], options=ServerOptions(drain_ping_timeout=0.05, linger=PATIENCE))
        async with raw_client(server) as client:
            await client.send(client.make.request(1), client.make.message(1, b"", end_stream=True))
            await eventually(lambda: gate.waiting == 1)
            tasks.start_soon(server.shutdown)
            await client.until(lambda frame: frame == GoAway(1, ErrorCodes.NO_ERROR))
            gate.open.set()
            assert (await client.trailers(1))["grpc-status"] == "0"


async def test_a_connection_that_comes_in_the_drain_hears_of_it_after_the_settings():
    async with leaving_nothing():
        server = Server([Script()], options=ServerOptions(drain_ping_timeout=0.05, linger=PATIENCE))
        server.stop_accepting()
        async with raw_client(server) as client:
            frames = await client.until_closed()
        assert isinstance(frames[0], Settings)
        assert GOODBYE in frames


@in_both_ways
async def test_shutdown_loses_no_call(serving):
    gate = Gate()
    async with serving(gate, options=PATIENT) as served, anyio.create_task_group() as tasks:
        answers = []

        async def call() -> None:
            answers.append(await served.stub.unary(Note("kept")))

        for _ in range(50):
            tasks.start_soon(call)
        await eventually(lambda: gate.waiting == 50)
        tasks.start_soon(served.server.shutdown, PATIENCE)
        await turns()
        gate.open.set()
        await eventually(lambda: len(answers) == 50)
    assert answers == [Note("kept")] * 50


@in_both_ways
async def test_what_is_left_after_the_grace_is_unavailable(serving):
    gate = Gate()
    async with serving(gate, options=PATIENT) as served, anyio.create_task_group() as tasks:
        failures = []

        async def call() -> None:
            with pytest.raises(GRPCError) as raised:
                await served.stub.unary(Note())
            failures.append(raised.value)

        for _ in range(5):
            tasks.start_soon(call)
        await eventually(lambda: gate.waiting == 5)
        await served.server.shutdown(grace=0.05)
        assert gate.cancelled == 5
        assert served.server.active_calls == 0
        await eventually(lambda: len(failures) == 5)
        assert {failure.status for failure in failures} == {Status.UNAVAILABLE}
        assert {failure.message for failure in failures} == {"the server is shutting down"}


async def test_shutdown_waits_for_what_servicers_have_to_do():
    """Also after their calls were cancelled."""
    cleaned_up = False

    async def method(stream):
        nonlocal cleaned_up
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
            cleaned_up = True

    async with leaving_nothing():
        server = Server([Script(method)], options=ServerOptions(linger=0.05))
        async with raw_client(server) as client:
            await client.send(client.make.request(1, end_stream=True))
            await eventually(lambda: server.active_calls == 1)
            await server.shutdown(grace=0)
            assert cleaned_up


async def test_a_client_that_has_shut_its_window_is_told_by_the_status():
    async def method(stream):
        await stream.recv_message()
        await stream.send_message(Note("x" * 1000))

    async with leaving_nothing():
        server = Server([Script(method)], options=PATIENT)
        async with raw_client(server, {4: 10}) as client:
            await client.send(client.make.request(1), client.make.message(1, b"", end_stream=True))
            await client.until(lambda frame: isinstance(frame, Headers))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.shutdown, 0)
                assert (await client.trailers(1))["grpc-status"] == str(Status.UNAVAILABLE.value)
                await client.transport.aclose()


async def test_a_client_that_does_not_hang_up_is_hung_up_on():
    async with leaving_nothing():
        server = Server([Script()], options=ServerOptions(linger=0.05, drain_ping_timeout=0.05))
        async with raw_client(server) as client:
            await client.until(lambda frame: isinstance(frame, Settings))
            with anyio.fail_after(PATIENCE):
                await server.shutdown()


async def test_a_client_that_does_not_read_does_not_hold_up_the_shutdown():
    async def flood(stream):
        while True:
            await stream.send_message(Note("x" * 10_000))

    async with leaving_nothing(), anyio.create_task_group() as tasks:
        server = Server([Script(server_streaming=flood)], options=ServerOptions(linger=0.05))
        ours, theirs = memory_transport_pair(buffered_sends=0)
        tasks.start_soon(server.serve_connection, theirs)
        async with ours:
            make = FrameFactory()
            await ours.send(
                make.preface({4: 2**31 - 1}) + make.request(1, "/test.Script/ServerStreaming", end_stream=True)
            )
            await eventually(lambda: server.active_calls == 1)
            await turns()
            with anyio.fail_after(PATIENCE):
                await server.shutdown(grace=0.05)


async def test_shutdown_before_anything_happened():
    async with leaving_nothing():
        await Server([Script()]).shutdown()


async def test_a_server_that_was_shut_down_does_not_begin_to_serve():
    """A signal may come before the listeners are there."""
    with held_port() as port:
        async with leaving_nothing():
            server = Server([Script()])
            await server.shutdown()
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
            with anyio.fail_after(PATIENCE):
                await server.serve(listener)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


async def test_shutdown_twice_at_once():
    gate = Gate()
    async with (
        leaving_nothing(),
        memory_channel(server := Server([gate], options=PATIENT)) as channel,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ScriptStub(channel).unary, Note())
        await eventually(lambda: gate.waiting == 1)
        async with anyio.create_task_group() as both:
            both.start_soon(server.shutdown, PATIENCE)
            both.start_soon(server.shutdown)
            await turns()
            gate.open.set()


async def test_a_cancelled_shutdown_leaves_the_server_draining():
    gate = Gate()
    async with (
        leaving_nothing(),
        memory_channel(server := Server([gate], options=PATIENT)) as channel,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ScriptStub(channel).unary, Note())
        await eventually(lambda: gate.waiting == 1)
        async with cancelled_at_rest():
            await server.shutdown()
            raise AssertionError("a call is left")
        assert gate.cancelled == 0
        gate.open.set()
        await server.shutdown()


async def test_serve_returns_after_the_shutdown():
    async def serve(*, task_status) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        await server.serve(listener, task_status=task_status)
        returned.set()

    with held_port() as port:
        async with leaving_nothing(), anyio.create_task_group() as tasks:
            server = Server([Script()])
            returned = anyio.Event()
            await tasks.start(serve)
            async with Channel(f"127.0.0.1:{port}") as channel:
                await ScriptStub(channel).unary(Note())
                await server.shutdown()
                await returned.wait()
                with pytest.raises(GRPCError) as raised:
                    await ScriptStub(channel).unary(Note())
                assert raised.value.status is Status.UNAVAILABLE


async def test_stop_accepting_leaves_open_connections_alone():
    with held_port() as port:
        async with leaving_nothing():
            server = Server([Script()])
            async with listening(server, port), Channel(f"127.0.0.1:{port}") as channel:
                await ScriptStub(channel).unary(Note())
                server.stop_accepting()
                assert await ScriptStub(channel).unary(Note("still")) == Note("still")
                with pytest.raises(OSError):  # noqa: PT011, PT012 - refused, in whatever way, as soon as it is closed
                    while True:
                        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                assert await ScriptStub(channel).unary(Note("and now")) == Note("and now")


async def test_calls_during_a_drain_go_to_the_next_server():
    """A rolling restart, as a client sees it: no call fails."""
    gates = [Gate(), Gate()]
    servers = [Server([gate], options=PATIENT) for gate in gates]

    async with leaving_nothing(), anyio.create_task_group() as tasks:

        async def connect():
            ours, theirs = memory_transport_pair()
            tasks.start_soon(servers[0].serve_connection, theirs)
            return ours

        async with Channel(connect) as channel:
            answers = []

            async def call(text: str) -> None:
                answers.append((await ScriptStub(channel).unary(Note(text))).text)

            tasks.start_soon(call, "old")
            await eventually(lambda: gates[0].waiting == 1)
            old = servers.pop(0)
            tasks.start_soon(old.shutdown)
            await turns()
            tasks.start_soon(call, "new")
            await eventually(lambda: gates[1].waiting == 1)
            for gate in gates:
                gate.open.set()
            await eventually(lambda: len(answers) == 2)


# many at once


async def test_many_connections_at_once():
    async with leaving_nothing():
        server = Server([Script()])
        async with listening(server) as port, anyio.create_task_group() as tasks:

            async def call(text: str) -> None:
                async with Channel(f"127.0.0.1:{port}") as channel:
                    assert await ScriptStub(channel).unary(Note(text)) == Note(text)

            for number in range(30):
                tasks.start_soon(call, str(number))


async def test_a_connection_above_the_limit_is_closed_and_the_log_says_why(monkeypatch):
    monkeypatch.setattr(_server.log, "_repeats", Repeats())  # other tests have logged that a moment ago
    async with leaving_nothing() as log:
        server = Server([Script()], options=ServerOptions(max_connections=1))
        async with raw_client(server) as client:
            ours, theirs = memory_transport_pair()
            await server.serve_connection(theirs)
            async with ours:
                with pytest.raises(anyio.EndOfStream):
                    await ours.receive()
            [line] = log
            assert (line["log_level"], line["max_connections"]) == ("warning", 1)
            await client.send(client.make.request(1), client.make.message(1, b"", end_stream=True))
            assert (await client.trailers(1))["grpc-status"] == "0"


async def test_a_bug_in_one_connection_does_not_end_the_server(monkeypatch):
    async with leaving_nothing():
        server = Server([Script()])
        async with listening(server) as port:
            with monkeypatch.context() as patch:
                patch.setattr("connectrio.rpc._server.server.Peer", lambda transport: 1 / 0)
                stream = await anyio.connect_tcp("127.0.0.1", port)
                async with stream:
                    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                        await stream.receive()
            async with Channel(f"127.0.0.1:{port}") as channel:
                assert await ScriptStub(channel).unary(Note("on")) == Note("on")


async def test_active_calls_counts_calls():
    gate = Gate()
    async with (
        leaving_nothing(),
        memory_channel(server := Server([gate])) as channel,
        anyio.create_task_group() as tasks,
    ):
        assert server.active_calls == 0
        for _ in range(3):
            tasks.start_soon(ScriptStub(channel).unary, Note())
        await eventually(lambda: gate.waiting == 3)
        assert server.active_calls == 3
        gate.open.set()
        await eventually(lambda: server.active_calls == 0)


@pytest.mark.parametrize("half", ["request", "response"])
async def test_one_side_may_end_long_before_the_other(half: str):
    async def method(stream):
        if half == "request":
            async for _ in stream:
                pass
            await turns()
        await stream.send_message(Note("done"))

    async with (
        leaving_nothing(),
        memory_channel(Server([Script(bidi=method)])) as channel,
        channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream,
    ):
        await stream.send_request()
        if half == "request":
            await stream.end()
        assert await stream.recv_message() == Note("done")
        assert await stream.recv_message() is None


async def test_a_path_is_served_by_the_last_servicer_that_has_it():
    async def other(stream):
        await stream.recv_message()
        await stream.send_message(Note("the other"))

    async with leaving_nothing(), memory_channel(Server([Script(), Script(other)])) as channel:
        assert await ScriptStub(channel).unary(Note()) == Note("the other")
    assert UNARY in Script().__mapping__()


async def test_a_raw_peers_silence_is_no_call():
    async with leaving_nothing():
        server = Server([Script()])
        async with raw_client(server) as client:
            assert isinstance(client, RawPeer)
            await turns()
            assert server.active_calls == 0
