"""The server's core, against a bare h2 client and against raw frames: what it sends, frame by frame."""

from __future__ import annotations

import itertools

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, TrailersReceived
from h2.settings import SettingCodes

from connectrio.rpc._grpc import frame_message
from connectrio.rpc._http2.connection import LAST_POSSIBLE_STREAM, ConnectionState
from connectrio.rpc._http2.server_side import RequestArrived, ServerConnection, StreamTerminated
from connectrio.rpc._http2.stream import Stream, StreamState, StreamTerminatedError, TerminationCause
from connectrio.rpc.options import KIB, MIB, ServerOptions
from rpc.kit.core import CountedWakeup, ServerCore, take_all, take_messages
from rpc.kit.frames import (
    Data,
    GoAway,
    Headers,
    Ping,
    Reset,
    Settings,
    SettingsAck,
    WindowUpdate,
    request_headers,
)

RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]
DRAIN_PING = b"drain..."
DEFAULT_WINDOW = 65_535


def answer(stream: Stream, *messages: bytes) -> None:
    """Send a whole response."""
    stream.send_headers(RESPONSE)
    for message in messages:
        framed = memoryview(frame_message(message))
        assert stream.send_some(framed) == len(framed)
    stream.send_headers(TRAILERS, end_stream=True)


class BareClient:
    """h2's own client, connected to a `ServerConnection`."""

    def __init__(self, **options: int) -> None:
        self.requests: list[Stream] = []
        self.server = ServerConnection(ServerOptions(**options))
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.exchange()

    def exchange(self) -> list[Event]:
        """Carry bytes both ways until neither side has any; what the client saw."""
        events: list[Event] = []
        while data := self.h2.data_to_send():
            self.server.feed(data)
            while self.server.process(max_frames=3):
                pass
            self.requests += [each.stream for each in self.server.take_events() if isinstance(each, RequestArrived)]
            events += self.h2.receive_data(self.server.take_output())
        output = self.server.take_output()
        return events + (self.h2.receive_data(output) + self.exchange() if output else [])

    def call(self, message: bytes, *, end_stream: bool = True) -> Stream:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, request_headers())
        self.h2.send_data(stream_id, frame_message(message), end_stream=end_stream)
        self.exchange()
        return self.requests[-1]


# opening a connection


def test_the_first_frames_are_the_settings_and_the_connection_window():
    server = ServerCore(handshake=False)

    settings, window = server.sent()

    assert isinstance(settings, Settings)
    assert settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 1000
    assert settings[SettingCodes.INITIAL_WINDOW_SIZE] == MIB
    assert settings[SettingCodes.MAX_HEADER_LIST_SIZE] == 16 * KIB
    assert window == WindowUpdate(0, 4 * MIB - DEFAULT_WINDOW)


def test_the_preface_may_arrive_byte_by_byte():
    server = ServerCore(handshake=False)
    server.sent()

    data = server.peer.preface() + server.peer.request(1)
    answers = server.exchange(*(data[index : index + 1] for index in range(len(data))))

    assert answers == [SettingsAck()]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/1.1"]
)
def test_what_is_not_http2_ends_the_connection(start: bytes):
    server = ServerCore(handshake=False)

    server.receive(start)

    assert server.connection.state is ConnectionState.CLOSED


# calls


def test_a_unary_call():
    client = BareClient()

    request = client.call(b"question")

    assert request.headers == request_headers()
    assert request.state is StreamState.HALF_CLOSED_REMOTE
    assert request.is_complete
    assert take_messages(request) == [b"question"]
    answer(request, b"answer")
    request.release()
    events = client.exchange()
    assert [type(event) for event in events] == [ResponseReceived, DataReceived, TrailersReceived, StreamEnded]
    assert events[1].data == frame_message(b"answer")
    assert client.server.streams == {}


def test_a_response_is_exactly_its_frames():
    server = ServerCore()
    stream = server.request(1)
    server.receive(server.peer.message(1, b"question", end_stream=True))

    answer(stream, b"answer")
    stream.release()

    assert server.sent() == [
        Headers(1, tuple(RESPONSE)),
        Data(1, frame_message(b"answer")),
        Headers(1, tuple(TRAILERS), end_stream=True),
    ]


def test_spaces_around_header_values_are_not_sent():
    """A peer may end the whole connection over them."""
    client = BareClient()
    request = client.call(b"")

    request.send_headers([*RESPONSE, ("x-padded", "  a b "), ("x-blank", " ")])
    request.send_headers([("grpc-status", "13"), ("grpc-message", "failed: ")], end_stream=True)

    response, trailers, *_ = client.exchange()
    assert response.headers[2:] == [("x-padded", "a b"), ("x-blank", "")]
    assert trailers.headers == [("grpc-status", "13"), ("grpc-message", "failed:")]


def test_streams_are_answered_in_any_order():
    server = ServerCore()
    first, second = server.request(1), server.request(3)

    answer(second, b"2")
    answer(first, b"1")

    assert [frame.stream_id for frame in server.sent()] == [3, 3, 3, 1, 1, 1]


@pytest.mark.parametrize("split", range(1, 21))
def test_messages_split_at_any_byte_are_the_same_messages(split: int):
    server = ServerCore()
    stream = server.request(1)
    data = frame_message(b"first") + frame_message(b"") + frame_message(b"last")

    server.receive(server.peer.data(1, data[:split]) + server.peer.data(1, data[split:], end_stream=True))

    assert take_messages(stream) == [b"first", b"", b"last"]
    assert stream.is_complete


def test_one_byte_at_a_time_is_the_same_message():
    server = ServerCore()
    stream = server.request(1)

    for byte in frame_message(b"slowly"):
        server.receive(server.peer.data(1, bytes([byte])))
    server.receive(server.peer.data(1, end_stream=True))

    assert take_messages(stream) == [b"slowly"]


def test_a_message_of_no_bytes_is_a_message():
    server = ServerCore()
    stream = server.request(1)
    server.receive(server.peer.message(1, b"", end_stream=True))

    assert take_messages(stream) == [b""]


def test_request_trailers_end_the_request():
    server = ServerCore()
    stream = server.request(1)

    server.receive(server.peer.headers(1, [("x-checksum", "1")], end_stream=True))

    assert stream.trailers == [("x-checksum", "1")]
    assert stream.is_complete


def test_a_stream_is_served_before_the_client_has_ended_it():
    server = ServerCore()
    stream = server.request(1)
    server.receive(server.peer.message(1, b"one"))

    answer(stream, b"early")
    stream.reset(ErrorCodes.NO_ERROR)
    stream.release()

    assert server.sent()[2:] == [Headers(1, tuple(TRAILERS), end_stream=True), Reset(1, ErrorCodes.NO_ERROR)]


def test_a_request_can_be_answered_as_soon_as_it_has_arrived():
    """One without a body has ended by then, so that it needs no reset."""
    server = ServerCore()
    for stream in server.request(1, end_stream=True), server.request(3):
        stream.send_headers([(":status", "405")], end_stream=True)
        stream.reset(ErrorCodes.NO_ERROR)
        stream.release()

    assert server.sent() == [
        Headers(1, ((":status", "405"),), end_stream=True),
        Headers(3, ((":status", "405"),), end_stream=True),
        Reset(3, ErrorCodes.NO_ERROR),
    ]
    assert server.connection.state is ConnectionState.OPEN


# receiving: flow control


def test_bytes_are_credited_when_they_are_taken_not_when_they_arrive():
    server = ServerCore(stream_window=DEFAULT_WINDOW, connection_window=DEFAULT_WINDOW)
    stream = server.request(1)

    assert server.exchange(*(server.peer.data(1, bytes(10_000)) for _ in range(6))) == []

    for _ in range(6):
        stream.take()
    assert server.sent() == [WindowUpdate(0, 40_000), WindowUpdate(1, 40_000)]


def test_padding_is_credited():
    server = ServerCore(stream_window=DEFAULT_WINDOW, connection_window=DEFAULT_WINDOW)
    stream = server.request(1)
    padded = server.peer.data(1, b"x", padding=255)  # 257 bytes of window: with the byte that says how much

    server.receive(padded * 200)
    assert take_all(stream) == b"x" * 200

    credited = [frame for frame in server.sent() if frame.stream_id == 1]
    assert credited == [WindowUpdate(1, 200 * 257)]


def test_a_window_full_of_tiny_frames_takes_little_more_than_the_window():
    server = ServerCore(stream_window=DEFAULT_WINDOW, connection_window=DEFAULT_WINDOW, control_budget=10**9)
    stream = server.request(1)
    server.receive(server.peer.data(1, b"ab") * (DEFAULT_WINDOW // 2))
    server.receive(server.peer.data(1, b"") * 1000)
    server.sent()

    chunks = []
    while (chunk := stream.take()) is not None:
        chunks.append(chunk)

    assert b"".join(chunks) == b"ab" * (DEFAULT_WINDOW // 2)
    assert len(chunks) <= 5
    assert WindowUpdate(1, 32_768) in server.sent()


def test_data_that_is_nothing_but_padding_is_credited():
    server = ServerCore(stream_window=DEFAULT_WINDOW, connection_window=DEFAULT_WINDOW)
    stream = server.request(1)

    server.receive(server.peer.data(1, padding=255) * 200)

    assert take_all(stream) == b""
    assert WindowUpdate(1, 200 * 256) in server.sent()


def test_a_request_larger_than_the_windows_gets_through():
    client = BareClient(stream_window=DEFAULT_WINDOW, connection_window=DEFAULT_WINDOW)
    message = bytes(range(256)) * 4096
    data, received = memoryview(frame_message(message)), bytearray()
    client.h2.send_headers(1, request_headers())

    while data:
        room = min(client.h2.local_flow_control_window(1), client.h2.max_outbound_frame_size)
        assert room > 0, "the windows must open as the request is read"
        client.h2.send_data(1, bytes(data[:room]), end_stream=len(data) <= room)
        data = data[room:]
        client.exchange()
        received += take_all(client.requests[0])
        client.exchange()

    assert bytes(received) == frame_message(message)


def test_more_than_the_window_ends_the_connection():
    server = ServerCore(stream_window=DEFAULT_WINDOW)
    stream = server.request(1)

    answers = server.exchange(server.peer.data(1, bytes(16_384)) * 4)

    assert answers[-1] == GoAway(1, ErrorCodes.FLOW_CONTROL_ERROR)
    assert stream.termination is not None


def test_a_client_may_use_the_protocols_window_before_it_has_read_the_settings():
    server = ServerCore(handshake=False)
    server.receive(server.peer.preface())
    server.receive(server.peer.request(1) + server.peer.data(1, bytes(16_384)) * 3 + server.peer.data(1, bytes(16_383)))

    server.receive(server.peer.settings_ack())

    assert server.connection.state is ConnectionState.OPEN


@pytest.mark.parametrize("option", ["stream_window", "connection_window"])
def test_windows_below_the_protocols_first_one_cannot_be_had(option: str):
    """A client may send 65,535 bytes before it knows better, and that must not end its connection."""
    with pytest.raises(ValueError, match="65,535"):
        ServerOptions(**{option: DEFAULT_WINDOW - 1})


def test_what_a_released_stream_did_not_read_goes_back_to_the_connection():
    server = ServerCore(connection_window=DEFAULT_WINDOW)
    chunk = bytes(10_000)

    for stream_id in range(1, 101, 2):
        stream = server.request(stream_id)
        server.receive(server.peer.data(stream_id, chunk))
        stream.reset(ErrorCodes.CANCEL)
        stream.release()

    assert server.connection.state is ConnectionState.OPEN
    credited = [frame.increment for frame in server.sent() if isinstance(frame, WindowUpdate)]
    assert sum(credited) == pytest.approx(50 * len(chunk), abs=DEFAULT_WINDOW // 2)


@pytest.mark.parametrize("when", ["before it is released", "after it is released"])
def test_what_arrives_after_a_reset_goes_back_to_the_connection(when: str):
    server = ServerCore(connection_window=DEFAULT_WINDOW)
    chunk = bytes(10_000)
    sent = []

    for stream_id in range(1, 101, 2):
        stream = server.request(stream_id)
        stream.reset(ErrorCodes.CANCEL)
        if when == "after it is released":
            stream.release()
        sent += server.exchange(server.peer.data(stream_id, chunk))
        stream.release()

    assert server.connection.state is ConnectionState.OPEN
    credited = [frame.increment for frame in sent + server.sent() if isinstance(frame, WindowUpdate)]
    assert sum(credited) == pytest.approx(50 * len(chunk), abs=DEFAULT_WINDOW // 2)


def test_what_a_terminated_stream_had_received_can_be_taken():
    server = ServerCore()
    stream = server.request(1)
    server.receive(server.peer.message(1, b"before") + server.peer.reset(1))

    assert take_messages(stream) == [b"before"]
    assert not stream.is_complete


# sending: flow control


def test_a_response_larger_than_the_windows_gets_through():
    client = BareClient()
    request = client.call(b"")
    message = bytes(range(256)) * 4096
    data, received = memoryview(frame_message(message)), bytearray()
    request.send_headers(RESPONSE)

    while data:
        sent = request.send_some(data)
        assert sent > 0, "the windows must open as the response is read"
        data = data[sent:]
        for event in client.exchange():
            if isinstance(event, DataReceived):
                received += event.data
                client.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        client.exchange()

    assert bytes(received) == frame_message(message)


def test_sending_stops_at_the_streams_window_and_goes_on_when_it_opens():
    server = ServerCore()
    server.receive(server.peer.settings({SettingCodes.INITIAL_WINDOW_SIZE: 10}))
    stream, other = server.request(1), server.request(3)
    server.sent()

    assert stream.send_some(memoryview(bytes(25))) == 10
    assert stream.send_some(memoryview(bytes(15))) == 0
    assert other.send_some(memoryview(bytes(10))) == 10  # not held up
    assert server.sent() == [Data(1, bytes(10)), Data(3, bytes(10))]

    server.receive(server.peer.window_update(1, 8))
    assert stream.send_some(memoryview(bytes(15))) == 8


def blocked(server: ServerCore, stream_id: int) -> CountedWakeup:
    """What wakes who waits to send more on a new stream."""
    stream = server.request(stream_id)
    wakeup = stream.writable = CountedWakeup()
    assert stream.send_some(memoryview(bytes(MIB))) < MIB
    return wakeup


def test_a_streams_window_wakes_who_waits_to_send_on_it():
    server = ServerCore()
    server.receive(server.peer.settings({SettingCodes.INITIAL_WINDOW_SIZE: 10}))
    waiting, other = blocked(server, 1), blocked(server, 3)

    server.receive(server.peer.window_update(1, 8))

    assert [waiting.count, other.count] == [1, 0]


def test_the_connections_window_wakes_all_who_wait_to_send():
    server = ServerCore(write_buffer=MIB)
    server.receive(server.peer.settings({SettingCodes.INITIAL_WINDOW_SIZE: MIB - 1}))
    waiting, other = blocked(server, 1), blocked(server, 3)

    server.receive(server.peer.window_update(0, 8))

    assert [waiting.count, other.count] == [1, 1]


def test_sending_stops_at_the_connections_window_and_goes_on_when_it_opens():
    server = ServerCore()
    server.receive(server.peer.settings({SettingCodes.INITIAL_WINDOW_SIZE: MIB}))
    stream = server.request(1)

    assert stream.send_some(memoryview(bytes(100_000))) == DEFAULT_WINDOW
    server.receive(server.peer.window_update(0, 7))
    assert stream.send_some(memoryview(bytes(100_000))) == 7


def test_end_stream_goes_with_the_last_byte():
    server = ServerCore()
    server.receive(server.peer.settings({SettingCodes.INITIAL_WINDOW_SIZE: 10}))
    stream = server.request(1)
    server.sent()

    stream.send_some(memoryview(bytes(15)), end_stream=True)
    server.receive(server.peer.window_update(1, 100))
    stream.send_some(memoryview(bytes(5)), end_stream=True)

    assert server.sent() == [Data(1, bytes(10)), Data(1, bytes(5), end_stream=True)]
    assert stream.local_is_done


def test_settings_that_shrink_the_window_below_zero_pause_the_stream():
    server = ServerCore()
    stream = server.request(1)
    assert stream.send_some(memoryview(bytes(40_000))) == 40_000

    server.receive(server.peer.settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000}))
    assert stream.send_some(memoryview(bytes(10))) == 0  # the window is -39,000
    server.receive(server.peer.window_update(1, 39_000))
    assert stream.send_some(memoryview(bytes(10))) == 0
    server.receive(server.peer.window_update(1, 4))
    assert stream.send_some(memoryview(bytes(10))) == 4
    assert server.connection.state is ConnectionState.OPEN


def test_settings_that_grow_the_window_let_a_stream_go_on():
    server = ServerCore()
    server.receive(server.peer.settings({SettingCodes.INITIAL_WINDOW_SIZE: 0}))
    stream = server.request(1)
    assert stream.send_some(memoryview(b"abc")) == 0

    server.receive(server.peer.settings({SettingCodes.INITIAL_WINDOW_SIZE: 3}))

    assert stream.send_some(memoryview(b"abc")) == 3


def test_a_stream_window_beyond_its_maximum_ends_that_stream_alone():
    server = ServerCore()
    stream, other = server.request(1), server.request(3)
    server.sent()

    answers = server.exchange(server.peer.window_update(1, 2**31 - 1))

    assert answers == [Reset(1, ErrorCodes.FLOW_CONTROL_ERROR)]
    assert stream.termination is not None
    assert stream.termination.cause is TerminationCause.RESET_BY_US
    assert other.termination is None


def test_a_connection_window_beyond_its_maximum_ends_the_connection():
    server = ServerCore()
    assert server.exchange(server.peer.window_update(0, 2**31 - 1)) == [GoAway(0, ErrorCodes.FLOW_CONTROL_ERROR)]


def test_no_more_waits_for_the_socket_than_the_write_buffer_holds():
    server = ServerCore(write_buffer=1000)
    stream, other = server.request(1), server.request(3)
    server.sent()

    assert stream.send_some(memoryview(bytes(5000))) <= 1000
    assert other.send_some(memoryview(bytes(5000))) == 0
    assert 1000 <= server.connection.output_size() < 1100
    server.sent()
    assert other.send_some(memoryview(bytes(5000))) > 0


def test_frames_are_as_large_as_the_client_allows():
    server = ServerCore()
    stream = server.request(1)
    server.sent()

    stream.send_some(memoryview(bytes(20_000)))
    server.receive(server.peer.settings({SettingCodes.MAX_FRAME_SIZE: 2**14 + 1000}))
    stream.send_some(memoryview(bytes(20_000)))

    sizes = [len(frame.data) for frame in server.sent() if isinstance(frame, Data)]
    assert sizes == [16_384, 20_000 - 16_384, 17_384, 20_000 - 17_384]


# the number of streams


def test_a_stream_too_many_is_refused_and_hurts_no_other():
    server = ServerCore(max_concurrent_streams=2)
    first = server.request(1)
    server.request(3)
    server.sent()

    assert server.exchange(server.peer.request(5)) == [Reset(5, ErrorCodes.REFUSED_STREAM)]

    assert [stream.id for stream in server.requests] == [1, 3]
    assert first.termination is None
    answer(first, b"still here")
    assert len(server.sent()) == 3


@pytest.mark.parametrize("limit", [1, 120])
def test_calls_that_are_over_but_wind_up_may_be_as_many_again_and_at_least_a_hundred(limit):
    server = ServerCore(max_concurrent_streams=limit)
    winding_up = max(limit, 100)
    ids = iter(range(1, 1000, 2))
    for stream_id in itertools.islice(ids, winding_up):
        server.receive(server.peer.request(stream_id) + server.peer.reset(stream_id))
    for stream_id in itertools.islice(ids, limit):
        server.receive(server.peer.request(stream_id))
    assert len(server.requests) == winding_up + limit
    server.sent()

    # now all slots are taken, and when one is free there are still as many to clean up as can be
    one_more, same_again, later = itertools.islice(ids, 3)
    assert server.exchange(server.peer.request(one_more)) == [Reset(one_more, ErrorCodes.REFUSED_STREAM)]
    server.receive(server.peer.reset(server.requests[-1].id))
    assert server.exchange(server.peer.request(same_again)) == [Reset(same_again, ErrorCodes.REFUSED_STREAM)]
    server.requests[0].release()
    server.receive(server.peer.request(later))
    assert server.requests[-1].id == later


def test_a_call_that_is_answered_holds_no_slot_though_it_is_not_released():
    server = ServerCore(max_concurrent_streams=1)
    for stream_id in (1, 3, 5):
        stream = server.request(stream_id)
        server.receive(server.peer.data(stream_id, end_stream=True))
        answer(stream, b"answered")
    assert [stream.id for stream in server.requests] == [1, 3, 5]


def test_data_of_a_refused_stream_is_credited_and_ignored():
    server = ServerCore(max_concurrent_streams=1, connection_window=DEFAULT_WINDOW)
    server.request(1)
    server.sent()

    answers = server.exchange(server.peer.request(3) + server.peer.data(3, bytes(16_384)) * 2)

    assert answers[0] == Reset(3, ErrorCodes.REFUSED_STREAM)
    assert WindowUpdate(0, 32_768) in answers
    assert server.connection.state is ConnectionState.OPEN


def test_headers_of_a_refused_stream_stay_in_hpacks_table():
    server = ServerCore(max_concurrent_streams=1)
    stream = server.request(1)

    server.receive(server.peer.request(3, extra=[("x-refused", "but indexed")]))
    stream.release()
    last = server.request(5, extra=[("x-refused", "but indexed")])

    assert ("x-refused", "but indexed") in (last.headers or [])


def test_many_calls_leave_nothing_behind():
    server = ServerCore()
    for stream_id in range(1, 401, 2):
        stream = server.request(stream_id)
        server.receive(server.peer.message(stream_id, b"x", end_stream=True))
        answer(stream, b"y")
        stream.release()
        server.sent()

    assert server.connection.streams == {}
    assert server.connection.h2.streams == {}


# the end of a stream


def test_a_reset_terminates_the_stream():
    server = ServerCore()
    stream = server.request(1)
    server.sent()

    assert server.exchange(server.peer.reset(1, ErrorCodes.CANCEL)) == []

    assert stream.state is StreamState.CLOSED
    assert stream.termination is not None
    assert stream.termination.cause is TerminationCause.RESET_BY_PEER
    assert stream.termination.error_code is ErrorCodes.CANCEL
    assert server.terminated == [stream]
    with pytest.raises(StreamTerminatedError, match="the peer reset the stream; error code CANCEL"):
        stream.send_headers(RESPONSE)
    with pytest.raises(StreamTerminatedError):
        stream.send_some(memoryview(b"x"))
    stream.reset(ErrorCodes.INTERNAL_ERROR)
    assert server.sent() == []


def test_what_happened_is_told_once_and_in_order():
    server = ServerCore()
    server.connection.feed(server.peer.request(1) + server.peer.request(3) + server.peer.reset(1))
    while server.connection.process(max_frames=1):
        pass
    first, third = server.connection.streams.values()

    assert server.connection.take_events() == [RequestArrived(first), RequestArrived(third), StreamTerminated(first)]
    assert server.connection.take_events() == []
    third.reset(ErrorCodes.NO_ERROR)
    server.connection.fail("the end")
    assert server.connection.take_events() == [], "one is over, and who resets the other knows it"


def test_a_reset_with_an_unknown_code_is_a_reset():
    server = ServerCore()
    stream = server.request(1)
    server.receive(server.peer.reset(1, 0x1234))
    assert "4660" in str(stream.termination)


def test_a_stream_that_both_sides_have_ended_is_not_terminated_by_what_comes_later():
    server = ServerCore()
    stream = server.request(1)
    server.receive(server.peer.data(1, end_stream=True))
    answer(stream)

    server.receive(server.peer.reset(1, ErrorCodes.NO_ERROR))
    server.connection.fail("the peer closed the connection")

    assert stream.termination is None
    assert stream.is_complete


def test_a_reset_of_our_own_is_sent_once():
    server = ServerCore()
    stream = server.request(1)
    server.sent()

    stream.reset(ErrorCodes.INTERNAL_ERROR)
    stream.reset(ErrorCodes.CANCEL)

    assert server.sent() == [Reset(1, ErrorCodes.INTERNAL_ERROR)]


def test_what_the_client_sends_after_its_end_of_stream_resets_the_stream():
    server = ServerCore()
    stream, other = server.request(1), server.request(3)
    server.receive(server.peer.data(1, b"x", end_stream=True))
    server.sent()

    assert server.exchange(server.peer.data(1, b"more")) == [Reset(1, ErrorCodes.STREAM_CLOSED)]

    assert stream.termination is not None
    assert other.termination is None


@pytest.mark.parametrize("released", [False, True])
def test_late_frames_on_a_stream_that_we_reset_are_harmless(released: bool):
    server = ServerCore()
    stream, other = server.request(1), server.request(3)
    stream.reset(ErrorCodes.CANCEL)
    if released:
        stream.release()
    server.sent()

    answers = server.exchange(
        server.peer.data(1, b"late"),
        server.peer.window_update(1, 5),
        server.peer.headers(1, [("late", "trailers")], end_stream=True),
        server.peer.reset(1),
    )

    assert all(frame == Reset(1, ErrorCodes.STREAM_CLOSED) for frame in answers)
    assert server.connection.state is ConnectionState.OPEN
    assert other.termination is None


@pytest.mark.parametrize("released", [False, True])
def test_late_frames_on_a_stream_that_ended_are_harmless(released: bool):
    server = ServerCore()
    stream = server.request(1)
    server.receive(server.peer.data(1, end_stream=True))
    answer(stream)
    if released:
        stream.release()
    server.sent()

    assert server.exchange(server.peer.window_update(1, 5), server.peer.reset(1, ErrorCodes.NO_ERROR)) == []
    assert server.connection.state is ConnectionState.OPEN


# the end of the connection


def test_pings_are_answered():
    server = ServerCore()
    assert server.exchange(server.peer.ping(b"abcdefgh")) == [Ping(b"abcdefgh", ack=True)]


def test_unknown_frames_are_ignored():
    server = ServerCore()
    stream = server.request(1)
    server.sent()

    unknown = server.peer.raw(0x42, 0xFF, 0, b"whatever") + server.peer.raw(0x42, 0xFF, 1, b"whatever")

    assert server.exchange(unknown) == []
    assert stream.termination is None


def test_priority_frames_are_ignored():
    server = ServerCore()
    assert server.exchange(server.peer.raw(0x02, 0, 1, bytes(5))) == []


def test_settings_are_acknowledged_each():
    server = ServerCore()
    assert server.exchange(server.peer.settings({}) * 3) == [SettingsAck()] * 3


@pytest.mark.parametrize(
    ("violation", "error_code"),
    [
        (lambda peer: peer.raw(0x00, 0, 0, b"data on stream 0"), ErrorCodes.PROTOCOL_ERROR),
        (lambda peer: peer.raw(0x00, 0x8, 1, b"\xff"), ErrorCodes.PROTOCOL_ERROR),
        (lambda peer: peer.raw(0x01, 0x4, 5, b"\xff\xff\xff\xff\xff\xff"), ErrorCodes.PROTOCOL_ERROR),
        (lambda peer: peer.raw(0x03, 0, 1, b"\0"), ErrorCodes.FRAME_SIZE_ERROR),
        (lambda peer: peer.raw(0x09, 0, 1, b"continuation"), ErrorCodes.PROTOCOL_ERROR),
        (lambda peer: peer.raw(0x00, 0, 1, bytes(16_385)), ErrorCodes.FRAME_SIZE_ERROR),
        (lambda peer: peer.data(7, b"on an idle stream"), ErrorCodes.PROTOCOL_ERROR),
        (lambda peer: peer.window_update(7, 1), ErrorCodes.PROTOCOL_ERROR),
        (lambda peer: peer.request(2), ErrorCodes.PROTOCOL_ERROR),
        (lambda peer: peer.settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31}), ErrorCodes.FLOW_CONTROL_ERROR),
        (lambda peer: peer.settings({SettingCodes.ENABLE_PUSH: 2}), ErrorCodes.PROTOCOL_ERROR),
        (lambda peer: peer.settings({SettingCodes.MAX_FRAME_SIZE: 1}), ErrorCodes.PROTOCOL_ERROR),
        (lambda peer: peer.raw(0x05, 0x4, 1, b"\0\0\0\2push"), ErrorCodes.PROTOCOL_ERROR),
    ],
)
def test_a_violation_ends_the_connection_and_every_stream(violation, error_code: ErrorCodes):
    server = ServerCore()
    streams = [server.request(1), server.request(3)]
    server.sent()

    answers = server.exchange(violation(server.peer))

    assert isinstance(answers[-1], GoAway)
    assert answers[-1].error_code is error_code
    assert server.connection.state is ConnectionState.CLOSED
    for stream in streams:
        assert stream.termination is not None
        assert stream.termination.cause is TerminationCause.CONNECTION_LOST
        stream.release()
    assert server.connection.streams == {}


def test_nothing_is_read_after_the_end():
    server = ServerCore()
    server.exchange(server.peer.raw(0x00, 0, 0, b"data on stream 0"))

    assert server.exchange(server.peer.request(1), server.peer.ping()) == []
    assert server.requests == []


def test_a_header_list_below_the_limit_is_taken():
    server = ServerCore(max_header_list_size=2000)
    server.request(1, extra=[("x-big", "v" * 900)])
    assert len(server.requests) == 1


def test_a_header_list_that_is_small_on_the_wire_and_large_in_memory_ends_the_connection():
    server = ServerCore()
    big = ("x-big", "v" * 3000)

    answers = server.exchange(server.peer.request(1, extra=[big] * 100))

    assert answers == [GoAway(0, ErrorCodes.ENHANCE_YOUR_CALM)]


def test_too_many_continuations_end_the_connection():
    server = ServerCore()
    block = server.peer.block(request_headers())
    frames = server.peer.raw(0x01, 0, 1, block) + server.peer.raw(0x09, 0, 1, b"") * 65

    answers = server.exchange(frames)

    assert [type(frame) for frame in answers] == [GoAway]
    assert server.requests == []


def test_a_header_block_in_pieces_is_one():
    server = ServerCore()
    block = server.peer.block(request_headers())
    server.receive(
        server.peer.raw(0x01, 0, 1, block[:5])
        + server.peer.raw(0x09, 0, 1, block[5:9])
        + server.peer.raw(0x09, 0x4, 1, block[9:])
    )

    assert server.requests[0].headers == request_headers()


def test_a_lost_connection_terminates_its_streams():
    server = ServerCore()
    stream = server.request(1)
    server.sent()

    server.connection.fail("the peer closed the connection")
    server.connection.fail("twice")

    assert str(stream.termination) == "the connection was lost; the peer closed the connection"
    stream.reset(ErrorCodes.CANCEL)
    stream.release()
    assert server.sent() == []
    assert server.connection.streams == {}


def test_output_is_still_there_after_the_end():
    server = ServerCore()
    stream = server.request(1)
    server.receive(server.peer.data(1, end_stream=True))
    server.sent()
    answer(stream, b"last words")

    server.connection.finish()

    assert len(server.sent()) == 3


def test_any_bytes_in_headers_are_text():
    server = ServerCore()
    encoded = server.peer.block(request_headers())
    # a literal without indexing: the name "x", a value of every byte that a header may have
    value = bytes(byte for byte in range(256) if byte not in b"\0\r\n \t")
    literal = b"\0\1x\x7f" + bytes([len(value) - 127 & 0x7F | 0x80, (len(value) - 127) >> 7]) + value

    server.receive(server.peer.raw(0x01, 0x4, 1, encoded + literal))

    assert server.requests[0].headers[-1] == ("x", value.decode("latin-1"))  # type: ignore[index]


# GOAWAY and the drain


def test_a_clients_goaway_lets_its_streams_finish():
    server = ServerCore()
    stream = server.request(1)
    server.sent()

    assert server.exchange(server.peer.goaway(0)) == []

    answer(stream, b"finished")
    assert len(server.sent()) == 3
    assert server.connection.state is ConnectionState.OPEN


def test_output_survives_a_clients_goaway():
    server = ServerCore()
    stream = server.request(1)
    server.sent()
    answer(stream, b"pending")

    server.receive(server.peer.goaway(0, 0xABCD, b"unknown code"))

    assert len(server.sent()) == 3


def test_the_drain_says_goaway_twice_and_takes_streams_that_race_with_it():
    server = ServerCore()
    first = server.request(1)
    server.sent()

    server.connection.drain()
    assert server.sent() == [GoAway(LAST_POSSIBLE_STREAM, ErrorCodes.NO_ERROR), Ping(DRAIN_PING)]
    assert server.connection.state is ConnectionState.DRAINING

    racing = server.request(3)
    assert server.exchange(server.peer.ping(DRAIN_PING, ack=True)) == [GoAway(3, ErrorCodes.NO_ERROR)]
    assert server.connection.state is ConnectionState.GOING_AWAY

    assert server.exchange(server.peer.request(5)) == [Reset(5, ErrorCodes.REFUSED_STREAM)]
    answer(first, b"first")
    answer(racing, b"racing")
    assert len(server.sent()) == 6


def test_who_waits_for_the_end_of_a_drain_is_woken_by_each_stream_that_is_released():
    server = ServerCore()
    streams = [server.request(1), server.request(3)]
    changed = server.connection.changed = CountedWakeup()

    streams[0].release()
    assert changed.count == 0, "nobody waits for the streams of a connection that stays"
    server.connection.drain()
    before = changed.count
    streams[1].release()

    assert changed.count == before + 1


def test_the_drain_settles_without_the_ping_when_told_to():
    server = ServerCore()
    server.connection.drain()
    server.sent()

    server.connection.settle()
    server.connection.settle()

    assert server.sent() == [GoAway(0, ErrorCodes.NO_ERROR)]


def test_another_ping_does_not_settle_the_drain():
    server = ServerCore()
    server.connection.drain()
    server.sent()

    assert server.exchange(server.peer.ping(b"somebody", ack=True)) == []
    assert server.connection.state is ConnectionState.DRAINING


def test_draining_twice_is_draining_once():
    server = ServerCore()
    server.connection.drain()
    server.connection.drain()
    assert len(server.sent()) == 2


def test_a_closed_connection_does_not_drain():
    server = ServerCore()
    server.connection.fail("lost")
    server.connection.drain()
    server.connection.settle()
    assert server.sent() == []
