"""Clients that cancel, vanish or stop reading, and what their calls' servicers see of it."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import anyio
import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from connectrio.rpc import Server, ServerOptions
from connectrio.rpc._grpc import frame_message
from connectrio.rpc._http2.stream import Stream, StreamTerminatedError
from connectrio.rpc.testing import memory_transport_pair
from rpc.kit.frames import FrameFactory, Headers, Reset
from rpc.kit.raw import raw_client
from rpc.kit.script import BIDI, CLIENT_STREAMING, SERVER_STREAMING, UNARY, Note, Script, ScriptBase
from rpc.kit.serving import eventually, in_both_ways, in_memory, leaving_nothing, listening, turns


class Witness:
    """A servicer's method that waits for ever, and how it ends."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.ended = anyio.Event()
        self.error: BaseException | None = None

    async def __call__(self, stream) -> None:
        self.started.set()
        try:
            await self.wait(stream)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()

    async def wait(self, stream) -> None:
        await anyio.sleep_forever()


class Reader(Witness):
    async def wait(self, stream) -> None:
        async for _ in stream:
            pass


class Writer(Witness):
    async def wait(self, stream) -> None:
        while True:
            await stream.send_message(Note("x" * 100_000))


each_witness = pytest.mark.parametrize("witness", [Witness, Reader, Writer])


# the client cancels


@in_both_ways
@each_witness
async def test_a_cancelled_call_cancels_its_servicer(serving, witness: type[Witness]):
    seen = witness()
    async with serving(Script(bidi=seen)) as served, anyio.create_task_group() as tasks:

        async def call() -> None:
            async with served.channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream:
                await stream.send_request()
                await anyio.sleep_forever()

        tasks.start_soon(call)
        await seen.started.wait()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await seen.ended.wait()
            assert isinstance(seen.error, anyio.get_cancelled_exc_class() | StreamTerminatedError)
            assert await served.stub.unary(Note("on")) == Note("on")


@each_witness
async def test_cancel_is_a_reset(witness: type[Witness]):
    seen = witness()
    async with (
        in_memory(Script(bidi=seen)) as served,
        served.channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream,
    ):
        await stream.send_request()
        await seen.started.wait()
        await stream.cancel()
        await seen.ended.wait()
        with pytest.raises(GRPCError) as raised:
            await stream.recv_message()
        assert raised.value.status is Status.CANCELLED


@each_witness
@pytest.mark.parametrize("code", [ErrorCodes.CANCEL, ErrorCodes.NO_ERROR, ErrorCodes.INTERNAL_ERROR])
async def test_a_reset_cancels_and_nothing_is_answered(witness: type[Witness], code: ErrorCodes):
    seen = witness()
    async with leaving_nothing():
        server = Server([Script(bidi=seen)])
        async with raw_client(server, {4: 1000}) as client:
            await client.send(client.make.request(1, BIDI))
            await seen.started.wait()
            await client.send(client.make.reset(1, code))
            await seen.ended.wait()
            await client.send(client.make.request(3), client.make.message(3, b"", end_stream=True))
            await client.trailers(3)
            assert not [frame for frame in client.of(1) if isinstance(frame, Reset) or getattr(frame, "end_stream", 0)]
            await eventually(lambda: server.active_calls == 0)


async def test_a_reset_before_the_servicer_has_begun():
    began = []

    async def method(stream):
        began.append(True)
        await anyio.sleep_forever()

    async with leaving_nothing():
        server = Server([Script(method)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1), client.make.reset(1))
            await client.send(client.make.request(3, BIDI, end_stream=True))
            await client.trailers(3)
            await eventually(lambda: server.active_calls == 0)


async def test_what_had_arrived_before_the_reset_cannot_hold_the_slot():
    started = anyio.Event()

    async def method(stream):
        started.set()
        with suppress(StreamTerminatedError):
            async for _ in stream:
                pass

    async with leaving_nothing():
        server = Server([Script(bidi=method)], options=ServerOptions(max_concurrent_streams=1))
        async with raw_client(server) as client:
            await client.send(client.make.request(1, BIDI))
            await started.wait()
            await client.send(client.make.message(1, b"x" * 50_000), client.make.reset(1))
            await eventually(lambda: server.active_calls == 0)
            await client.send(client.make.request(3, BIDI, end_stream=True))
            assert (await client.trailers(3))["grpc-status"] == "0"


async def test_a_cancelled_servicer_that_cleans_up_holds_no_slot():
    cleaning, cleaned = anyio.Event(), anyio.Event()

    async def method(stream):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                cleaning.set()
                await cleaned.wait()

    async with leaving_nothing():
        server = Server([Script(method)], options=ServerOptions(max_concurrent_streams=1))
        async with raw_client(server) as client:
            await client.send(client.make.request(1))
            await eventually(lambda: server.active_calls == 1)
            await client.send(client.make.reset(1))
            await cleaning.wait()
            await client.send(client.make.request(3, BIDI, end_stream=True))
            assert (await client.trailers(3))["grpc-status"] == "0"
            assert server.active_calls == 1
            cleaned.set()
            await eventually(lambda: server.active_calls == 0)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        SystemExit(),
        KeyboardInterrupt(),
        GRPCError(Status.ABORTED),
        BaseExceptionGroup("e", [SystemExit()]),
    ],
)
async def test_whatever_is_raised_in_cleaning_up_stays_inside(error: BaseException):
    started = anyio.Event()

    async def method(stream):
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    async with leaving_nothing():
        server = Server([Script(method)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1))
            await started.wait()
            await client.send(client.make.reset(1), client.make.request(3, BIDI, end_stream=True))
            assert (await client.trailers(3))["grpc-status"] == "0"
            await eventually(lambda: server.active_calls == 0)


async def test_a_servicer_that_swallows_its_cancellation():
    started = anyio.Event()
    sent = []

    async def method(stream):
        started.set()
        with suppress(BaseException):
            await anyio.sleep_forever()
        try:
            await stream.send_message(Note("into the void"))
        except StreamTerminatedError as error:
            sent.append(error)

    async with leaving_nothing():
        server = Server([Script(method)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1))
            await started.wait()
            await client.send(client.make.reset(1))
            await eventually(lambda: bool(sent))
            await eventually(lambda: server.active_calls == 0)


async def test_a_violation_on_one_stream_cancels_its_servicer_only():
    seen, other = Witness(), Witness()
    async with leaving_nothing():
        server = Server([Script(seen, other)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, end_stream=True), client.make.request(3, SERVER_STREAMING))
            await seen.started.wait()
            await client.send(client.make.data(1, b"after the end"))
            await seen.ended.wait()
            assert await client.whole(1) == [Reset(1, ErrorCodes.STREAM_CLOSED)]
            await turns()
            assert not other.ended.is_set()


# the connection is lost


@each_witness
async def test_a_closed_connection_cancels_its_servicers(witness: type[Witness]):
    seen = [witness(), witness()]
    async with leaving_nothing():
        server = Server([Script(bidi=seen[0], client_streaming=seen[1])])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, BIDI), client.make.request(3, CLIENT_STREAMING))
            for each in seen:
                await each.started.wait()
            await client.transport.aclose()
            for each in seen:
                await each.ended.wait()
        await eventually(lambda: server.active_calls == 0)


@each_witness
@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_lost_connection_cancels_its_servicers(witness: type[Witness], how: str):
    seen = witness()
    async with leaving_nothing():
        server = Server([Script(bidi=seen)])
        async with listening(server) as port:
            make = FrameFactory()
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(make.preface({4: 0}) + make.settings_ack() + make.request(1, BIDI))
                await seen.started.wait()
                if how == "RST":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await seen.ended.wait()
            await eventually(lambda: server.active_calls == 0)


async def test_a_violation_of_the_protocol_cancels_every_servicer():
    seen = [Witness(), Reader()]
    async with leaving_nothing():
        server = Server([Script(seen[0], bidi=seen[1])])
        async with raw_client(server) as client:
            await client.send(client.make.request(1), client.make.request(3, BIDI))
            for each in seen:
                await each.started.wait()
            await client.send(client.make.raw(0x00, 0, 0, b"data on stream 0"))
            for each in seen:
                await each.ended.wait()
        await eventually(lambda: server.active_calls == 0)


async def test_a_client_that_hangs_up_in_the_middle_of_a_response():
    seen = Writer()
    async with leaving_nothing():
        server = Server([Script(server_streaming=seen)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, SERVER_STREAMING), client.make.message(1, b"", end_stream=True))
            await client.until(lambda frame: isinstance(frame, Headers))
            await client.transport.aclose()
            await seen.ended.wait()
        await eventually(lambda: server.active_calls == 0)


async def test_a_client_that_stops_reading_is_not_written_to_without_end():
    seen = Writer()
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        server = Server([Script(server_streaming=seen)], options=ServerOptions(write_buffer=10_000))
        ours, theirs = memory_transport_pair(buffered_sends=0)
        tasks.start_soon(server.serve_connection, theirs)
        make = FrameFactory()
        async with ours:
            await ours.send(make.preface({4: 2**31 - 1}) + make.window_update(0, 2**30))
            await ours.send(make.request(1, SERVER_STREAMING) + make.message(1, b"", end_stream=True))
            await seen.started.wait()
            await turns(100)
            [connection] = server._connections
            assert connection.core.output_size() < 12_000
        await seen.ended.wait()


async def test_nothing_is_left_when_a_betterproto_servicer_is_cancelled_while_it_sends():
    """On trio a generator that nobody closed would warn."""
    ended = anyio.Event()

    class Flood(ScriptBase):
        async def server_streaming(self, note: Note):
            try:
                while True:
                    yield Note("x" * 10_000)
            finally:
                ended.set()

    async with leaving_nothing():
        server = Server([Flood()])
        async with raw_client(server, {}) as client:
            await client.send(client.make.request(1, SERVER_STREAMING), client.make.message(1, b"", end_stream=True))
            await client.until(lambda frame: isinstance(frame, Headers))
            await client.send(client.make.reset(1))
            await ended.wait()
            await eventually(lambda: server.active_calls == 0)


# windows


def streams_of(server: Server) -> list[Stream]:
    return [stream for connection in server._connections for stream in connection.core.streams.values()]


def holds(streams: list[Stream], note: Note) -> bool:
    """Whether these calls have received the whole of `note` between them, and nobody has read any of it."""
    unread = sum(len(data) for stream in streams for data, _ in stream._chunks)
    return unread == len(frame_message(note.SerializeToString()))


@pytest.mark.parametrize("size", [1000, 60_000])
async def test_a_hundred_cancelled_calls_leave_the_connections_window_whole(size: int):
    """What they had received and never read goes back."""

    async def deaf(stream):
        await anyio.sleep_forever()

    async with in_memory(
        Script(client_streaming=deaf), options=ServerOptions(connection_window=65_535, stream_window=65_535)
    ) as served:
        note = Note("x" * size)
        for _ in range(100):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(served.stub.client_streaming, [note])
                await eventually(lambda: holds(streams_of(served.server), note))
                tasks.cancel_scope.cancel()
            await eventually(lambda: not streams_of(served.server))
        large = Note("x" * 200_000)
        assert await served.stub.unary(large) == large


async def test_a_hundred_cancelled_calls_leave_the_clients_window_whole():
    from connectrio.rpc import ChannelOptions

    note = Note("x" * 60_000)

    async def flood(stream):
        await stream.send_message(note)
        await anyio.sleep_forever()

    async with in_memory(
        Script(server_streaming=flood), channel_options=ChannelOptions(connection_window=65_535, stream_window=65_535)
    ) as served:
        for _ in range(100):
            with anyio.CancelScope() as scope:
                async with served.channel.request(SERVER_STREAMING, Cardinality.UNARY_STREAM, Note, Note) as stream:
                    await stream.send_message(Note(), end=True)
                    await eventually(lambda: holds([stream._attempts.stream], note))
                    scope.cancel()
                    await anyio.sleep_forever()
        large = Note("x" * 200_000)
        assert await served.stub.unary(large) == large


async def test_unknown_paths_are_unary_too():
    async with in_memory(Script()) as served:
        with pytest.raises(GRPCError) as raised:
            await served.stub._unary_unary(UNARY + "Not", Note(), Note)
        assert raised.value.status is Status.UNIMPLEMENTED
