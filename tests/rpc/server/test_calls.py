"""Whole calls, of every cardinality, by plain grpclib servicers and betterproto's."""

from __future__ import annotations

from contextlib import aclosing

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.rpc import ChannelOptions, Server, ServerOptions
from connectrio.rpc._grpc import frame_message
from connectrio.rpc.options import MIB
from connectrio.rpc.testing import memory_channel
from rpc.kit.frames import Data, Headers, Reset
from rpc.kit.raw import raw_client
from rpc.kit.script import BIDI, CLIENT_STREAMING, SERVER_STREAMING, UNARY, Note, Script, ScriptBase, ScriptStub
from rpc.kit.serving import Serving, in_both_ways, in_memory, leaving_nothing, turns

each_servicer = pytest.mark.parametrize("servicer", [Script, ScriptBase])


async def notes(*texts: str):
    for text in texts:
        yield Note(text)


@in_both_ways
@each_servicer
async def test_unary(serving: Serving, servicer):
    async with serving(servicer()) as served:
        assert await served.stub.unary(Note("hello")) == Note("hello")


@in_both_ways
async def test_server_streaming(serving: Serving):
    async with serving(ScriptBase()) as served:
        assert [note.text async for note in served.stub.server_streaming(Note("abc"))] == ["a", "b", "c"]


@in_both_ways
@each_servicer
@pytest.mark.parametrize("source", [lambda: notes("a", "b"), lambda: [Note("a"), Note("b")]], ids=["async", "sync"])
async def test_client_streaming(serving: Serving, servicer, source):
    async with serving(servicer()) as served:
        assert await served.stub.client_streaming(source()) == Note("ab")


@in_both_ways
@each_servicer
@pytest.mark.parametrize("source", [lambda: notes("a", "b"), lambda: [Note("a"), Note("b")]], ids=["async", "sync"])
async def test_bidi(serving: Serving, servicer, source):
    async with serving(servicer()) as served:
        assert [note.text async for note in served.stub.bidi(source())] == ["a", "b"]


async def test_bidi_answers_before_the_next_question_is_asked():
    answered = anyio.Event()

    async def questions():
        yield Note("first")
        await answered.wait()
        yield Note("second")

    async with in_memory(Script()) as served:
        answers = []
        async for note in served.stub.bidi(questions()):
            answers.append(note.text)
            answered.set()
        assert answers == ["first", "second"]


async def test_streams_may_be_empty():
    async with in_memory(Script()) as served:
        assert await served.stub.client_streaming([]) == Note("")
        assert [note async for note in served.stub.bidi([])] == []
        async with served.channel.request(BIDI, Script().__mapping__()[BIDI].cardinality, Note, Note) as stream:
            await stream.send_request(end=True)
            assert await stream.recv_message() is None


async def test_a_server_streaming_method_that_never_yields():
    class Silent(ScriptBase):
        async def server_streaming(self, note: Note):
            for nothing in ():
                yield nothing

    async with in_memory(Silent()) as served:
        assert [note async for note in served.stub.server_streaming(Note())] == []


@in_both_ways
async def test_empty_messages_are_messages(serving: Serving):
    async with serving(Script()) as served:
        assert await served.stub.unary(Note("")) == Note("")
        assert [note async for note in served.stub.bidi([Note("")] * 3)] == [Note("")] * 3


@in_both_ways
async def test_messages_larger_than_every_window(serving: Serving):
    large = ServerOptions(stream_window=65_535, connection_window=65_535, write_buffer=10_000)
    channel = ChannelOptions(stream_window=65_535, connection_window=65_535, write_buffer=10_000)
    note = Note("0123456789" * 100_000)
    async with serving(Script(), options=large, channel_options=channel) as served:
        assert await served.stub.unary(note) == note
        assert [answer async for answer in served.stub.bidi([note] * 3)] == [note] * 3
        assert len((await served.stub.client_streaming([note] * 3)).text) == 3 * len(note.text)


@in_both_ways
async def test_two_hundred_calls_at_once(serving: Serving):
    together = anyio.Event()
    waiting = 0

    async def unary(stream):
        nonlocal waiting
        waiting += 1
        if waiting == 200:
            together.set()
        await together.wait()
        await stream.send_message(await stream.recv_message())

    answers = set()

    async def call(text: str) -> None:
        answers.add((await served.stub.unary(Note(text))).text)

    async with serving(Script(unary)) as served:
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(call, str(number))
        assert answers == {str(number) for number in range(200)}


@in_both_ways
async def test_more_calls_than_the_server_allows_wait_for_their_turn(serving: Serving):
    at_once = most = 0
    met = anyio.Event()

    async def unary(stream):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if at_once == 5:
            met.set()
        await met.wait()
        await anyio.sleep(0.001)
        await stream.send_message(await stream.recv_message())
        at_once -= 1

    async def call() -> None:
        nonlocal answers
        await served.stub.unary(Note())
        answers += 1

    answers = 0
    async with serving(Script(unary), options=ServerOptions(max_concurrent_streams=5)) as served:
        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(call)
        assert answers == 60
        assert most == 5


@in_both_ways
async def test_a_stream_that_nobody_reads_does_not_hold_up_another(serving: Serving):
    stop = anyio.Event()

    async def deaf(stream):
        await stop.wait()

    async def talk() -> None:
        with anyio.CancelScope() as talking:
            scopes.append(talking)
            await served.stub.client_streaming([Note("x" * 100_000)] * 100)

    scopes: list[anyio.CancelScope] = []
    async with serving(Script(client_streaming=deaf)) as served:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk)
            for _ in range(5):
                assert await served.stub.unary(Note("x" * 500_000)) == Note("x" * 500_000)
            scopes[0].cancel()
        stop.set()


@in_both_ways
async def test_a_client_that_does_not_read_does_not_hold_up_another_call(serving: Serving):
    async def flood(stream):
        await stream.recv_message()
        while True:
            await stream.send_message(Note("x" * 100_000))

    async with (
        serving(Script(server_streaming=flood)) as served,
        aclosing(served.stub.server_streaming(Note())) as answers,
    ):
        await anext(answers)
        for _ in range(5):
            assert await served.stub.unary(Note("x" * 500_000)) == Note("x" * 500_000)


# what a unary request must be


async def raw_answer(*data, script: Script | None = None, path: str = UNARY) -> list:
    """The frames that a server answers to a request's DATA frames with."""
    async with leaving_nothing():
        server = Server([script or Script()])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, path), *(make(client.make) for make in data))
            return await client.whole(1)


def status_of(frames: list) -> tuple[Status, str]:
    trailers = next(frame for frame in reversed(frames) if isinstance(frame, Headers))
    return Status(int(trailers["grpc-status"])), dict(trailers.headers).get("grpc-message", "")


@pytest.mark.parametrize("path", [UNARY, SERVER_STREAMING])
async def test_a_unary_request_without_a_message(path: str):
    async def one(stream):
        await stream.send_message(await stream.recv_message())

    frames = await raw_answer(lambda make: make.data(1, end_stream=True), script=Script(one, one), path=path)
    assert status_of(frames)[0] is Status.UNIMPLEMENTED


@pytest.mark.parametrize("path", [UNARY, SERVER_STREAMING])
async def test_a_unary_request_with_two_messages(path: str):
    two = frame_message(b"a") + frame_message(b"b")
    frames = await raw_answer(lambda make: make.data(1, two, end_stream=True), path=path)
    assert status_of(frames)[0] is Status.UNIMPLEMENTED


@pytest.mark.parametrize("path", [UNARY, SERVER_STREAMING])
async def test_a_unary_request_may_end_after_its_message(path: str):
    async with leaving_nothing():
        server = Server([Script()])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, path), client.make.message(1, b"a"))
            await turns()
            assert not [frame for frame in client.of(1) if isinstance(frame, Headers)]
            await client.send(client.make.data(1, end_stream=True))
            assert status_of(await client.whole(1))[0] is Status.OK


@pytest.mark.parametrize("path", [UNARY, CLIENT_STREAMING])
async def test_a_message_that_cannot_be_decoded(path: str):
    frames = await raw_answer(lambda make: make.message(1, b"\xff", end_stream=True), path=path)
    status, message = status_of(frames)
    assert status is Status.INTERNAL
    assert "Note" in message


async def test_a_message_that_cannot_be_decoded_is_not_received_again():
    async def method(stream):
        with pytest.raises(GRPCError, match="cannot decode"):
            await stream.recv_message()
        await stream.send_message(await stream.recv_message())

    two = frame_message(b"\xff") + frame_message(b"next")
    frames = await raw_answer(lambda make: make.data(1, two, end_stream=True), script=Script(bidi=method), path=BIDI)
    assert frames[1] == Data(1, frame_message(b"next"))
    assert status_of(frames)[0] is Status.OK


@pytest.mark.parametrize(
    "body",
    [b"\2\0\0\0\0", b"\1\0\0\0\0", b"\0\0\0\0\5abc", b"\0\0"],
    ids=["flag 2", "compressed with nothing", "cut in the message", "cut in the prefix"],
)
async def test_bad_framing_is_internal(body: bytes):
    frames = await raw_answer(lambda make: make.data(1, body, end_stream=True))
    assert status_of(frames)[0] is Status.INTERNAL


async def test_a_message_over_the_limit_is_refused_before_it_is_there():
    async with leaving_nothing():
        server = Server([Script()], options=ServerOptions(max_receive_message_size=10))
        async with raw_client(server) as client:
            await client.send(client.make.request(1), client.make.data(1, b"\0\0\0\0\x0b"))
            frames = await client.whole(1)
            assert status_of(frames) == (
                Status.RESOURCE_EXHAUSTED,
                "received message larger than max (11 vs. 10 bytes)",
            )
            await client.until(lambda frame: frame == Reset(1, 0))  # and the client need not send the rest


async def test_the_default_limit_is_four_mebibytes():
    async with in_memory(Script(), channel_options=ChannelOptions(max_receive_message_size=8 * MIB)) as served:
        assert len((await served.stub.unary(Note("x" * 4 * MIB))).text) == 4 * MIB
        with pytest.raises(GRPCError) as raised:
            await served.stub.unary(Note("x" * (4 * MIB + 1)))
        assert raised.value.status is Status.RESOURCE_EXHAUSTED


async def test_the_clients_limit_is_its_own():
    async with in_memory(Script(), channel_options=ChannelOptions(max_receive_message_size=10)) as served:
        with pytest.raises(GRPCError, match="larger than max") as raised:
            await served.stub.unary(Note("x" * 11))
        assert raised.value.status is Status.RESOURCE_EXHAUSTED
        assert await served.stub.unary(Note("x" * 10)) == Note("x" * 10)


@pytest.mark.parametrize("split", range(1, 15))
async def test_messages_split_anywhere(split: int):
    data = frame_message(b"one") + frame_message(b"two")
    frames = await raw_answer(
        lambda make: make.data(1, data[:split]),
        lambda make: make.data(1, data[split:], end_stream=True),
        path=BIDI,
    )
    assert b"".join(frame.data for frame in frames if isinstance(frame, Data)) == data


async def test_padding_does_not_count_as_a_message():
    framed = frame_message(b"padded")
    frames = await raw_answer(
        lambda make: make.data(1, framed[:3], padding=100),
        lambda make: make.data(1, padding=255),
        lambda make: make.data(1, framed[3:], padding=0, end_stream=True),
    )
    assert frames[1] == Data(1, framed)


async def test_a_unary_response_is_exactly_these_frames():
    frames = await raw_answer(lambda make: make.message(1, b"a", end_stream=True))
    response, message, trailers = frames
    assert response.headers[:2] == ((":status", "200"), ("content-type", "application/grpc"))
    assert message == Data(1, frame_message(b"a"))
    assert trailers == Headers(1, (("grpc-status", "0"),), end_stream=True)


async def test_an_answer_before_the_requests_end_is_followed_by_a_reset():
    async def early(stream):
        await stream.send_message(Note("early"))

    async with leaving_nothing():
        server = Server([Script(client_streaming=early)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, CLIENT_STREAMING))
            await client.trailers(1)
            await client.until(lambda frame: frame == Reset(1, 0))
            # what was on its way does no harm
            await client.send(
                client.make.message(1, b"late"),
                client.make.request(3),
                client.make.message(3, b"next", end_stream=True),
            )
            assert status_of(await client.whole(3))[0] is Status.OK


async def test_a_stub_may_be_used_by_several_servers_clients_at_once():
    server = Server([Script()])
    async with leaving_nothing(), memory_channel(server) as one, memory_channel(server) as other:
        assert await ScriptStub(one).unary(Note("1")) == Note("1")
        assert await ScriptStub(other).unary(Note("2")) == Note("2")
