"""The client's core against raw frames: what it sends, frame by frame."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectrio.rpc._http2.connection import LAST_POSSIBLE_STREAM, ConnectionState, HeadersTooLargeError
from connectrio.rpc._http2.stream import StreamState, TerminationCause
from rpc.kit.core import ClientCore, CountedWakeup, take_messages
from rpc.kit.frames import PREFACE, Data, GoAway, Headers, Reset, Settings, SettingsAck, WindowUpdate, request_headers

RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]


def test_the_first_bytes_are_the_preface_and_the_settings():
    client = ClientCore(handshake=False)
    assert client.connection.h2.data_to_send().startswith(PREFACE)


def test_the_settings_refuse_pushes():
    client = ClientCore(handshake=False)
    settings, window = client.sent()
    assert isinstance(settings, Settings)
    assert settings[SettingCodes.ENABLE_PUSH] == 0
    assert isinstance(window, WindowUpdate)


def test_a_call_is_exactly_its_frames():
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=False)
    stream.send_some(memoryview(b"message"), end_stream=True)

    assert client.sent() == [Headers(1, tuple(request_headers())), Data(1, b"message", end_stream=True)]

    client.receive(client.peer.headers(1, RESPONSE))
    client.receive(client.peer.message(1, b"answer"))
    client.receive(client.peer.headers(1, TRAILERS, end_stream=True))
    assert stream.headers == RESPONSE
    assert take_messages(stream) == [b"answer"]
    assert stream.trailers == TRAILERS
    assert stream.state is StreamState.CLOSED
    assert stream.termination is None
    stream.release()
    assert client.connection.streams == {}
    assert client.connection.h2.streams == {}


def test_who_waits_for_room_is_woken_when_a_full_connection_has_room_again():
    client = ClientCore(handshake=False, idle_timeout=60)
    client.exchange(client.peer.settings({SettingCodes.MAX_CONCURRENT_STREAMS: 2}), client.peer.settings_ack())
    streams = [client.connection.open(request_headers(), end_stream=True) for _ in range(2)]
    assert not client.connection.can_open()
    changed = client.connection.changed = CountedWakeup()

    client.receive(client.peer.headers(1, RESPONSE))
    assert changed.count == 0
    client.receive(client.peer.headers(1, TRAILERS, end_stream=True))
    assert changed.count > 0
    assert client.connection.can_open()

    streams[0].release()
    before = changed.count
    client.receive(client.peer.headers(3, RESPONSE + TRAILERS, end_stream=True))
    assert changed.count == before, "there was room already"
    streams[1].release()
    assert changed.count > before, "the connection is idle"


def test_a_trailers_only_response():
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=True)
    client.receive(client.peer.headers(1, RESPONSE + TRAILERS, end_stream=True))

    assert stream.headers == RESPONSE + TRAILERS
    assert stream.trailers is None
    assert stream.is_trailers_only
    assert stream.is_complete


@pytest.mark.parametrize("end", ["data", "trailers"])
def test_headers_with_a_status_that_do_not_end_the_stream_are_no_trailers_only_response(end: str):
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=True)
    client.receive(client.peer.headers(1, RESPONSE + TRAILERS))
    client.receive(
        client.peer.data(1, b"", end_stream=True)
        if end == "data"
        else client.peer.headers(1, TRAILERS, end_stream=True)
    )
    assert not stream.is_trailers_only
    assert stream.is_complete


def test_an_informational_response_is_not_the_response():
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=True)
    client.receive(client.peer.headers(1, [(":status", "103")]))
    assert stream.headers is None
    client.receive(client.peer.headers(1, RESPONSE))
    assert stream.headers == RESPONSE


def test_stream_ids_are_odd_and_ascend():
    client = ClientCore()
    assert [client.connection.open(request_headers(), end_stream=True).id for _ in range(3)] == [1, 3, 5]


def test_no_stream_before_the_servers_settings_are_known():
    client = ClientCore(handshake=False)
    assert not client.connection.can_open()
    client.receive(client.peer.settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1}))
    assert client.connection.can_open()


def test_no_more_streams_than_the_server_allows():
    client = ClientCore(handshake=False)
    client.receive(client.peer.settings({SettingCodes.MAX_CONCURRENT_STREAMS: 2}))
    first = client.connection.open(request_headers(), end_stream=True)
    client.connection.open(request_headers(), end_stream=True)
    assert not client.connection.can_open()

    client.receive(client.peer.headers(1, RESPONSE + TRAILERS, end_stream=True))
    first.release()
    assert client.connection.can_open()

    client.receive(client.peer.settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1}))
    assert not client.connection.can_open()


def test_headers_are_counted_as_the_protocol_does():
    """RFC 9113 §6.5.2: the bytes of name and value, and 32 more for each field."""
    client = ClientCore()
    headers = [(":path", "/a.B/C"), ("x", "yz")]
    size = 5 + 6 + 32 + 1 + 2 + 32

    client.receive(client.peer.settings({SettingCodes.MAX_HEADER_LIST_SIZE: size}))
    client.connection.open(headers, end_stream=True)
    client.receive(client.peer.settings({SettingCodes.MAX_HEADER_LIST_SIZE: size - 1}))
    with pytest.raises(HeadersTooLargeError, match=f"take {size} bytes, but the server takes at most {size - 1}"):
        client.connection.open(headers, end_stream=True)

    assert len(client.connection.streams) == 1


def test_a_reset_keeps_what_arrived_before_it():
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=False)
    client.receive(client.peer.headers(1, RESPONSE) + client.peer.message(1, b"answer"))
    client.receive(client.peer.headers(1, TRAILERS, end_stream=True) + client.peer.reset(1, ErrorCodes.NO_ERROR))

    assert stream.termination is not None
    assert stream.is_complete
    assert take_messages(stream) == [b"answer"]
    assert stream.trailers == TRAILERS


@pytest.mark.parametrize("released", [False, True])
def test_a_response_to_a_call_that_was_cancelled_is_harmless(released: bool):
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=True)
    stream.reset(ErrorCodes.CANCEL)
    if released:
        stream.release()
    client.sent()

    answers = client.exchange(
        client.peer.headers(1, [*RESPONSE, ("x-indexed", "by hpack")]),
        client.peer.message(1, b"late"),
        client.peer.headers(1, TRAILERS, end_stream=True),
    )

    assert all(frame == Reset(1, ErrorCodes.STREAM_CLOSED) for frame in answers)
    assert client.connection.state is ConnectionState.OPEN
    other = client.connection.open(request_headers(), end_stream=True)
    client.receive(client.peer.headers(3, [*RESPONSE, ("x-indexed", "by hpack")]))
    assert other.headers == [*RESPONSE, ("x-indexed", "by hpack")]


def test_late_data_goes_back_to_the_connections_window():
    client = ClientCore(connection_window=65_535)
    credited = 0
    for _ in range(50):
        stream = client.connection.open(request_headers(), end_stream=True)
        stream.reset(ErrorCodes.CANCEL)
        stream.release()
        answers = client.exchange(client.peer.headers(stream.id, RESPONSE), client.peer.data(stream.id, bytes(10_000)))
        credited += sum(frame.increment for frame in answers if isinstance(frame, WindowUpdate))

    assert client.connection.state is ConnectionState.OPEN
    assert credited == pytest.approx(500_000, abs=32_768)


def test_a_pushed_stream_ends_the_connection():
    client = ClientCore()
    client.connection.open(request_headers(), end_stream=True)
    client.sent()
    promise = b"\0\0\0\2" + client.peer.block(request_headers())

    answers = client.exchange(client.peer.raw(0x05, 0x4, 1, promise))

    assert isinstance(answers[-1], GoAway)
    assert client.connection.state is ConnectionState.CLOSED


@pytest.mark.parametrize(
    "frames",
    [
        lambda peer: peer.headers(3, RESPONSE),  # to a request that was never made
        lambda peer: peer.data(1, b"before headers"),
    ],
)
def test_a_violation_ends_the_connection_and_its_calls(frames):
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=True)
    client.sent()

    answers = client.exchange(frames(client.peer))

    assert [type(frame) for frame in answers] == [GoAway]
    assert stream.termination is not None
    assert stream.termination.cause is TerminationCause.CONNECTION_LOST


@pytest.mark.parametrize("odd", [("no", "status"), ("Upper", "case"), ("spaces", "at the end ")])
def test_odd_headers_are_one_response_s_own_affair(odd):
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=True)
    other = client.connection.open(request_headers(), end_stream=True)
    client.sent()

    assert client.exchange(client.peer.headers(stream.id, [odd]), client.peer.headers(other.id, RESPONSE)) == []

    assert client.connection.state is ConnectionState.OPEN
    assert stream.headers == [odd]
    assert other.headers == RESPONSE


# GOAWAY


def test_goaway_ends_the_streams_that_the_server_has_not_seen():
    client = ClientCore()
    seen, unseen = (client.connection.open(request_headers(), end_stream=True) for _ in range(2))
    client.sent()

    assert client.exchange(client.peer.goaway(1, ErrorCodes.NO_ERROR, b"max_age")) == []

    assert client.connection.state is ConnectionState.GOING_AWAY
    assert not client.connection.can_open()
    assert seen.termination is None
    assert unseen.termination is not None
    assert unseen.termination.cause is TerminationCause.UNPROCESSED
    assert "max_age" in str(unseen.termination)
    client.receive(client.peer.headers(1, RESPONSE + TRAILERS, end_stream=True))
    assert seen.is_complete


def test_goaway_tells_what_was_sent_from_what_was_not():
    """Who has not sent a request may send it again as often as it likes."""
    client = ClientCore()
    sent = client.connection.open(request_headers(), end_stream=True)
    client.sent()
    unsent = client.connection.open(request_headers(), end_stream=True)

    client.receive(client.peer.goaway(0))

    causes = [stream.termination and stream.termination.cause for stream in (sent, unsent)]
    assert causes == [TerminationCause.UNPROCESSED, TerminationCause.NEVER_SENT]


def test_two_goaways_are_a_drain():
    client = ClientCore()
    streams = [client.connection.open(request_headers(), end_stream=True) for _ in range(3)]

    client.receive(client.peer.goaway(LAST_POSSIBLE_STREAM))
    assert [stream.termination for stream in streams] == [None] * 3
    client.receive(client.peer.goaway(3))

    assert [stream.termination is None for stream in streams] == [True, True, False]


def test_output_survives_a_goaway():
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=False)
    client.sent()
    stream.send_some(memoryview(b"pending"))

    client.receive(client.peer.goaway(LAST_POSSIBLE_STREAM))
    stream.send_some(memoryview(b"and more"))

    assert client.sent() == [Data(1, b"pending"), Data(1, b"and more")]


def test_a_goaway_with_a_reason_that_is_no_text_is_a_goaway():
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=True)
    client.receive(client.peer.goaway(0, 0xABCD, b"\xff\xfe"))
    assert stream.termination is not None


def test_frames_for_a_stream_that_goaway_ended_are_harmless():
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=True)
    client.receive(client.peer.goaway(0))
    client.receive(client.peer.headers(1, RESPONSE) + client.peer.message(1, b"late"))
    stream.release()
    client.receive(client.peer.headers(1, TRAILERS, end_stream=True))
    assert client.connection.state is ConnectionState.GOING_AWAY


def test_pings_and_settings_are_answered():
    client = ClientCore()
    assert client.exchange(client.peer.settings({})) == [SettingsAck()]
    # this side sends no PINGs; a reply to one is ignored
    assert client.exchange(client.peer.ping(ack=True)) == []
