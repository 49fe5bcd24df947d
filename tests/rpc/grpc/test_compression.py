"""Compressed messages, both ways."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from hypothesis import given
from hypothesis import strategies as st

from connectrio.rpc import ChannelOptions, Server, ServerOptions, current_call
from connectrio.rpc._grpc import accepted_encodings, compress, decompress, frame_message
from rpc.kit.frames import Data, Headers
from rpc.kit.raw import raw_client
from rpc.kit.script import BIDI, UNARY, Note, Script
from rpc.kit.serving import in_memory, leaving_nothing

each_encoding = pytest.mark.parametrize("encoding", ["gzip", "deflate"])
LIMIT = 1000


def failure_of(data: bytes, encoding: str) -> Status:
    with pytest.raises(GRPCError) as raised:
        decompress(data, encoding, LIMIT)
    return raised.value.status


@pytest.fixture
def produced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes zlib's decompressors have made, each time that they were asked for some."""
    begin, sizes = zlib.decompressobj, []

    class Counting:
        def __init__(self, **options: int) -> None:
            self._decompressor = begin(**options)

        def decompress(self, *args: Any) -> bytes:
            sizes.append(len(made := self._decompressor.decompress(*args)))
            return made

        def flush(self, *args: Any) -> bytes:
            sizes.append(len(made := self._decompressor.flush(*args)))
            return made

        def __getattr__(self, name: str) -> Any:
            return getattr(self._decompressor, name)

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    return sizes


# the algorithms


@given(st.binary(max_size=LIMIT), st.sampled_from(["gzip", "deflate"]))
def test_what_was_compressed_comes_back(message: bytes, encoding: str):
    assert decompress(compress(message, encoding), encoding, LIMIT) == message


def test_the_formats_are_gzips_and_zlibs():
    assert gzip.decompress(compress(b"message", "gzip")) == b"message"
    assert zlib.decompress(compress(b"message", "deflate")) == b"message"


@each_encoding
def test_a_message_of_exactly_the_limit(encoding: str):
    assert len(decompress(compress(bytes(LIMIT), encoding), encoding, LIMIT)) == LIMIT


@each_encoding
def test_a_message_over_the_limit(encoding: str):
    assert failure_of(compress(bytes(LIMIT + 1), encoding), encoding) is Status.RESOURCE_EXHAUSTED


@each_encoding
def test_a_bomb_is_not_blown_up(encoding: str, produced: list[int]):
    bomb = compress(bytes(1_000_000), encoding)
    assert failure_of(bomb, encoding) is Status.RESOURCE_EXHAUSTED
    assert produced == [LIMIT + 1]


@each_encoding
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"x" + data,
        lambda data: data * 2,
    ],
)
def test_damaged_data(encoding: str, damage):
    assert failure_of(damage(compress(b"message", encoding)), encoding) is Status.INTERNAL


@each_encoding
def test_a_wrong_checksum(encoding: str):
    data = bytearray(compress(b"message", encoding))
    data[-5 if encoding == "gzip" else -1] ^= 1
    assert failure_of(bytes(data), encoding) is Status.INTERNAL


@pytest.mark.parametrize("encoding", ["identity", "br", ""])
def test_no_encoding(encoding: str):
    assert failure_of(b"message", encoding) is Status.INTERNAL


def test_many_members_take_no_time(produced: list[int]):
    """Each of them would be quick, so not even the second is looked at."""
    assert failure_of(gzip.compress(b"") * 1000, "gzip") is Status.INTERNAL
    assert produced == [0]


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (None, {"identity"}),
        ("", {"identity"}),
        ("gzip", {"identity", "gzip"}),
        ("identity, deflate,gzip", {"identity", "deflate", "gzip"}),
    ],
)
def test_what_a_peer_accepts(header: str | None, accepted: set[str]):
    assert accepted_encodings(header) - {""} == accepted


# requests


async def answer_to(payload: bytes, *extra: tuple[str, str], script: Script | None = None, path: str = UNARY) -> list:
    async with leaving_nothing():
        server = Server([script or Script()], options=ServerOptions(max_receive_message_size=LIMIT))
        async with raw_client(server) as client:
            await client.send(client.make.request(1, path, extra=extra), client.make.data(1, payload, end_stream=True))
            return await client.whole(1)


def status_of(frames: list) -> Status:
    trailers = next(frame for frame in reversed(frames) if isinstance(frame, Headers))
    return Status(int(trailers["grpc-status"]))


@each_encoding
async def test_a_compressed_request(encoding: str):
    payload = frame_message(compress(b"message", encoding), compressed=True)
    frames = await answer_to(payload, ("grpc-encoding", encoding))
    assert frames[1] == Data(1, frame_message(b"message"))


async def test_compressed_and_plain_messages_in_one_request():
    """Each message has its own flag, and its own context."""
    compressed = frame_message(compress(b"same", "gzip"), compressed=True)
    payload = compressed + frame_message(b"plain") + compressed
    frames = await answer_to(payload, ("grpc-encoding", "gzip"), path=BIDI)
    sent = b"".join(frame.data for frame in frames if isinstance(frame, Data))
    assert sent == frame_message(b"same") + frame_message(b"plain") + frame_message(b"same")


async def test_an_unknown_encoding_is_unimplemented_and_says_what_is_not():
    [response] = [
        frame for frame in await answer_to(frame_message(b"a"), ("grpc-encoding", "br")) if isinstance(frame, Headers)
    ]
    assert response["grpc-status"] == str(Status.UNIMPLEMENTED.value)
    assert response["grpc-accept-encoding"] == "identity,gzip,deflate"


@pytest.mark.parametrize("extra", [[], [("grpc-encoding", "identity")]])
async def test_a_compressed_flag_without_an_encoding(extra: list):
    assert status_of(await answer_to(frame_message(b"message", compressed=True), *extra)) is Status.INTERNAL


async def test_a_corrupt_request():
    assert (
        status_of(await answer_to(frame_message(b"message", compressed=True), ("grpc-encoding", "gzip")))
        is Status.INTERNAL
    )


async def test_the_decompressed_size_counts():
    payload = frame_message(compress(bytes(10_000_000), "gzip")[:900], compressed=True)
    assert status_of(await answer_to(payload, ("grpc-encoding", "gzip"))) is Status.RESOURCE_EXHAUSTED


# responses


async def compressed_answer(stream) -> None:
    call = current_call()
    async for note in stream:
        chosen = call.compress_response(note.text)
        await stream.send_message(Note(f"{chosen} " + "x" * 100))


@each_encoding
async def test_a_compressed_response(encoding: str):
    script = Script(compressed_answer)
    frames = await answer_to(frame_message(encoding.encode()), ("grpc-accept-encoding", encoding), script=script)
    response, message, _ = frames
    assert response["grpc-encoding"] == encoding
    assert message.data[0] == 1
    assert decompress(message.data[5:], encoding, LIMIT) == b"True " + b"x" * 100


@pytest.mark.parametrize("accepts", [[], [("grpc-accept-encoding", "identity,deflate,br")]])
async def test_a_response_is_not_compressed_for_a_client_that_cannot_read_it(accepts: list):
    frames = await answer_to(frame_message(b"gzip"), *accepts, script=Script(compressed_answer))
    response, message, _ = frames
    assert "grpc-encoding" not in dict(response.headers)
    assert message == Data(1, frame_message(b"False " + b"x" * 100))


async def test_a_servicer_can_leave_messages_as_they_are():
    async def method(stream):
        call = current_call()
        call.compress_response("gzip")
        for compressed in True, False:
            call.compress_messages = compressed
            await stream.send_message(Note("message"))

    async with leaving_nothing():
        server = Server([Script(bidi=method)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, BIDI, extra=[("grpc-accept-encoding", "gzip")], end_stream=True))
            frames = await client.whole(1)
    sent = [frame.data for frame in frames if isinstance(frame, Data)]
    assert [data[0] for data in sent] == [1, 0]


async def test_an_encoding_that_nobody_knows_is_the_servicers_error():
    async with in_memory(Script(compressed_answer)) as served:
        with pytest.raises(GRPCError) as raised:
            await served.stub.unary(Note("br"))
        assert raised.value.status is Status.UNKNOWN


# the channel


@each_encoding
async def test_a_channel_compresses_and_reads_what_is_compressed(encoding: str):
    seen = []

    async def method(stream):
        call = current_call()
        seen.append(call.request_encoding)
        call.compress_response(encoding)
        async for note in stream:
            await stream.send_message(note)

    options = ChannelOptions(compression=encoding)  # type: ignore[arg-type]
    async with in_memory(Script(method, bidi=method), channel_options=options) as served:
        assert await served.stub.unary(Note("x" * 100_000)) == Note("x" * 100_000)
        assert [note async for note in served.stub.bidi([Note("a"), Note("")])] == [Note("a"), Note("")]
        async with served.channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note) as stream:
            await stream.send_message(Note("a"))
            assert await stream.recv_message() == Note("a")
    assert seen == [encoding] * 3


async def test_a_response_that_is_a_bomb():
    async def method(stream):
        call = current_call()
        call.compress_response("gzip")
        await stream.send_message(Note("x" * 100_000))

    async with in_memory(Script(method), channel_options=ChannelOptions(max_receive_message_size=1000)) as served:
        with pytest.raises(GRPCError) as raised:
            await served.stub.unary(Note("a"))
        assert raised.value.status is Status.RESOURCE_EXHAUSTED
