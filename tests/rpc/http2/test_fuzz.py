"""Whatever a peer sends, nothing but its own connection's end comes of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import anyio
from grpclib.exceptions import GRPCError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from connectrio.rpc import Channel, ChannelOptions, Server, ServerOptions
from connectrio.rpc._grpc import frame_message
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.connection import Connection, ConnectionState
from connectrio.rpc._http2.server_side import RequestArrived, ServerConnection
from connectrio.rpc._http2.stream import Stream, StreamState, StreamTerminatedError
from connectrio.rpc.testing import memory_channel, memory_transport_pair
from rpc.kit.core import take_all
from rpc.kit.frames import FrameFactory, request_headers
from rpc.kit.raw import RawServer
from rpc.kit.script import BIDI, UNARY, Note, Script, ScriptStub
from rpc.kit.serving import eventually, leaving_nothing

# the machine may be slow, and what a seed leads to is not
unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck))

RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
STREAM_IDS = st.sampled_from([0, 1, 2, 3, 5, 7, 2**31 - 1])


# bytes that a peer could send, and what becomes of them on the way


def valid_request_frames(make: FrameFactory) -> list[bytes]:
    """A conversation as a client has it, frame by frame."""
    return [
        make.preface({SettingCodes.INITIAL_WINDOW_SIZE: 70_000}),
        make.settings_ack(),
        make.window_update(0, 1000),
        make.request(1, UNARY, extra=[("grpc-timeout", "10S"), ("x-bin", "AAEC")]),
        make.message(1, b"unary", end_stream=True),
        make.request(3, BIDI, extra=[("x-indexed", "value")]),
        make.message(3, b"first"),
        make.data(3, frame_message(b"second")[:6], padding=3),
        make.data(3, frame_message(b"second")[6:]),
        make.ping(),
        make.request(5, BIDI, extra=[("x-indexed", "value")]),
        make.reset(5),
        make.window_update(3, 100),
        make.data(3, end_stream=True),
        make.request(7, "/no/such", end_stream=True),
        make.settings({SettingCodes.INITIAL_WINDOW_SIZE: 10}),
        make.goaway(0),
    ]


def valid_response_frames(make: FrameFactory) -> list[bytes]:
    """A conversation as a server has it."""
    return [
        make.settings({SettingCodes.MAX_CONCURRENT_STREAMS: 10}),
        make.settings_ack(),
        make.window_update(0, 1000),
        make.headers(1, RESPONSE),
        make.message(1, b"answer"),
        make.headers(1, [("grpc-status", "0")], end_stream=True),
        make.headers(3, [*RESPONSE, ("x-bin", "AAEC")]),
        make.message(3, b"one"),
        make.ping(),
        make.reset(3, ErrorCodes.INTERNAL_ERROR),
        make.headers(5, [*RESPONSE, ("grpc-status", "5")], end_stream=True),
        make.goaway(5),
    ]


def flip(frames: list[bytes], draw: Callable) -> None:
    index = draw(st.integers(0, len(frames) - 1))
    frame = bytearray(frames[index])
    if frame:
        position = draw(st.integers(0, len(frame) - 1))
        frame[position] ^= 1 << draw(st.integers(0, 7))
        frames[index] = bytes(frame)


def truncate(frames: list[bytes], draw: Callable) -> None:
    index = draw(st.integers(0, len(frames) - 1))
    frames[index] = frames[index][: draw(st.integers(0, len(frames[index])))]


def duplicate(frames: list[bytes], draw: Callable) -> None:
    index = draw(st.integers(0, len(frames) - 1))
    frames.insert(index, frames[index])


def drop(frames: list[bytes], draw: Callable) -> None:
    if len(frames) > 1:
        frames.pop(draw(st.integers(0, len(frames) - 1)))


def swap(frames: list[bytes], draw: Callable) -> None:
    one, other = (draw(st.integers(0, len(frames) - 1)) for _ in range(2))
    frames[one], frames[other] = frames[other], frames[one]


def insert_noise(frames: list[bytes], draw: Callable) -> None:
    frames.insert(draw(st.integers(0, len(frames))), draw(st.binary(max_size=30)))


def insert_frame(frames: list[bytes], draw: Callable) -> None:
    """Any type, any flags, any stream, any body."""
    frame_type, flags, body = draw(st.integers(0, 12)), draw(st.integers(0, 255)), draw(st.binary(max_size=30))
    frame = FrameFactory().raw(frame_type, flags, draw(STREAM_IDS), body)
    frames.insert(draw(st.integers(0, len(frames))), frame)


MUTATIONS = [flip, flip, truncate, duplicate, drop, swap, insert_noise, insert_frame]


@st.composite
def mutated(draw: Callable, valid: Callable[[FrameFactory], list[bytes]]) -> list[bytes]:
    """What is left of a valid conversation, in pieces as a socket might deliver them."""
    frames = valid(FrameFactory())
    for mutation in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=4)):
        mutation(frames, draw)
    data = b"".join(frames)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


# the cores


def feed(connection: Connection, pieces: list[bytes]) -> None:
    for piece in pieces:
        connection.feed(piece)
        while connection.process(max_frames=3):
            pass


def check_end(connection: Connection, streams: list[Stream]) -> None:
    """The connection can be ended, and nothing of it is left."""
    connection.fail("the end")
    for stream in streams:
        assert stream.state is StreamState.CLOSED
        take_all(stream)
        stream.reset(ErrorCodes.CANCEL)
        stream.release()
    assert connection.streams == {}
    connection.take_output()


@given(mutated(valid_request_frames), st.booleans())
@settings(unhurried, max_examples=300)
def test_a_servers_core_takes_any_bytes(pieces: list[bytes], at_once: bool):
    streams: list[Stream] = []
    connection = ServerConnection(ServerOptions(max_concurrent_streams=2))
    for piece in pieces:
        feed(connection, [piece])
        arrived = [event.stream for event in connection.take_events() if isinstance(event, RequestArrived)]
        streams += arrived
        if at_once:
            for stream in arrived:
                answer(stream)
    for stream in streams:
        answer(stream)
    check_end(connection, streams)


def answer(stream: Stream) -> None:
    """As a servicer would, as far as it gets."""
    if stream.local_is_done:
        return
    try:
        take_all(stream)
        stream.send_headers(RESPONSE)
        stream.send_some(memoryview(bytes(100)))
        stream.send_headers([("grpc-status", "0")], end_stream=True)
    except StreamTerminatedError:
        pass


@given(mutated(valid_response_frames))
@settings(unhurried, max_examples=300)
def test_a_clients_core_takes_any_bytes(pieces: list[bytes]):
    connection = ClientConnection(ChannelOptions())
    streams = [connection.open(request_headers()) for _ in range(3)]
    connection.take_output()
    feed(connection, pieces)
    for stream in streams:
        if stream.termination is None and not stream.local_is_done:
            stream.send_some(memoryview(bytes(100)), end_stream=True)
    check_end(connection, streams)


@given(st.lists(st.binary(max_size=200), max_size=5))
@settings(unhurried, max_examples=100)
def test_a_servers_core_takes_noise(pieces: list[bytes]):
    connection = ServerConnection(ServerOptions())
    feed(connection, pieces)
    check_end(connection, list(connection.streams.values()))


# whole servers and clients


@given(st.lists(mutated(valid_request_frames), min_size=1, max_size=3))
@settings(unhurried, max_examples=25)
async def test_a_server_survives_any_client(conversations: list[list[bytes]]):
    async with leaving_nothing():
        server = Server([Script()], options=ServerOptions(linger=0.01, drain_ping_timeout=0.01))
        async with memory_channel(server) as channel:
            for pieces in conversations:
                ours, theirs = memory_transport_pair()
                async with ours, anyio.create_task_group() as tasks:
                    tasks.start_soon(server.serve_connection, theirs)
                    with suppress(anyio.BrokenResourceError):  # it has hung up
                        for piece in pieces:
                            await ours.send(piece)
                    assert await ScriptStub(channel).unary(Note("others")) == Note("others")
                    await ours.aclose()
        await eventually(lambda: server.active_calls == 0)


@given(mutated(valid_response_frames))
@settings(unhurried, max_examples=20)
async def test_a_client_survives_any_server(pieces: list[bytes]):
    """Its call ends, with an answer or a status."""

    async def serve() -> None:
        peer = await raw.accept_silently()
        with suppress(anyio.BrokenResourceError):
            for piece in pieces:
                await peer.send(piece)
        await peer.transport.aclose()

    options = ChannelOptions(close_timeout=0.01, connect_timeout=0.05)
    async with (
        leaving_nothing(),
        RawServer() as raw,
        Channel(raw.connect, options=options) as channel,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(serve)
        with suppress(GRPCError):
            await ScriptStub(channel).unary(Note("question"), timeout=0.05)
        tasks.cancel_scope.cancel()


# a client that keeps to the protocol, in any order


class ServerMachine(RuleBasedStateMachine):
    """h2's own client and a server's core, with calls that come, go, stall and break off as they please."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[int, Stream] = {}
        options = ServerOptions(
            max_concurrent_streams=3,
            stream_window=65_535,
            connection_window=65_535,
            reset_budget=10**6,
            control_budget=10**6,
        )
        self.server = ServerConnection(options)
        self.client = H2Connection(H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.sent: dict[int, bytes] = {}
        self.received: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.exchange()

    def exchange(self) -> None:
        """Carry bytes both ways until there are none."""
        while True:
            upwards, downwards = self.client.data_to_send(), self.server.take_output()
            if not upwards and not downwards:
                return
            feed(self.server, [upwards])
            for event in self.server.take_events():
                if isinstance(event, RequestArrived):
                    self.requests[event.stream.id] = event.stream
            for event in self.client.receive_data(downwards):
                if isinstance(event, DataReceived):
                    self.received[event.stream_id] = self.received.get(event.stream_id, b"") + event.data
                    self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if isinstance(event, StreamEnded | StreamReset | TrailersReceived):
                    self.ended.add(event.stream_id)

    @precondition(lambda self: self.client.open_outbound_streams < 3)
    @rule(target=calls)
    def call(self) -> int:
        """Never refused: what is over for the client takes no slot, released or not."""
        stream_id = self.client.get_next_available_stream_id()
        self.client.send_headers(stream_id, request_headers())
        self.sent[stream_id] = b""
        self.exchange()
        assert stream_id in self.requests
        return stream_id

    def is_open(self, call: int) -> bool:
        stream = self.requests.get(call)
        return stream is not None and call not in self.ended and stream.termination is None and not stream.is_complete

    @rule(call=calls, size=st.integers(1, 40_000), padding=st.none() | st.integers(0, 255))
    def client_sends(self, call: int, size: int, padding: int | None) -> None:
        if not self.is_open(call):
            return
        room = min(
            self.client.local_flow_control_window(call) - (padding or 0) - 1, self.client.max_outbound_frame_size - 257
        )
        data = bytes(min(size, max(room, 0)))
        if data:
            self.client.send_data(call, data, pad_length=padding)
            self.sent[call] += data
        self.exchange()

    @rule(call=calls)
    def client_ends(self, call: int) -> None:
        if self.is_open(call):
            self.client.end_stream(call)
            self.exchange()

    @rule(call=calls)
    def client_resets(self, call: int) -> None:
        if self.is_open(call):
            self.client.reset_stream(call, ErrorCodes.CANCEL)
            self.ended.add(call)
            self.exchange()

    @rule(call=calls)
    def server_reads(self, call: int) -> None:
        stream = self.requests.get(call)
        if stream is not None and stream.id in self.server.streams:
            chunk = stream.take()
            if chunk is not None:
                assert self.sent[call].startswith(chunk)
                self.sent[call] = self.sent[call][len(chunk) :]
        self.exchange()

    @rule(call=calls, size=st.integers(1, 40_000))
    def server_sends(self, call: int, size: int) -> None:
        stream = self.requests.get(call)
        if stream is None or stream.local_is_done:
            return
        if call not in self.received:
            stream.send_headers(RESPONSE)
            self.received[call] = b""
        stream.send_some(memoryview(bytes(size)))
        self.exchange()

    @rule(call=consumes(calls), status=st.booleans())
    def server_ends(self, call: int, status: bool) -> None:
        stream = self.requests.pop(call, None)
        if stream is None:
            return
        if status and not stream.local_is_done:
            stream.send_headers(
                [*RESPONSE, ("grpc-status", "0")] if call not in self.received else [("grpc-status", "0")],
                end_stream=True,
            )
        stream.reset(ErrorCodes.NO_ERROR)
        stream.release()
        self.exchange()

    @rule(size=st.integers(0, 100_000))
    def client_changes_its_window(self, size: int) -> None:
        self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})
        self.exchange()

    @invariant()
    def the_connection_lives(self) -> None:
        assert self.server.state is ConnectionState.OPEN, self.server.end_reason

    @invariant()
    def no_more_than_the_slots(self) -> None:
        assert set(self.server.streams) == set(self.requests)
        assert self.server.running() <= 3

    @invariant()
    def what_is_read_is_credited(self) -> None:
        manager = self.server.h2._inbound_flow_control_window_manager
        unread = sum(length for stream in self.requests.values() for _, length in stream._chunks)
        assert manager.current_window_size + manager._bytes_processed + unread == manager.max_window_size

    @invariant()
    def released_streams_are_forgotten(self) -> None:
        assert set(self.server.h2.streams) <= set(self.requests)


ServerMachine.TestCase.settings = settings(unhurried, max_examples=40, stateful_step_count=40)
TestServerMachine = ServerMachine.TestCase
