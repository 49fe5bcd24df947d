"""What a caller is told, whatever a server or something between does."""

from __future__ import annotations

import anyio
import pytest
from grpclib.const import Cardinality, Status
from h2.errors import ErrorCodes

from connectrio.rpc import GRPCError
from rpc.kit.frames import HeaderList
from rpc.kit.playing import OK, RESPONSE, answer, playing
from rpc.kit.script import SERVER_STREAMING, UNARY, Note
from rpc.kit.serving import turns
from rpc.kit.virtual_time import LONG, in_virtual_time

MESSAGE = b"\0\0\0\0\3one"


async def status_after(*blocks: HeaderList | bytes, end: bool = True) -> tuple[Status, str]:
    """Return how a unary call ends that is answered with these headers and data; the last ends the stream."""
    async with playing() as played:
        peer = await played.connected()
        call = await played.called()
        for number, block in enumerate(blocks):
            last = end and number == len(blocks) - 1
            frame = peer.make.data if isinstance(block, bytes) else peer.make.headers
            await peer.send(frame(1, block, end_stream=last))
        status = await call.status()
        # whatever it was, it was that call's affair alone
        other = await played.called("other")
        await answer(peer, 3, "other")
        assert await other.answer() == "other"
        return status, str(call.error)


@pytest.mark.parametrize(
    ("http_status", "status"),
    [
        ("400", Status.INTERNAL),
        ("401", Status.UNAUTHENTICATED),
        ("403", Status.PERMISSION_DENIED),
        ("404", Status.UNIMPLEMENTED),
        ("429", Status.UNAVAILABLE),
        ("431", Status.INTERNAL),
        ("500", Status.UNKNOWN),
        ("502", Status.UNAVAILABLE),
        ("503", Status.UNAVAILABLE),
        ("504", Status.UNAVAILABLE),
        ("302", Status.UNKNOWN),
    ],
)
@pytest.mark.parametrize("body", [[], [b"<html>"]], ids=["bare", "with a body"])
async def test_an_http_error_from_something_between(http_status: str, status: Status, body: list[bytes]):
    found, message = await status_after([(":status", http_status), ("content-type", "text/html")], *body)
    assert found is status
    assert http_status in message


async def test_a_grpc_status_counts_more_than_the_http_status():
    assert (await status_after([(":status", "503"), ("grpc-status", "5")]))[0] is Status.NOT_FOUND


async def test_informational_responses_are_none():
    early = [(":status", "103"), ("link", "</style.css>")]
    status, _ = await status_after([(":status", "100")], early, RESPONSE, MESSAGE, OK)
    assert status is Status.OK


@pytest.mark.parametrize("content_type", [None, "text/html", "application/grpcish", "application/json"])
async def test_a_response_that_is_not_grpc(content_type: str | None):
    headers = [(":status", "200")] + ([("content-type", content_type)] if content_type else [])
    status, message = await status_after(headers, MESSAGE, OK)
    assert status is Status.UNKNOWN
    assert repr(content_type) in message


async def test_no_status_at_all():
    assert (await status_after(RESPONSE, MESSAGE))[0] is Status.UNKNOWN
    assert (await status_after(RESPONSE, MESSAGE, [("x-only", "metadata")]))[0] is Status.UNKNOWN
    assert (await status_after(RESPONSE))[0] is Status.UNKNOWN


@pytest.mark.parametrize("code", ["17", "-1", "ok", "", "99999999999", "1.0"])
async def test_a_status_that_nobody_knows(code: str):
    status, message = await status_after(RESPONSE, MESSAGE, [("grpc-status", code), ("grpc-message", "why")])
    assert status is Status.UNKNOWN
    assert repr(code) in message
    assert "why" in message


@pytest.mark.parametrize("status", list(Status))
async def test_every_status_in_trailers_and_alone(status: Status):
    trailers = [("grpc-status", str(status.value)), ("grpc-message", "why%20so")]
    assert (await status_after(RESPONSE, MESSAGE, trailers))[0] is status
    if status is not Status.OK:
        found, message = await status_after(RESPONSE + trailers)
        assert found is status
        assert "why so" in message


@pytest.mark.parametrize("code", ["0", "5", "odd"])
async def test_a_status_in_headers_that_do_not_end_the_stream_is_none(code: str):
    odd = [*RESPONSE, ("grpc-status", code), ("grpc-message", "odd")]
    assert (await status_after(odd, MESSAGE, OK))[0] is Status.OK
    assert (await status_after(odd, MESSAGE, [("grpc-status", "10")]))[0] is Status.ABORTED
    for ends in [b""], [MESSAGE], [MESSAGE, b""]:
        status, message = await status_after(odd, *ends)
        assert status is Status.UNKNOWN
        assert "without a status" in message


async def test_a_message_after_headers_with_a_status_is_received():
    async with playing() as played:
        peer = await played.connected()
        call = await played.called()
        await peer.send(
            peer.make.headers(1, [*RESPONSE, ("grpc-status", "5"), ("x-odd", "1")]),
            peer.make.data(1, MESSAGE),
            peer.make.headers(1, OK, end_stream=True),
        )
        assert await call.answer() == "one"


@pytest.mark.parametrize("where", ["headers", "trailers", "alone"])
@pytest.mark.parametrize("value", ["AAA==AAA", "not base64!", "A", "\xff"])
async def test_malformed_binary_metadata(where: str, value: str):
    broken = [("x-token-bin", value)]
    if where == "headers":
        blocks = [RESPONSE + broken, MESSAGE, OK]
    elif where == "trailers":
        blocks = [RESPONSE, MESSAGE, OK + broken]
    else:
        blocks = [[*RESPONSE, ("grpc-status", "5"), *broken]]
    status, message = await status_after(*blocks)
    assert status is Status.INTERNAL
    assert "x-token-bin" in message
    assert where == "headers" or "grpc-status" in message


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ([], Status.UNIMPLEMENTED),
        ([MESSAGE, MESSAGE], Status.UNIMPLEMENTED),
        ([b"\2\0\0\0\0"], Status.INTERNAL),
        ([b"\1\0\0\0\0"], Status.INTERNAL),
        ([b"\0\xff\xff\xff\xff"], Status.RESOURCE_EXHAUSTED),
        ([MESSAGE[:-1]], Status.INTERNAL),
        ([MESSAGE[:3]], Status.INTERNAL),
        ([b"\0\0\0\0\1\xff"], Status.INTERNAL),
        ([MESSAGE[:2], MESSAGE[2:6], MESSAGE[6:]], Status.OK),
        ([b"", MESSAGE, b""], Status.OK),
    ],
)
async def test_messages_that_are_and_that_are_none(data: list[bytes], status: Status):
    assert (await status_after(RESPONSE, *data, OK))[0] is status


RESETS = {
    ErrorCodes.CANCEL: Status.CANCELLED,
    ErrorCodes.REFUSED_STREAM: Status.UNAVAILABLE,
    ErrorCodes.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
}


@pytest.mark.parametrize("code", [*ErrorCodes, 4242])
@pytest.mark.parametrize("after", ["headers", "data"])
async def test_a_reset_in_the_middle(code: ErrorCodes | int, after: str):
    async with playing() as played:
        peer = await played.connected()
        call = await played.called()
        await peer.send(peer.make.headers(1, RESPONSE))
        if after == "data":
            await peer.send(peer.make.data(1, MESSAGE))
        await peer.send(peer.make.reset(1, code))
        expected = RESETS.get(code, Status.INTERNAL) if isinstance(code, ErrorCodes) else Status.INTERNAL
        assert await call.status() is expected
        assert getattr(code, "name", str(code)) in str(call.error)


async def test_a_reset_after_all_was_said_changes_nothing():
    async with playing() as played:
        peer = await played.connected()
        call = await played.called()
        await answer(peer, 1, "all")
        await peer.send(peer.make.reset(1, ErrorCodes.NO_ERROR))
        assert await call.answer() == "all"


# deadlines


@in_virtual_time
@pytest.mark.parametrize("how", ["reset", "trailers", "alone"])
@pytest.mark.parametrize(("after", "status"), [(9, Status.CANCELLED), (11, Status.DEADLINE_EXCEEDED)])
async def test_cancelled_past_the_deadline_is_the_deadline(how: str, after: float, status: Status):
    """The server's clock is a little ahead; nobody was waiting when its answer came."""
    async with playing(patience=LONG) as played:
        peer = await played.connected()
        async with played.channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note, timeout=10) as stream:
            await stream.send_message(Note())
            await peer.whole(1)
            await anyio.sleep(after)
            if how == "reset":
                await peer.send(peer.make.headers(1, RESPONSE), peer.make.reset(1, ErrorCodes.CANCEL))
            elif how == "trailers":
                await peer.send(peer.make.headers(1, RESPONSE), peer.make.headers(1, CANCELLED, end_stream=True))
            else:
                await peer.send(peer.make.headers(1, RESPONSE + CANCELLED, end_stream=True))
            await turns()
            with pytest.raises(GRPCError) as raised:
                await stream.recv_trailing_metadata()
            assert raised.value.status is status
            if status is Status.DEADLINE_EXCEEDED:
                assert "server" not in str(raised.value.message)


CANCELLED = [("grpc-status", "1"), ("grpc-message", "the server says so")]


@in_virtual_time
async def test_the_deadline_tells_the_server():
    async with playing(patience=LONG) as played:
        peer = await played.connected()
        call = await played.called(timeout=10)
        assert await call.status() is Status.DEADLINE_EXCEEDED
        assert (await peer.until(lambda frame: getattr(frame, "error_code", None) is not None)).error_code == 8


# how a call has failed once is how it has failed


async def test_a_failure_is_told_again_to_whoever_asks_again():
    async with playing() as played:
        peer = await played.connected()
        async with played.channel.request(SERVER_STREAMING, Cardinality.UNARY_STREAM, Note, Note) as stream:
            await stream.send_message(Note())
            await peer.whole(1)
            await peer.send(peer.make.headers(1, RESPONSE), peer.make.data(1, b"\2\0\0\0\0"))
            for _ in range(2):
                for receive in stream.recv_message, stream.recv_trailing_metadata:
                    with pytest.raises(GRPCError) as raised:
                        await receive()
                    assert raised.value.status is Status.INTERNAL
        assert peer.of(1)[-1] is not None


async def test_a_block_left_in_peace_although_the_call_was_cut_short_says_so():
    async with playing() as played:
        peer = await played.connected()
        stream = played.channel.request(SERVER_STREAMING, Cardinality.UNARY_STREAM, Note, Note)
        await stream.__aenter__()
        await stream.send_message(Note())
        await peer.whole(1)
        await peer.send(peer.make.reset(1, ErrorCodes.INTERNAL_ERROR))
        await turns()
        with pytest.raises(GRPCError) as raised:
            await stream.__aexit__(None, None, None)
        assert raised.value.status is Status.INTERNAL


async def test_a_call_that_was_cancelled_by_its_caller_is_left_in_peace():
    async with playing() as played:
        peer = await played.connected()
        async with played.channel.request(SERVER_STREAMING, Cardinality.UNARY_STREAM, Note, Note) as stream:
            await stream.send_message(Note())
            await stream.cancel()
            with pytest.raises(GRPCError) as raised:
                await stream.recv_message()
            assert raised.value.status is Status.CANCELLED
        assert (await peer.whole(1))[-1] is not None


@in_virtual_time
async def test_what_is_done_stays_done_when_the_deadline_passes():
    async with playing(patience=LONG) as played:
        peer = await played.connected()
        async with played.channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note, timeout=10) as stream:
            await stream.send_message(Note())
            await answer(peer, 1, "in time")
            assert await stream.recv_message() == Note("in time")
            await stream.recv_trailing_metadata()
            await anyio.sleep(20)
            assert await stream.recv_message() is None
            await stream.recv_trailing_metadata()
