"""The short way through h2 beside the long one: the same events, the same bytes, the same errors."""

from __future__ import annotations

from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import FlowControlError, ProtocolError
from h2.settings import SettingCodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectrio.rpc._http2.connection import h2_configuration
from connectrio.rpc._http2.drainable import DrainableH2Connection
from connectrio.rpc._http2.fast_path import FastH2Connection
from rpc.kit.frames import Data, FrameFactory, FrameReader, Headers, request_headers

unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck))

RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]


def connection(kind: type[DrainableH2Connection], *, client_side: bool) -> DrainableH2Connection:
    made = kind(h2_configuration(client_side=client_side))
    made.limit_header_list(8192)
    made.initiate_connection()
    made.increment_flow_control_window(100_000)
    return made


def described(event: Event) -> tuple[str, dict[str, Any]]:
    fields = {}
    for name, value in vars(event).items():
        fields[name] = described(value) if isinstance(value, Event) else repr(value)
        if name == "headers":
            fields[name] = [tuple(field) for field in value]
    return type(event).__name__, fields


def transcript(made: DrainableH2Connection, pieces: list[bytes]) -> list[Any]:
    """All that can be seen of a connection that reads `pieces`."""
    seen: list[Any] = []
    for piece in pieces:
        try:
            made.feed(piece)
            while (events := made.next_events()) is not None:
                seen += map(described, events)
                for event in events:
                    if type(event).__name__ == "DataReceived":
                        made.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        except ProtocolError as error:
            seen += [type(error), made.data_to_send()]
            return seen
        seen.append(made.data_to_send())
    states = {stream_id: stream.state_machine.state for stream_id, stream in made.streams.items()}
    return [*seen, states, made.inbound_flow_control_window, made.highest_inbound_stream_id]


NAMES = [
    ":method",
    ":path",
    ":scheme",
    ":authority",
    ":status",
    ":protocol",
    "te",
    "host",
    "connection",
    "cookie",
    "content-length",
    "content-type",
    "grpc-timeout",
    "x-id",
    "X-Upper",
    "x:y",
    "authorization",
]
VALUES = [
    "9" * 5000,
    "9" * 19,
    "9" * 20,
    "POST",
    "GET",
    "CONNECT",
    "/a.B/C",
    "",
    "http",
    "h",
    "trailers",
    "200",
    "103",
    "5",
    "05",
]
FIELDS = st.tuples(
    st.sampled_from([*NAMES, "x y", ""]), st.sampled_from([*VALUES, "trailing ", " leading", "two\nlines", "é"])
)
ORDINARY = request_headers({":path": "/a.B/C"})


@st.composite
def header_lists(draw: st.DrawFn) -> list[tuple[str, str]]:
    headers = list(draw(st.sampled_from([ORDINARY, RESPONSE, [("grpc-status", "0")], []])))
    for field in draw(st.lists(FIELDS, max_size=3)):
        headers.insert(draw(st.integers(0, len(headers))), field)
    if headers and draw(st.integers(0, 3)) == 0:
        del headers[draw(st.integers(0, len(headers) - 1))]
    return headers


@st.composite
def frames(draw: st.DrawFn, make: FrameFactory) -> bytes:
    stream_id = draw(st.sampled_from([1, 1, 1, 3, 3, 5, 2, 2**31 - 1]))
    what = draw(
        st.sampled_from(
            ["headers", "headers", "headers", "data", "data", "data", "reset", "window", "settings", "ping"]
        )
    )
    end = draw(st.booleans())
    match what:
        case "headers":
            frame = make.headers(stream_id, draw(header_lists()), end_stream=end)
        case "data":
            frame = make.data(stream_id, draw(st.sampled_from([b"", b"12345", b"x" * 16_384])), end_stream=end)
        case "reset":
            frame = make.reset(stream_id)
        case "window":
            frame = make.window_update(stream_id, draw(st.sampled_from([1, 2**31 - 1])))
        case "settings":
            frame = make.settings({SettingCodes.INITIAL_WINDOW_SIZE: draw(st.sampled_from([0, 10, 100_000]))})
        case _:
            frame = make.ping()
    if draw(st.integers(0, 19)) == 0:
        frame = frame[:5] + bytes(4) + frame[9:]
    if draw(st.integers(0, 9)) == 0:
        damaged = bytearray(frame)
        damaged[draw(st.integers(0, min(len(damaged), 30) - 1))] = draw(st.integers(0, 255))
        frame = bytes(damaged)
    return frame


@st.composite
def conversations(draw: st.DrawFn, client_side: bool) -> tuple[list[bytes], int]:
    """What a peer sends, in pieces, and how many requests were sent to it before."""
    make = FrameFactory()
    start = make.settings({}) if client_side else make.preface()
    sent = start + b"".join(draw(frames(make)) for _ in range(draw(st.integers(1, 8))))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=4)))
    pieces = [sent[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    return pieces, draw(st.integers(0, 3)) if client_side else 0


@given(st.booleans(), st.data())
@settings(unhurried, max_examples=200)
def test_any_conversation_is_what_h2_makes_of_it(client_side: bool, data: st.DataObject):
    pieces, requests = data.draw(conversations(client_side))
    transcripts = []
    for kind in (FastH2Connection, DrainableH2Connection):
        made = connection(kind, client_side=client_side)
        for number in range(requests):
            made.send_headers(2 * number + 1, ORDINARY, end_stream=bool(number % 2))
        made.data_to_send()
        transcripts.append(transcript(made, pieces))
    assert transcripts[0] == transcripts[1]


def test_the_reserved_bit_of_a_stream_id_is_ignored():
    """RFC 9113 §4.1."""
    make = FrameFactory()
    start = make.preface() + make.settings_ack() + make.request(1, "/a.B/C")
    request, data = make.request(3, "/a.B/C"), make.data(3, b"12345", end_stream=True)
    reserved = [frame[:5] + bytes([frame[5] | 0x80]) + frame[6:] for frame in (request, data)]
    transcripts = []
    for frames in ([request, data], reserved):
        made = connection(FastH2Connection, client_side=False)
        transcripts.append(transcript(made, [start, *frames]))
    assert transcripts[0] == transcripts[1]


def never_parsed(monkeypatch: pytest.MonkeyPatch, made: DrainableH2Connection) -> None:
    """Fail the test if a frame takes h2's path from now on."""
    monkeypatch.setattr(type(made.incoming_buffer), "__next__", lambda _: pytest.fail("parsed by hyperframe"))
    monkeypatch.setattr(made, "_receive_frame", lambda _: pytest.fail("given to h2"))


def test_an_ordinary_call_goes_the_short_way(monkeypatch: pytest.MonkeyPatch):
    """Once a first call has shown h2 who is the client, the frames of a call never reach its parser."""
    made, make = connection(FastH2Connection, client_side=False), FrameFactory()
    transcript(made, [make.preface() + make.settings_ack() + make.request(1, "/a.B/C")])
    never_parsed(monkeypatch, made)
    lengths = [("content-length", "5"), ("grpc-timeout", "1S")]
    for frame in (make.request(3, "/a.B/C", extra=lengths), make.data(3, b"12345", end_stream=True)):
        made.feed(frame)
        assert made.next_events()


def test_an_ordinary_response_goes_the_short_way(monkeypatch: pytest.MonkeyPatch):
    made, make = connection(FastH2Connection, client_side=True), FrameFactory()
    made.send_headers(1, ORDINARY, end_stream=True)
    made.send_headers(3, ORDINARY)
    transcript(made, [make.settings({}) + make.settings_ack()])
    never_parsed(monkeypatch, made)
    for stream_id in (1, 3):
        for frame in (
            make.headers(stream_id, RESPONSE),
            make.data(stream_id, b"12345"),
            make.headers(stream_id, [("grpc-status", "0")], end_stream=True),
        ):
            made.feed(frame)
            assert made.next_events()


def answered(kind: type[DrainableH2Connection]) -> bytes:
    """The bytes of three answers."""
    made, make = connection(kind, client_side=False), FrameFactory()
    transcript(made, [make.preface() + make.settings_ack() + b"".join(make.request(n, "/a.B/C") for n in (1, 3, 5))])
    for stream_id in (1, 3, 5):
        if isinstance(made, FastH2Connection):
            made.put_headers(stream_id, RESPONSE, end_stream=False)
            made.put_data(stream_id, memoryview(b"12345"), end_stream=False)
            made.put_headers(stream_id, [("grpc-status", "0")], end_stream=True)
        else:
            made.send_headers(stream_id, RESPONSE)
            made.send_data(stream_id, b"12345")
            made.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)
    return made.data_to_send()


def test_answers_are_h2s_to_the_byte():
    assert answered(FastH2Connection) == answered(DrainableH2Connection)


def test_header_blocks_beyond_the_peers_frame_size_are_continued():
    made, make = connection(FastH2Connection, client_side=False), FrameFactory()
    transcript(made, [make.preface() + make.settings_ack() + make.request(1, "/a.B/C")])
    headers = [*RESPONSE, *((f"x-{number}", "é" * 1000) for number in range(40))]
    made.put_headers(1, headers, end_stream=True)
    output = made.data_to_send()
    kinds = []
    while output:
        size = int.from_bytes(output[:3], "big")
        kinds.append((output[3], output[4], size))
        output = output[9 + size :]
    assert [kind for kind, _, _ in kinds] == [1, *[9] * (len(kinds) - 1)]
    assert [flags for _, flags, _ in kinds] == [1, *[0] * (len(kinds) - 2), 4]
    assert max(size for _, _, size in kinds) == 16_384


class TestWhatMayNotBeSent:
    @pytest.fixture
    def made(self) -> FastH2Connection:
        made, make = connection(FastH2Connection, client_side=False), FrameFactory()
        transcript(
            made,
            [make.preface({SettingCodes.INITIAL_WINDOW_SIZE: 10}) + make.settings_ack() + make.request(1, "/a.B/C")],
        )
        return made  # type: ignore[return-value]  # of the kind that was asked for

    def test_data_before_headers_is_sent_as_h2_would(self, made: FastH2Connection):
        made.put_data(1, b"1", end_stream=False)
        assert FrameReader().read(made.data_to_send()) == [Data(1, b"1")]

    def test_more_than_the_window(self, made: FastH2Connection):
        made.put_headers(1, RESPONSE, end_stream=False)
        made.data_to_send()
        with pytest.raises(FlowControlError):
            made.put_data(1, b"x" * 11, end_stream=False)
        assert made.data_to_send() == b""
        made.put_data(1, b"x" * 10, end_stream=False)
        assert FrameReader().read(made.data_to_send()) == [Data(1, b"x" * 10)]

    def test_anything_after_the_end(self, made: FastH2Connection):
        made.put_headers(1, RESPONSE, end_stream=True)
        assert [type(frame) for frame in FrameReader().read(made.data_to_send())] == [Headers]
        with pytest.raises(ProtocolError):
            made.put_data(1, b"x", end_stream=False)
        with pytest.raises(ProtocolError):
            made.put_headers(1, RESPONSE, end_stream=True)

    def test_trailers_that_do_not_end(self, made: FastH2Connection):
        made.put_headers(1, RESPONSE, end_stream=False)
        with pytest.raises(ProtocolError):
            made.put_headers(1, [("grpc-status", "0")], end_stream=False)

    def test_anything_on_a_stream_that_was_reset(self, made: FastH2Connection):
        made.reset_stream(1, ErrorCodes.CANCEL)
        with pytest.raises(ProtocolError):
            made.put_headers(1, RESPONSE, end_stream=True)
