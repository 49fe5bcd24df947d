"""What our h2 connection does differently from h2's."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, PingReceived, RequestReceived, StreamEnded, UnknownFrameReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from h2.stream import StreamClosedBy

from connectrio.rpc._http2.drainable import MAX_ENCODER_TABLE_SIZE, DrainableH2Connection, OversizedRequest
from rpc.kit.frames import FrameFactory, FrameReader, GoAway, Headers, Ping, request_headers

RESPONSE = [(":status", "200")]


def server(*received: bytes) -> tuple[DrainableH2Connection, FrameFactory]:
    """A server's connection after the handshake, and what makes its client's frames."""
    connection = DrainableH2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
    make = FrameFactory()
    connection.initiate_connection()
    connection.feed(make.preface() + make.settings_ack() + b"".join(received))
    drain_events(connection)
    connection.data_to_send()
    return connection, make


def drain_events(connection: DrainableH2Connection) -> list:
    events = []
    while (next_events := connection.next_events()) is not None:
        events += next_events
    return events


def test_one_frame_at_a_time():
    connection, make = server()
    connection.feed(make.ping() + make.request(1, end_stream=True) + make.ping()[:5])

    assert [type(event) for event in connection.next_events() or []] == [PingReceived]
    assert [type(event) for event in connection.next_events() or []] == [RequestReceived, StreamEnded]
    assert connection.next_events() is None
    connection.feed(make.ping()[5:])
    assert [type(event) for event in connection.next_events() or []] == [PingReceived]


def test_goaway_is_a_frame_like_another():
    connection, make = server()
    connection.feed(make.request(1))
    drain_events(connection)

    connection.send_goaway(ErrorCodes.NO_ERROR, 2**31 - 1, b"bye")
    connection.feed(make.goaway(0, 0x1234, b"reason") + make.request(3) + make.ping())
    terminated, *events = drain_events(connection)
    connection.send_headers(1, RESPONSE, end_stream=True)

    assert isinstance(terminated, ConnectionTerminated)
    assert (terminated.error_code, terminated.additional_data) == (0x1234, b"reason")
    assert [type(event) for event in events] == [RequestReceived, PingReceived]
    frames = FrameReader().read(connection.data_to_send())
    assert [type(frame) for frame in frames] == [GoAway, Ping, Headers]


def test_a_violation_is_said_and_raised():
    connection, make = server()
    connection.feed(make.data(1, b"on an idle stream"))
    with pytest.raises(ProtocolError):
        connection.next_events()
    assert FrameReader().read(connection.data_to_send()) == [GoAway(0, ErrorCodes.PROTOCOL_ERROR)]


def test_bad_padding_is_a_violation():
    connection, make = server()
    connection.feed(make.request(1) + make.raw(0x00, 0x8, 1, b"\xff"))
    connection.next_events()
    with pytest.raises(ProtocolError, match="padding"):
        connection.next_events()


def test_streams_are_not_counted():
    connection, make = server()
    connection.local_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1
    connection.local_settings.acknowledge()
    connection.feed(b"".join(make.request(stream_id) for stream_id in (1, 3, 5)))
    assert [type(event) for event in drain_events(connection)] == [RequestReceived] * 3
    assert connection.open_inbound_streams == connection.open_outbound_streams == 0


def test_a_forgotten_stream_is_remembered_by_how_it_ended():
    connection, make = server()
    connection.feed(make.request(1) + make.request(3, end_stream=True))
    drain_events(connection)
    connection.reset_stream(1, ErrorCodes.CANCEL)
    connection.send_headers(3, RESPONSE, end_stream=True)

    for stream_id in 1, 3, 99:
        connection.forget_stream(stream_id)

    assert connection.streams == {}
    assert connection._closed_streams[1] is StreamClosedBy.SEND_RST_STREAM
    assert connection._closed_streams[3] is StreamClosedBy.SEND_END_STREAM


def test_an_open_stream_is_not_forgotten():
    connection, make = server()
    connection.feed(make.request(1))
    drain_events(connection)
    connection.forget_stream(1)
    assert 1 in connection.streams


def test_only_so_many_closed_streams_are_remembered():
    connection, make = server()
    connection.MAX_CLOSED_STREAMS = 3  # type: ignore[misc]
    connection._closed_streams._size_limit = 3
    for stream_id in range(1, 21, 2):
        connection.feed(make.request(stream_id))
        drain_events(connection)
        connection.reset_stream(stream_id)
        connection.forget_stream(stream_id)
    assert list(connection._closed_streams) == [15, 17, 19]


@pytest.mark.parametrize("size", [0, 100, 4096, 65_536, 2**32 - 1])
def test_a_client_cannot_make_our_header_table_large(size: int):
    connection, make = server()
    connection.feed(make.settings({SettingCodes.HEADER_TABLE_SIZE: size}) + make.request(1))
    drain_events(connection)
    assert connection.encoder.header_table_size == min(size, MAX_ENCODER_TABLE_SIZE)

    reader = FrameReader()
    reader._decoder.max_allowed_table_size = size
    for _ in range(3):
        connection.data_to_send()
    connection.send_headers(1, [*RESPONSE, ("x-long", "v" * 200)])
    [headers] = reader.read(connection.data_to_send())
    assert headers == Headers(1, ((":status", "200"), ("x-long", "v" * 200)))


def test_the_header_list_limit_is_in_force_from_the_start():
    connection = DrainableH2Connection(H2Configuration(client_side=False))
    connection.limit_header_list(500)
    connection.local_settings.acknowledge()
    make = FrameFactory()
    connection.initiate_connection()
    connection.feed(make.preface() + make.headers(1, request_headers({}, [("x", "v" * 300)])))
    connection.next_events()
    [event] = connection.next_events()
    assert isinstance(event, OversizedRequest)
    connection.feed(make.headers(3, request_headers({}, [("x", "v" * 8000)])))
    with pytest.raises(ProtocolError):
        connection.next_events()
    settings = FrameReader().read(connection.data_to_send())[0]
    assert settings[SettingCodes.MAX_HEADER_LIST_SIZE] == 500


def test_pending_output_is_counted():
    connection, _ = server()
    assert not connection.has_pending_output()
    assert connection.pending_output_size() == 0
    connection.ping(b"12345678")
    assert connection.has_pending_output()
    assert connection.pending_output_size() == len(connection.data_to_send())


def test_a_header_block_that_has_not_ended_shows():
    connection, make = server()
    block = make.block(request_headers())
    assert not connection.is_inside_header_block()
    connection.feed(make.raw(0x01, 0, 1, block[:3]))
    assert connection.next_events() is None
    assert connection.is_inside_header_block()
    connection.feed(make.raw(0x09, 0x4, 1, block[3:]))
    assert connection.next_events()
    assert not connection.is_inside_header_block()


def test_unknown_frames_are_events_that_nobody_minds():
    connection, make = server()
    connection.feed(make.raw(0xFE, 0xFF, 5, b"?"))
    assert [type(event) for event in drain_events(connection)] == [UnknownFrameReceived]
    assert not connection.has_pending_output()
