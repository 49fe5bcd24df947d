"""Header lists that are too large, in both directions: only their own stream is lost (RFC 9113 §6.5.2 and §10.5.1)."""

from __future__ import annotations

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectrio.rpc import ChannelOptions, Server, ServerOptions, current_call
from connectrio.rpc._http2.connection import ConnectionState, HeadersTooLargeError
from rpc.kit.core import ClientCore, ServerCore, TimedCore
from rpc.kit.frames import Data, GoAway, Headers, Reset, request_headers
from rpc.kit.playing import channel_to
from rpc.kit.raw import LARGE_WINDOWS, RawServer, raw_client
from rpc.kit.script import UNARY, Note, Script, ScriptStub
from rpc.kit.serving import in_memory, leaving_nothing

LIMIT = 1000
RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]
OVER = [("x-over", "v" * LIMIT)]
FAR_OVER = [(f"x-far-{number}", "v" * LIMIT) for number in range(16)]


def size_of(headers: list[tuple[str, str]]) -> int:
    return sum(len(name) + len(value) + 32 for name, value in headers)


# what comes in


@pytest.mark.parametrize("end_stream", [True, False])
def test_a_request_over_the_limit_arrives_as_one(end_stream: bool):
    server = ServerCore(max_header_list_size=LIMIT)
    sibling = server.request(1)
    headers = request_headers(extra=OVER)

    server.connection.feed(server.peer.headers(3, headers, end_stream=end_stream))
    server.connection.process(64)

    [event] = server.connection.take_events()
    assert event.oversized == size_of(headers)
    assert event.stream.headers is None
    assert event.stream.is_complete is end_stream
    assert sibling.termination is None
    assert server.exchange(server.peer.headers(5, headers)) == []  # from HPACK's table this time
    assert server.connection.state is ConnectionState.OPEN


def test_a_request_of_just_the_limit_is_taken():
    headers = request_headers(extra=OVER)
    server = ServerCore(max_header_list_size=size_of(headers))
    assert server.request(1, extra=OVER).headers == headers


def test_trailers_over_the_limit_cost_their_stream():
    server = ServerCore(max_header_list_size=LIMIT)
    stream, sibling = server.request(1), server.request(3)

    assert server.exchange(server.peer.headers(1, OVER, end_stream=True)) == [Reset(1, ErrorCodes.ENHANCE_YOUR_CALM)]

    assert stream.termination is not None
    assert "max_header_list_size" in str(stream.termination)
    assert not stream.is_complete
    assert sibling.termination is None


def test_trailers_over_the_limit_count_as_resets():
    server = TimedCore(max_header_list_size=LIMIT, reset_budget=10)
    for stream_id in range(1, 41, 2):
        server.receive(server.peer.request(stream_id) + server.peer.headers(stream_id, OVER, end_stream=True))
    assert server.was_told_to_be_calm


@pytest.mark.parametrize("stream_id", [1, 3], ids=["trailers", "a request"])
def test_far_over_the_limit_the_connection_ends(stream_id: int):
    server = ServerCore(max_header_list_size=LIMIT)
    server.request(1)
    assert server.exchange(server.peer.headers(stream_id, request_headers(extra=FAR_OVER), end_stream=True)) == [
        GoAway(1, ErrorCodes.ENHANCE_YOUR_CALM)
    ]


@pytest.mark.parametrize("part", ["headers", "trailers", "trailers only"])
def test_a_response_over_the_limit_costs_its_call(part: str):
    client = ClientCore(max_header_list_size=LIMIT)
    stream, sibling = (client.connection.open(request_headers(), end_stream=True) for _ in range(2))
    client.sent()
    make = client.peer

    if part == "trailers":
        client.receive(make.headers(1, RESPONSE))
    sent = client.exchange(make.headers(1, RESPONSE * (part != "trailers") + OVER, end_stream=part != "headers"))

    # both sides have ended it with the trailers
    assert sent == ([Reset(1, ErrorCodes.ENHANCE_YOUR_CALM)] if part == "headers" else [])
    assert "max_header_list_size" in str(stream.termination)
    client.receive(make.headers(3, RESPONSE + TRAILERS, end_stream=True))
    assert sibling.headers == RESPONSE + TRAILERS
    assert client.connection.state is ConnectionState.OPEN


def test_a_server_cannot_open_a_stream_with_a_large_header_list_either():
    client = ClientCore(max_header_list_size=LIMIT)
    client.connection.open(request_headers())
    client.sent()
    assert client.exchange(client.peer.headers(2, RESPONSE + OVER)) == [GoAway(0, ErrorCodes.PROTOCOL_ERROR)]


@pytest.mark.parametrize("end_stream", [True, False])
async def test_the_client_is_told_the_sizes(end_stream: bool):
    headers = request_headers({":path": UNARY}, [("x-large", "v" * 2000)] * 10)
    async with leaving_nothing():
        server = Server([Script()])
        async with raw_client(server) as client:
            make = client.make
            await client.send(make.request(1, UNARY))
            await client.send(make.headers(3, headers, end_stream=end_stream))
            trailers = await client.trailers(3)
            assert trailers["grpc-status"] == str(Status.RESOURCE_EXHAUSTED.value)
            assert f"take {size_of(headers)} bytes, but this server takes at most 16384" in trailers["grpc-message"]
            if not end_stream:
                await client.until(lambda frame: frame == Reset(3, ErrorCodes.NO_ERROR))
                await client.send(make.message(3, b"late", end_stream=True))
            await client.send(make.message(1, b"beside", end_stream=True))
            assert (await client.trailers(1))["grpc-status"] == "0"
            assert server.active_calls == 0


async def test_a_caller_is_told_what_was_too_large():
    async with RawServer() as server, channel_to(server) as channel:
        stub = ScriptStub(channel)

        async def answer() -> None:
            peer = await server.accept()
            await peer.until(lambda frame: isinstance(frame, Data) and frame.end_stream)
            await peer.send(peer.make.headers(1, [*RESPONSE, *[("x-large", "v" * 2000)] * 10]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            with pytest.raises(GRPCError, match=r"headers of 20\d+ bytes, more than the 16384") as raised:
                await stub.unary(Note("a"))
    assert raised.value.status is Status.RESOURCE_EXHAUSTED


# what goes out


def limited(limit: int) -> dict[SettingCodes, int]:
    return {**LARGE_WINDOWS, SettingCodes.MAX_HEADER_LIST_SIZE: limit}


def test_nothing_of_a_list_that_the_peer_does_not_accept_is_sent():
    server = ServerCore()
    server.exchange(server.peer.settings({SettingCodes.MAX_HEADER_LIST_SIZE: 2000}))
    stream = server.request(1)
    headers = [*RESPONSE, ("x-over", "v" * 2000)]

    with pytest.raises(HeadersTooLargeError, match=f"take {size_of(headers)} bytes, but the client takes at most 2000"):
        stream.send_headers(headers)

    assert server.sent() == []
    stream.send_headers(RESPONSE + TRAILERS, end_stream=True)
    assert isinstance(server.sent()[0], Headers)


def test_a_client_whose_limit_no_answer_keeps_to_is_answered_all_the_same():
    server = ServerCore()
    server.exchange(server.peer.settings({SettingCodes.MAX_HEADER_LIST_SIZE: 0}))
    server.request(1).send_headers(RESPONSE + TRAILERS, end_stream=True)
    assert isinstance(server.sent()[0], Headers)


async def initial(stream) -> None:
    await stream.recv_message()
    await stream.send_initial_metadata(metadata={"x-large": "v" * 20_000})


async def trailing(stream) -> None:
    await stream.send_message(await stream.recv_message())
    await stream.send_trailing_metadata(metadata={"x-large": "v" * 20_000})


async def trailing_of_the_call(stream) -> None:
    await stream.send_message(await stream.recv_message())
    call = current_call()
    call.set_trailing_metadata([("x-large", "v" * 2000)] * 10)


async def details(stream) -> None:
    await stream.recv_message()
    raise GRPCError(Status.NOT_FOUND, "gone", b"d" * 20_000)


class BytesAsDetails:
    """A codec for details that are bytes already."""

    def encode(self, status: Status, message: str | None, details: bytes) -> bytes:
        return details

    def decode(self, status: Status, message: str | None, data: bytes) -> bytes:
        return data


@pytest.mark.parametrize("method", [initial, trailing, trailing_of_the_call, details], ids=lambda each: each.__name__)
@pytest.mark.parametrize("limit", [1024, 16_384])
async def test_a_call_whose_metadata_the_client_does_not_accept_fails_alone(method, limit: int):
    async with leaving_nothing():
        server = Server([Script(method)], status_details_codec=BytesAsDetails())
        async with raw_client(server, limited(limit)) as client:
            make = client.make
            await client.send(make.request(1, UNARY), make.message(1, b"a", end_stream=True))
            trailers = await client.trailers(1)
            assert trailers["grpc-status"] == str(Status.INTERNAL.value)
            assert f"but the client takes at most {limit}" in trailers["grpc-message"]
            assert ("the trailers of NOT_FOUND" in trailers["grpc-message"]) is (method is details)
            await client.send(make.request(3, "/test.Script/Bidi"), make.message(3, b"b", end_stream=True))
            assert (await client.trailers(3))["grpc-status"] == "0"
            assert all(size_of(frame.headers) <= limit for frame in client.seen if isinstance(frame, Headers))


@pytest.mark.parametrize("message", ["x" * 10_000, "€" * 10_000, "short"])
@pytest.mark.parametrize("limit", [0, 1024, 3000])
async def test_a_status_message_is_cut_to_what_the_client_accepts(message: str, limit: int):
    async def method(stream) -> None:
        await stream.recv_message()
        raise GRPCError(Status.NOT_FOUND, message)

    async with leaving_nothing(), raw_client(Server([Script(method)]), limited(limit)) as client:
        await client.send(client.make.request(1, UNARY), client.make.message(1, b"a", end_stream=True))
        trailers = await client.trailers(1)
        assert trailers["grpc-status"] == str(Status.NOT_FOUND.value)
        assert ("[truncated: 10000 characters in all]" in trailers["grpc-message"]) is (message != "short")
        assert size_of(trailers.headers) <= max(limit, 1024)


async def test_our_client_says_what_it_accepts():
    channel_options = ChannelOptions(max_header_list_size=2000)
    async with in_memory(Script(initial), channel_options=channel_options) as served:
        with pytest.raises(GRPCError, match="but the client takes at most 2000") as raised:
            await served.stub.unary(Note("a"))
        assert raised.value.status is Status.INTERNAL
        assert await served.stub.client_streaming([Note("b")]) == Note("b")


async def test_our_client_sends_nothing_that_the_server_does_not_accept():
    options = ServerOptions(max_header_list_size=2000)
    async with in_memory(Script(), options=options) as served:
        await served.stub.unary(Note("a"))  # the settings are here
        with pytest.raises(GRPCError, match="but the server takes at most 2000") as raised:
            await served.stub.unary(Note("b"), metadata={"x-large": "v" * 2000})
        assert raised.value.status is Status.INTERNAL
        assert await served.stub.unary(Note("c")) == Note("c")
