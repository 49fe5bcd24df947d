"""What HTTP forbids in a message ends that message's stream, and hurts no other call (RFC 9113 §8.1.1)."""

from __future__ import annotations

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from connectrio.rpc import Server
from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc._http2.stream import TerminationCause
from rpc.kit.core import ClientCore, ServerCore, TimedCore, take_messages
from rpc.kit.frames import GoAway, Headers, Reset, WindowUpdate, request_headers
from rpc.kit.playing import channel_to
from rpc.kit.raw import RawServer, raw_client
from rpc.kit.script import Note, Script, ScriptStub
from rpc.kit.serving import leaving_nothing

RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]

MALFORMED = {
    "an uppercase name": request_headers(extra=[("Upper", "case")]),
    "a space in a name": request_headers(extra=[("a name", "value")]),
    "a colon in a name": request_headers(extra=[("a:name", "value")]),
    "no name": request_headers(extra=[("", "value")]),
    "a byte beyond ASCII in a name": request_headers(extra=[("n\xe4me", "value")]),
    "a line feed in a value": request_headers(extra=[("name", "a\nb")]),
    "a NUL in a value": request_headers(extra=[("name", "a\0b")]),
    "spaces around a value": request_headers(extra=[("name", " value ")]),
    "connection": request_headers(extra=[("connection", "close")]),
    "keep-alive": request_headers(extra=[("keep-alive", "timeout=5")]),
    "transfer-encoding": request_headers(extra=[("transfer-encoding", "chunked")]),
    "another te": request_headers({"te": "trailers, deflate"}),
    "a pseudo-header that nobody knows": [(":unknown", "x"), *request_headers()],
    "a response's pseudo-header": [(":status", "200"), *request_headers()],
    "a pseudo-header after the others": request_headers(extra=[(":scheme", "http")]),
    "a pseudo-header twice": [(":method", "POST"), *request_headers()],
    "no method": request_headers({":method": None}),
    "no scheme": request_headers({":scheme": None}),
    "no path": request_headers({":path": None}),
    "an empty path": request_headers({":path": ""}),
    "no authority": request_headers({":authority": None}),
    "a host that contradicts the authority": request_headers(extra=[("host", "elsewhere")]),
    "a length that is no number": request_headers(extra=[("content-length", "five")]),
    "a length that Python does not convert": request_headers(extra=[("content-length", "9" * 5000)]),
    "two lengths": request_headers(extra=[("content-length", "5"), ("content-length", "6")]),
}

malformed_requests = pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED)


@malformed_requests
@pytest.mark.parametrize("end_stream", [True, False])
def test_a_malformed_request_is_reset_and_its_siblings_live(headers, end_stream: bool):
    server = ServerCore()
    sibling = server.request(1)

    assert server.exchange(server.peer.headers(3, headers, end_stream=end_stream)) == [
        Reset(3, ErrorCodes.PROTOCOL_ERROR)
    ]

    assert server.requests == [sibling]
    assert server.connection.state is ConnectionState.OPEN
    server.receive(server.peer.message(1, b"still here", end_stream=True))
    assert take_messages(sibling) == [b"still here"]
    # HPACK's table holds what the malformed request put there
    server.request(5, extra=[("name", "value")])
    assert ("name", "value") in server.requests[-1].headers


@malformed_requests
def test_what_follows_a_malformed_request_is_ignored_and_credited(headers):
    server = ServerCore()
    server.exchange(server.peer.headers(1, headers))
    before = server.connection.h2.inbound_flow_control_window

    for _ in range(100):
        server.exchange(server.peer.data(1, bytes(16_384)))

    assert server.connection.state is ConnectionState.OPEN
    assert server.connection.h2.inbound_flow_control_window > before - 2**21, "the connection's window shrinks"
    assert server.connection.h2.streams == {}


def test_malformed_trailers_end_their_request_alone():
    server = ServerCore()
    for stream_id, trailers in (1, [(":path", "/in/trailers")]), (3, [("Upper", "case")]):
        stream = server.request(stream_id)
        sent = server.exchange(server.peer.headers(stream_id, trailers, end_stream=True))
        assert sent == [Reset(stream_id, ErrorCodes.PROTOCOL_ERROR)]
        assert stream.termination is not None
        assert stream.termination.cause is TerminationCause.RESET_BY_US
        assert "malformed" in str(stream.termination)
        stream.release()
    assert server.connection.h2.streams == {}
    assert server.connection.state is ConnectionState.OPEN


def test_headers_in_the_middle_of_a_request_end_it_alone():
    server = ServerCore()
    stream, sibling = server.request(1), server.request(3)
    assert server.exchange(server.peer.headers(1, [("trailers", "without END_STREAM")])) == [
        Reset(1, ErrorCodes.PROTOCOL_ERROR)
    ]
    assert stream.termination is not None
    assert sibling.termination is None


@pytest.mark.parametrize(("length", "body"), [("5", b"123456"), ("5", b"1234")])
def test_a_body_of_another_length_than_was_said(length: str, body: bytes):
    server = ServerCore()
    stream = server.request(1, extra=[("content-length", length)])
    before = server.connection.h2.inbound_flow_control_window

    sent = server.exchange(server.peer.data(1, body, end_stream=True))

    assert [frame for frame in sent if not isinstance(frame, WindowUpdate)] == [Reset(1, ErrorCodes.PROTOCOL_ERROR)]
    assert stream.termination is not None
    assert not stream.is_complete
    stream.release()
    for _ in range(200):  # what is left of it comes late, and is credited as well
        server.exchange(server.peer.data(1, bytes(16_384)))
    assert server.connection.h2.inbound_flow_control_window > before - 2**21


def test_a_window_that_grows_by_nothing_ends_its_stream_alone():
    """RFC 9113 §6.9. The first bit of the increment is reserved, and does not count."""
    server = ServerCore()
    streams = [server.request(stream_id) for stream_id in (1, 3, 5)]

    for stream_id, increment in (1, bytes(4)), (3, b"\x80\0\0\0"):
        frame = server.peer.raw(0x8, 0, stream_id, increment)
        server.receive(frame[:12])
        assert server.sent() == []
        assert server.exchange(frame[12:]) == [Reset(stream_id, ErrorCodes.PROTOCOL_ERROR)]

    assert [stream.termination is None for stream in streams] == [False, False, True]
    assert server.connection.state is ConnectionState.OPEN


@pytest.mark.parametrize("stream_id", [0, 3], ids=["the connection's window", "a stream that was never opened"])
def test_another_window_that_grows_by_nothing_ends_the_connection(stream_id: int):
    server = ServerCore()
    server.request(1)
    assert server.exchange(server.peer.raw(0x8, 0, stream_id, bytes(4))) == [GoAway(1, ErrorCodes.PROTOCOL_ERROR)]


def test_what_was_malformed_is_told_in_few_words():
    server = ServerCore()
    stream = server.request(1)
    server.receive(server.peer.headers(1, [("content-length", "9" * 5000)], end_stream=True))
    assert "content-length" in str(stream.termination)
    assert len(str(stream.termination)) < 500


def test_malformed_requests_use_up_the_budget_of_resets():
    server = TimedCore(reset_budget=10)
    headers = MALFORMED["an uppercase name"]
    for stream_id in range(1, 41, 2):
        sent = server.exchange(server.peer.headers(stream_id, headers))
        if server.connection.state is ConnectionState.CLOSED:
            break
    assert isinstance(sent[-1], GoAway)
    assert sent[-1].error_code is ErrorCodes.ENHANCE_YOUR_CALM
    assert stream_id == 21, "ten resets are allowed"


@pytest.mark.parametrize(
    "block", [b"\xff\xff\xff\xff\xff\xff", b"\xff\x80\x01"], ids=["an integer too long", "no such entry"]
)
@pytest.mark.parametrize("stream_id", [1, 3], ids=["trailers", "a request"])
def test_a_header_block_that_cannot_be_read_ends_the_connection(block: bytes, stream_id: int):
    """Both sides' tables differ from now on (RFC 9113 §4.3)."""
    server = ServerCore()
    server.request(1)
    sent = server.exchange(server.peer.raw(0x01, 0x5, stream_id, block))
    assert isinstance(sent[-1], GoAway)
    assert server.connection.state is ConnectionState.CLOSED


@pytest.mark.parametrize("kind", ["an uppercase name", "connection", "no path", "two lengths"])
async def test_a_malformed_request_beside_a_call(kind: str):
    async with leaving_nothing():
        server = Server([Script()])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, "/test.Script/Bidi"), client.make.message(1, b"before"))
            await client.send(client.make.headers(3, MALFORMED[kind]), client.make.message(3, b"body", end_stream=True))
            # the body came late, and may be refused once more
            assert (await client.whole(3))[0] == Reset(3, ErrorCodes.PROTOCOL_ERROR)
            await client.send(client.make.message(1, b"after", end_stream=True))
            assert (await client.trailers(1))["grpc-status"] == "0"
            assert server.active_calls == 0


# from a server


@pytest.mark.parametrize(
    "headers",
    [
        [*RESPONSE, ("content-length", "5"), ("content-length", "6")],
        [*RESPONSE, ("content-length", "five")],
        [*RESPONSE, ("content-length", "9" * 5000)],
    ],
    ids=["two lengths", "a length that is no number", "a length that Python does not convert"],
)
def test_a_malformed_response_ends_its_call_alone(headers):
    client = ClientCore()
    stream, sibling = (client.connection.open(request_headers()) for _ in range(2))
    client.sent()

    assert client.exchange(client.peer.headers(1, headers)) == [Reset(1, ErrorCodes.PROTOCOL_ERROR)]

    assert stream.termination is not None
    assert sibling.termination is None
    assert client.connection.state is ConnectionState.OPEN


def test_a_malformed_end_of_a_response_that_ends_the_stream():
    """Both sides have ended it by then, so there is nothing to reset; the call fails all the same."""
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=True)
    client.sent()
    client.receive(client.peer.headers(1, [*RESPONSE, ("content-length", "7")]))
    client.receive(client.peer.data(1, b"message"))
    sent = client.exchange(client.peer.data(1, b"message", end_stream=True))
    assert [frame for frame in sent if isinstance(frame, Reset)] == [Reset(1, ErrorCodes.PROTOCOL_ERROR)]
    assert stream.termination is not None
    assert client.connection.state is ConnectionState.OPEN


def test_a_server_cannot_open_a_stream():
    client = ClientCore()
    stream = client.connection.open(request_headers(), end_stream=True)
    client.sent()

    assert client.exchange(client.peer.headers(2, RESPONSE)) == [GoAway(0, ErrorCodes.PROTOCOL_ERROR)]

    assert client.connection.state is ConnectionState.CLOSED
    assert stream.termination is not None


async def test_the_caller_is_told_what_was_malformed():
    async def call(stub: ScriptStub) -> None:
        with pytest.raises(GRPCError, match=r"malformed message: .*content-length") as raised:
            await stub.unary(Note("a"))
        assert raised.value.status is Status.INTERNAL

    server = RawServer()
    async with channel_to(server) as channel, anyio.create_task_group() as tasks:
        tasks.start_soon(call, ScriptStub(channel))
        peer = await server.accept()
        await peer.until(lambda frame: isinstance(frame, Headers))
        await peer.send(peer.make.headers(1, [*RESPONSE, ("content-length", "five")]))
