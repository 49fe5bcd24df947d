"""What the peer sent before it read our RST_STREAM is ignored (RFC 9113 §5.1): one RST_STREAM for each stream."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from h2.errors import ErrorCodes

from connectrio.rpc._http2.connection import ConnectionState
from rpc.kit.core import ClientCore, ServerCore, TimedCore, check_windows
from rpc.kit.frames import FrameFactory, GoAway, Headers, Reset, WindowUpdate, request_headers

RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0"), ("x-late", "trailers")]

_END_HEADERS = 0x4

Make = Callable[[FrameFactory], bytes]
LATE: dict[str, Make] = {
    "DATA": lambda peer: peer.data(1, b"message"),
    "DATA with padding": lambda peer: peer.data(1, b"message", padding=10),
    "empty DATA": lambda peer: peer.data(1),
    "the end, as DATA": lambda peer: peer.data(1, end_stream=True),
    "the end, as HEADERS": lambda peer: peer.headers(1, TRAILERS, end_stream=True),
    "HEADERS without an end": lambda peer: peer.headers(1, TRAILERS),
    "HEADERS and CONTINUATION": lambda peer: (
        peer.raw(0x1, 0, 1, peer.block(TRAILERS)) + peer.raw(0x9, _END_HEADERS, 1, b"")
    ),
    "malformed HEADERS": lambda peer: peer.headers(1, [("Upper", "case")], end_stream=True),
    "HEADERS over the limit": lambda peer: peer.headers(1, [("x-big", "v" * 2000)] * 20),
    "WINDOW_UPDATE": lambda peer: peer.window_update(1, 100),
    "WINDOW_UPDATE beyond 2³¹": lambda peer: peer.window_update(1, 2**31 - 1),
    "RST_STREAM": lambda peer: peer.reset(1),
    "PRIORITY": lambda peer: peer.raw(0x2, 0, 1, b"\0\0\0\3\1"),
}

late = pytest.mark.parametrize("make", LATE.values(), ids=LATE)
when = pytest.mark.parametrize("released", [False, True], ids=["not released", "released"])


@late
@when
def test_a_server_ignores_what_comes_too_late(make: Make, released: bool):
    server = ServerCore()
    stream, sibling = server.request(1), server.request(3)
    stream.send_headers(RESPONSE + TRAILERS, end_stream=True)
    stream.reset(ErrorCodes.NO_ERROR)
    if released:
        stream.release()
    assert [frame for frame in server.sent() if isinstance(frame, Reset)] == [Reset(1, ErrorCodes.NO_ERROR)]

    assert server.exchange(*[make(server.peer) for _ in range(3)]) == []

    assert server.connection.state is ConnectionState.OPEN
    assert sibling.termination is None
    server.request(5, extra=TRAILERS)  # HPACK's tables agree
    assert server.requests[-1].headers == request_headers(extra=TRAILERS)


@late
@when
def test_a_client_ignores_what_comes_too_late(make: Make, released: bool):
    client = ClientCore()
    stream, sibling = (client.connection.open(request_headers()) for _ in range(2))
    stream.reset(ErrorCodes.CANCEL)
    if released:
        stream.release()
    assert [frame for frame in client.sent() if isinstance(frame, Reset)] == [Reset(1, ErrorCodes.CANCEL)]

    assert client.exchange(*[make(client.peer) for _ in range(3)]) == []

    assert client.connection.state is ConnectionState.OPEN
    client.receive(client.peer.headers(3, RESPONSE + TRAILERS, end_stream=True))
    assert sibling.headers == RESPONSE + TRAILERS


def test_a_whole_response_that_comes_too_late():
    client = ClientCore()
    stream = client.connection.open(request_headers())
    stream.reset(ErrorCodes.CANCEL)
    stream.release()
    client.sent()

    make = client.peer
    sent = client.exchange(make.headers(1, RESPONSE), make.data(1, b"x"), make.headers(1, TRAILERS, end_stream=True))

    assert sent == []


def test_late_data_is_credited():
    server = ServerCore()
    stream = server.request(1)
    stream.reset(ErrorCodes.CANCEL)
    stream.release()
    server.sent()

    sent = [frame for _ in range(500) for frame in server.exchange(server.peer.data(1, bytes(16_000), padding=10))]

    assert sent, "the client must be able to go on"
    assert {type(frame) for frame in sent} == {WindowUpdate}
    assert {frame.stream_id for frame in sent} == {0}
    check_windows(server.connection)


def test_late_data_keeps_to_the_connections_window():
    server = ServerCore(connection_window=65_535)
    stream, sibling = server.request(1), server.request(3)
    stream.reset(ErrorCodes.CANCEL)
    server.exchange(*[server.peer.data(3, bytes(16_384))] * 3)  # which nobody takes

    sent = server.exchange(server.peer.data(1, bytes(16_384)))

    assert sent == [GoAway(3, ErrorCodes.FLOW_CONTROL_ERROR)]
    assert sibling.termination is not None


@pytest.mark.parametrize("block", [b"\xff\xff\xff\xff\xff\xff", b"\xff\x80\x01"])
def test_a_late_header_block_that_cannot_be_read_ends_the_connection(block: bytes):
    server = ServerCore()
    server.request(1).reset(ErrorCodes.CANCEL)
    server.sent()
    assert isinstance(server.exchange(server.peer.raw(0x1, 0x5, 1, block))[-1], GoAway)


@pytest.mark.parametrize("kind", ["the end, as HEADERS", "WINDOW_UPDATE", "RST_STREAM", "empty DATA"])
def test_late_frames_have_a_budget(kind: str):
    """Except for data, of which a client cannot know how much comes too late."""
    server = TimedCore(control_budget=10)
    server.request(1).reset(ErrorCodes.CANCEL)

    server.receive(LATE[kind](server.peer) * 100)

    assert server.was_told_to_be_calm


def test_a_stream_that_was_refused_unseen():
    server = ServerCore(max_concurrent_streams=1)
    server.request(1)
    assert server.exchange(server.peer.request(3)) == [Reset(3, ErrorCodes.REFUSED_STREAM)]
    assert server.exchange(server.peer.message(3, b"body"), server.peer.data(3, end_stream=True)) == []


def test_data_after_the_end_is_told_once():
    server = ServerCore()
    stream = server.request(1, end_stream=True)

    assert server.exchange(server.peer.data(1, b"more")) == [Reset(1, ErrorCodes.STREAM_CLOSED)]
    assert server.exchange(server.peer.data(1, b"and more")) == []

    assert stream.termination is not None


def test_what_follows_the_peers_own_reset_is_an_error_of_the_stream():
    server = ServerCore()
    server.request(1)
    server.receive(server.peer.reset(1))

    sent = server.exchange(server.peer.data(1, b"message"), server.peer.headers(1, TRAILERS, end_stream=True))

    assert sent == [Reset(1, ErrorCodes.STREAM_CLOSED)] * 2


def test_what_follows_the_end_of_both_sides_is_an_error_of_the_connection():
    server = ServerCore()
    stream = server.request(1, end_stream=True)
    stream.send_headers(RESPONSE + TRAILERS, end_stream=True)
    stream.release()
    assert isinstance(server.sent()[-1], Headers)

    assert server.exchange(server.peer.headers(1, TRAILERS, end_stream=True)) == [GoAway(1, ErrorCodes.STREAM_CLOSED)]


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_continuation_of_nothing_ends_the_connection(is_reset: bool):
    """RFC 9113 §6.10."""
    server = ServerCore()
    stream = server.request(1)
    if is_reset:
        stream.reset(ErrorCodes.CANCEL)
        server.sent()
    assert server.exchange(server.peer.raw(0x9, _END_HEADERS, 1, b"")) == [GoAway(1, ErrorCodes.PROTOCOL_ERROR)]


@pytest.mark.parametrize("size", [16_385, 2**24 - 1])
def test_a_frame_that_is_too_large_is_refused_before_it_is_here(size: int):
    server = ServerCore()
    header = size.to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big")
    assert server.exchange(header) == [GoAway(0, ErrorCodes.FRAME_SIZE_ERROR)]
