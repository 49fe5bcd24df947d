"""Requests that cannot be answered, and what comes along with those that can: metadata, on both sides."""

from __future__ import annotations

from base64 import b64encode

import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from connectrio.rpc import Server, current_call
from rpc.kit.frames import Headers, request_headers
from rpc.kit.raw import raw_client
from rpc.kit.script import CLIENT_STREAMING, UNARY, Note, Script
from rpc.kit.serving import in_memory, leaving_nothing


async def response_to(
    changes: dict[str, str | None], *extra: tuple[str, str], script: Script | None = None, body: bool = True
) -> list:
    """The frames of the response to a request that differs so from a valid one. Another call is answered after it."""
    async with leaving_nothing():
        server = Server([script or Script()])
        async with raw_client(server) as client:
            await client.send(client.make.headers(1, request_headers(changes, extra), end_stream=not body))
            if body:
                await client.send(client.make.message(1, b"a", end_stream=True))
            frames = await client.whole(1)
            await client.send(client.make.request(3), client.make.message(3, b"b", end_stream=True))
            assert (await client.trailers(3))["grpc-status"] == "0"
            assert server.active_calls == 0 or script is not None
    return frames


def check_refusal(frames: list, http_status: str, status: Status, message: str) -> None:
    [headers] = [frame for frame in frames if isinstance(frame, Headers)]
    assert headers.end_stream
    assert headers[":status"] == http_status
    assert headers["content-type"] == "application/grpc"
    assert headers["grpc-status"] == str(status.value)
    assert message in headers["grpc-message"]


# refusals


@pytest.mark.parametrize("body", [True, False])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "OPTIONS", "post"])
async def test_another_method_than_post(method: str, body: bool):
    frames = await response_to({":method": method}, body=body)
    check_refusal(frames, "405", Status.INTERNAL, method)


@pytest.mark.parametrize("content_type", ["text/html", "application/grpc-web", "application/json", "", None])
async def test_another_content_type(content_type: str | None):
    frames = await response_to({"content-type": content_type})
    check_refusal(frames, "415", Status.INTERNAL, "content-type")


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;x=y", "Application/gRPC"])
async def test_content_types_that_are_grpc(content_type: str):
    frames = await response_to({"content-type": content_type})
    assert frames[-1]["grpc-status"] == "0"


async def test_without_te_trailers():
    """A proxy that does not know of trailers would have dropped it, and would drop the status."""
    check_refusal(await response_to({"te": None}), "400", Status.INTERNAL, "te: trailers")


@pytest.mark.parametrize("body", [True, False])
@pytest.mark.parametrize(
    "path",
    [
        "/test.Script/Nothing",
        "/nothing.Script/Unary",
        "test.Script/Unary",
        "/test.Script/unary",
        "/test.Script/Unary/",
        "//test.Script/Unary",
        "/test.Script/Unary?x=y",
        "/test.Script/%55nary",
        "/",
        "*",
    ],
)
async def test_an_unknown_path(path: str, body: bool):
    frames = await response_to({":path": path}, body=body)
    check_refusal(frames, "200", Status.UNIMPLEMENTED, path.replace("%", "%25"))


@pytest.mark.parametrize("timeout", ["", "1", "S", "123456789S", "-1S", "1.5S", "1s", "1 S", "1SS", "\xff"])
async def test_a_malformed_timeout(timeout: str):
    called = []

    async def never(stream):
        called.append(stream)

    script = Script(client_streaming=never)
    frames = await response_to({":path": CLIENT_STREAMING, "grpc-timeout": timeout}, script=script)
    check_refusal(frames, "200", Status.INTERNAL, "grpc-timeout")
    assert not called


@pytest.mark.parametrize("timeout", ["0S", "00000000n", "0H"])
async def test_a_deadline_that_has_passed_on_arrival(timeout: str):
    called = []

    async def never(stream):
        called.append(stream)

    script = Script(client_streaming=never)
    frames = await response_to({":path": CLIENT_STREAMING, "grpc-timeout": timeout}, script=script)
    check_refusal(frames, "200", Status.DEADLINE_EXCEEDED, "deadline")
    assert not called


@pytest.mark.parametrize("timeout", ["99999999H", "99999999M", "99999999S"])
async def test_deadlines_far_away(timeout: str):
    assert (await response_to({"grpc-timeout": timeout}))[-1]["grpc-status"] == "0"


@pytest.mark.parametrize("value", ["a", "!!!!", "ab=c", "\xff\xfe"])
async def test_malformed_binary_metadata(value: str):
    check_refusal(await response_to({}, ("x-bin", value)), "200", Status.INTERNAL, "x-bin")


async def test_refusals_do_not_use_up_slots():
    async with leaving_nothing():
        server = Server([Script()])
        async with raw_client(server) as client:
            for stream_id in range(1, 101, 2):
                await client.send(client.make.request(stream_id, "/no/such"))
                await client.trailers(stream_id)
            assert server.active_calls == 0


# metadata of requests


async def metadata_seen(*pairs: tuple[str, str]) -> list[tuple[str, str | bytes]]:
    """What a servicer sees of a request's custom headers."""
    seen: list[tuple[str, str | bytes]] = []

    async def unary(stream):
        if not seen:
            seen.extend(stream.metadata.items())
        await stream.send_message(await stream.recv_message())

    await response_to({"user-agent": "test/1"}, *pairs, script=Script(unary))
    return seen


async def test_duplicates_in_order():
    pairs = [("x", "1"), ("y", "2"), ("x", "3"), ("x", "1")]
    assert await metadata_seen(*pairs) == pairs


async def test_reserved_headers_are_not_metadata():
    assert await metadata_seen(("grpc-custom", "x"), ("x", "y")) == [("x", "y")]


async def test_binary_metadata_padded_unpadded_and_joined():
    seen = await metadata_seen(
        ("a-bin", "AQ=="), ("a-bin", "AQ"), ("b-bin", "AQ,AgM,AgM="), ("b-bin", "AQ==, Ag=="), ("c-bin", "")
    )
    assert seen == [
        ("a-bin", b"\1"),
        ("a-bin", b"\1"),
        ("b-bin", b"\1"),
        ("b-bin", b"\2\3"),
        ("b-bin", b"\2\3"),
        ("b-bin", b"\1"),
        ("b-bin", b"\2"),
        ("c-bin", b""),
    ]


async def test_non_ascii_metadata_is_latin_1():
    # hpack encodes text as UTF-8
    assert await metadata_seen(("x", "ü")) == [("x", "ü".encode().decode("latin-1"))]


# metadata over the channel


async def test_metadata_goes_both_ways():
    pairs = [("x-text", "a, b"), ("x-raw-bin", bytes(range(256))), ("x-text", "again"), ("x-empty-bin", b"")]

    async def unary(stream):
        assert list(stream.metadata.items()) == pairs
        await stream.send_initial_metadata(metadata=pairs)
        await stream.send_message(await stream.recv_message())
        await stream.send_trailing_metadata(metadata=pairs[::-1])

    async with (
        in_memory(Script(unary)) as served,
        served.channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note, metadata=pairs) as stream,
    ):
        await stream.send_message(Note("a"), end=True)
        await stream.recv_initial_metadata()
        assert list(stream.initial_metadata.items()) == pairs
        assert await stream.recv_message() == Note("a")
        await stream.recv_trailing_metadata()
        assert list(stream.trailing_metadata.items()) == pairs[::-1]


async def test_trailing_metadata_comes_with_an_error():
    async def unary(stream):
        await stream.send_trailing_metadata(status=Status.ABORTED, metadata={"x-why": "because"})

    async with in_memory(Script(unary)) as served:
        async with served.channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note) as stream:
            await stream.send_message(Note("a"), end=True)
            with pytest.raises(GRPCError) as raised:
                await stream.recv_message()
        assert raised.value.status is Status.ABORTED
        assert stream.trailing_metadata["x-why"] == "because"


@pytest.mark.parametrize(
    "metadata",
    [
        {"UPPER": "x"},
        {"white space": "x"},
        {"x": "new\nline"},
        {"x": "ü"},
        {"x": b"bytes"},
        {"x-bin": "text"},
        {"grpc-x": "x"},
        {":path": "/"},
        {"te": "x"},
        {"connection": "close"},
    ],
    ids=repr,
)
async def test_metadata_that_cannot_be_sent_is_the_callers_error(metadata: dict):
    async with in_memory(Script()) as served:
        with pytest.raises(ValueError, match=f"{next(iter(metadata))!r} cannot be sent"):
            await served.stub.unary(Note("a"), metadata=metadata)
        assert await served.stub.unary(Note("b")) == Note("b")


async def test_metadata_with_spaces_around_it_arrives_without():
    async def unary(stream):
        await stream.send_initial_metadata(metadata={"x-echo": " " + stream.metadata["x-spaces"] + " "})
        await stream.send_message(await stream.recv_message())

    async with in_memory(Script(unary)) as served:
        async with served.channel.request(
            UNARY, Cardinality.UNARY_UNARY, Note, Note, metadata={"x-spaces": "  a b "}
        ) as stream:
            await stream.send_message(Note("a"), end=True)
            await stream.recv_message()
            assert stream.initial_metadata["x-echo"] == "a b"
        assert await served.stub.unary(Note("b"), metadata={"x-spaces": " "}) == Note("b")


@pytest.mark.parametrize("size", [1000, 10_000])
async def test_large_metadata(size: int):
    value = b64encode(bytes(size * 3 // 4)).decode()

    async def unary(stream):
        await stream.send_initial_metadata(metadata={"x-echo": stream.metadata["x-large"]})
        await stream.send_message(await stream.recv_message())

    async with (
        in_memory(Script(unary)) as served,
        served.channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note, metadata={"x-large": value}) as stream,
    ):
        await stream.send_message(Note("a"), end=True)
        await stream.recv_message()
        assert stream.initial_metadata["x-echo"] == value


@pytest.mark.parametrize(
    ("value", "attempts"),
    [(None, 0), ("1", 1), ("999999999", 999999999), ("", 0), ("-1", 0), ("one", 0), ("1" * 10, 0)],
)
async def test_how_often_the_client_has_made_the_call_before(value: str | None, attempts: int):
    async def tell(stream):
        await stream.send_message(Note(str(current_call().previous_attempts)))

    extra = [] if value is None else [("grpc-previous-rpc-attempts", value)]
    frames = await response_to({}, *extra, script=Script(tell))
    assert frames[1].data[5:] == str(attempts).encode()


async def test_a_long_path_is_not_told_back_whole():
    async with leaving_nothing():
        server = Server([Script()])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, "/" + "x" * 5000, end_stream=True))
            trailers = await client.trailers(1)
    assert trailers["grpc-status"] == str(Status.UNIMPLEMENTED.value)
    assert trailers["grpc-message"].startswith("unknown method /xxx")
    assert len(trailers["grpc-message"]) <= 256
