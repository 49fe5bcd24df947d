"""betterproto's stubs on our channel: streams that end early, on either side, leave nothing behind."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Self

import anyio
import pytest
from anyio.lowlevel import checkpoint
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from connectrio.rpc import Server, closing
from connectrio.rpc.testing import memory_channel
from rpc.kit.frames import Data, Reset
from rpc.kit.playing import OK, RESPONSE, channel_to
from rpc.kit.raw import RawPeer, RawServer
from rpc.kit.script import Note, Script, ScriptBase, ScriptStub
from rpc.kit.serving import eventually, in_both_ways, in_memory, leaving_nothing, turns
from rpc.kit.virtual_time import in_virtual_time


class Ended:
    """Whether a coroutine or generator has come to its end, and how."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.how: type[BaseException] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type, *_: object) -> None:
        self.how = exc_type
        self.event.set()


# leaving early


@in_both_ways
async def test_leaving_a_server_stream_early_cancels_the_call(serving):
    servicer = Ended()

    async def forever(stream):
        with servicer:
            await stream.recv_message()
            while True:
                await stream.send_message(Note("more"))
                await anyio.sleep(0.001)

    async with serving(Script(server_streaming=forever)) as served:
        async with closing(served.stub.server_streaming(Note())) as answers:
            async for _ in answers:
                break
        await servicer.event.wait()
        assert served.server.active_calls == 0


@in_both_ways
async def test_leaving_a_bidirectional_stream_early_cancels_the_call_and_stops_the_sender(serving):
    servicer, sender = Ended(), Ended()

    async def echo(stream):
        with servicer:
            async for note in stream:
                await stream.send_message(note)

    async def questions():
        with sender:
            yield Note("one")
            await anyio.sleep_forever()

    async with serving(Script(bidi=echo)) as served:
        async with closing(served.stub.bidi(questions())) as answers:
            async for _ in answers:
                break
        await servicer.event.wait()
        await sender.event.wait()


async def test_a_stream_left_early_is_reset_at_once():
    """The stub's generator does not close the one below it, so our iterator must end the call itself."""
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:

        async def answer() -> None:
            peers.append(await raw.accept())
            await peers[0].until(lambda frame: isinstance(frame, Data))
            await peers[0].send(peers[0].make.headers(1, RESPONSE), peers[0].make.message(1, b"one"))

        peers: list[RawPeer] = []
        tasks.start_soon(answer)
        async with closing(ScriptStub(channel).server_streaming(Note())) as answers:
            assert await anext(answers) == Note("one")
        await peers[0].until(lambda frame: frame == Reset(1, ErrorCodes.CANCEL))


async def test_a_sender_that_waits_for_the_window_is_stopped():
    sender = Ended()

    async def questions():
        with sender:
            while True:
                yield Note("x" * 100_000)

    async def answer_one(stream):
        await stream.send_message(Note("one"))
        await anyio.sleep_forever()

    async with in_memory(Script(bidi=answer_one)) as served:
        async with aclosing(served.stub.bidi(questions())) as answers:
            await anext(answers)
            await turns()
        await sender.event.wait()


async def test_a_server_that_ends_early_stops_the_sender():
    sender = Ended()

    async def questions():
        with sender:
            yield Note("one")
            await anyio.sleep_forever()

    async def answer_one(stream):
        await stream.send_message(await stream.recv_message())

    async with in_memory(Script(bidi=answer_one)) as served:
        assert [note.text async for note in served.stub.bidi(questions())] == ["one"]
        assert sender.event.is_set()


@pytest.mark.parametrize("size", [1, 100_000])
async def test_a_server_that_ends_early_stops_a_sender_that_never_would(size: int):
    def questions():
        while True:
            yield Note("x" * size)

    async def answer_one(stream):
        await stream.send_message(await stream.recv_message())

    async with in_memory(Script(client_streaming=answer_one, bidi=answer_one)) as served:
        assert await served.stub.client_streaming(questions()) == Note("x" * size)
        assert [note async for note in served.stub.bidi(questions())] == [Note("x" * size)]


@pytest.mark.parametrize("kind", ["iterable", "generator"])
async def test_a_sender_that_never_has_to_wait_hears_that_the_server_has_ended(kind: str):
    """Its messages are there at once, and fit into the server's window."""
    raw = RawServer()
    messages = iter([Note("x")] * 10_000)

    async def generator():
        for message in messages:
            yield message

    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:

        async def answer() -> None:
            peer = await raw.accept()
            await peer.until(lambda frame: isinstance(frame, Data))
            end = peer.make.headers(1, OK, end_stream=True)
            await peer.send(peer.make.headers(1, RESPONSE), peer.make.message(1, b"y"), end)

        tasks.start_soon(answer)
        stub = ScriptStub(channel)
        assert await stub.client_streaming(messages if kind == "iterable" else generator()) == Note("y")
    assert len(list(messages)) > 0


@pytest.mark.parametrize("initial_metadata", [False, True])
async def test_an_early_error_reaches_a_client_that_still_sends(initial_metadata: bool):
    async def refuse(stream):
        if initial_metadata:
            await stream.send_initial_metadata()
        raise GRPCError(Status.FAILED_PRECONDITION, "not now")

    async def questions():
        while True:
            yield Note("x")
            await checkpoint()

    async with in_memory(Script(client_streaming=refuse, bidi=refuse)) as served:
        with pytest.raises(GRPCError, match="not now"):
            await served.stub.client_streaming(questions())
        with pytest.raises(GRPCError, match="not now"):
            [note async for note in served.stub.bidi(questions())]


async def test_an_early_error_after_messages_reaches_a_client_that_still_sends():
    async def refuse(stream):
        await stream.send_message(Note("one"))
        raise GRPCError(Status.FAILED_PRECONDITION, "not now")

    async def questions():
        yield Note("x")
        await anyio.sleep_forever()

    async with in_memory(Script(bidi=refuse)) as served:
        answers = served.stub.bidi(questions())
        assert await anext(answers) == Note("one")
        with pytest.raises(GRPCError, match="not now"):
            await anext(answers)


# errors in the messages' source


@pytest.mark.parametrize("source", ["async", "sync"])
async def test_an_error_in_the_messages_source_reaches_the_receiver(source: str):
    def sync_questions():
        yield Note("one")
        raise LookupError("no more questions")

    async def async_questions():
        for question in sync_questions():
            yield question

    servicer = Ended()

    async def echo(stream):
        with servicer:
            async for note in stream:
                await stream.send_message(note)
            await anyio.sleep_forever()

    questions = sync_questions if source == "sync" else async_questions
    async with in_memory(Script(client_streaming=echo, bidi=echo)) as served:
        with pytest.raises(LookupError, match="no more questions"):
            [note async for note in served.stub.bidi(questions())]
        await servicer.event.wait()
        with pytest.raises(LookupError, match="no more questions"):
            await served.stub.client_streaming(questions())


async def test_a_message_that_cannot_be_encoded_reaches_the_receiver():
    async with in_memory(Script()) as served:
        with pytest.raises(AttributeError):
            [note async for note in served.stub.bidi([Note(None)])]  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            await served.stub.unary(Note(None))  # type: ignore[arg-type]
        assert await served.stub.unary(Note("well")) == Note("well")


# cancellation and deadlines


async def test_cancelling_the_receiver_cancels_the_call_and_the_sender():
    sender, servicer = Ended(), Ended()
    asking, answering = anyio.Event(), anyio.Event()

    async def questions():
        with sender:
            yield Note("one")
            asking.set()
            await anyio.sleep_forever()

    async def silent(stream):
        with servicer:
            answering.set()
            await anyio.sleep_forever()

    async def receive():
        [note async for note in served.stub.bidi(questions())]

    async with in_memory(Script(bidi=silent)) as served:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await asking.wait()
            await answering.wait()
            tasks.cancel_scope.cancel()
        await sender.event.wait()
        await servicer.event.wait()


async def test_a_channel_that_is_closed_before_the_sender_has_begun_ends_the_call():
    """On asyncio, the block of the channel ends before the sender's first step; on trio it may."""
    begins, receiver = anyio.Event(), Ended()

    async def receive(channel):
        with receiver, pytest.raises(GRPCError, match="the connection was closed"):
            async for _ in ScriptStub(channel).bidi(forever()):
                pass

    async def forever():
        while True:
            yield Note("more")
            await checkpoint()

    async with leaving_nothing(), anyio.create_task_group() as tasks:
        async with memory_channel(Server([Script(bidi=silent)])) as channel:
            start_soon = channel._context.start_soon
            channel._context = replace(channel._context, start_soon=lambda *task: (begins.set(), start_soon(*task)))
            tasks.start_soon(receive, channel)
            await begins.wait()
        await receiver.event.wait()


async def silent(stream):
    await anyio.sleep_forever()


@in_virtual_time
async def test_a_deadline_ends_both_directions():
    sender = Ended()

    async def questions():
        with sender:
            while True:
                yield Note("x" * 100_000)

    async def silent(stream):
        await anyio.sleep_forever()

    async with in_memory(Script(bidi=silent, client_streaming=silent)) as served:
        for call in (
            lambda: anext(served.stub.bidi(questions(), timeout=0.05)),
            lambda: served.stub.client_streaming(questions(), timeout=0.05),
        ):
            with pytest.raises(GRPCError) as raised:
                await call()
            assert raised.value.status is Status.DEADLINE_EXCEEDED
        await sender.event.wait()


async def test_a_stream_that_is_over_stays_over():
    async with in_memory(Script()) as served:
        answers = served.stub._stream_stream("/test.Script/Bidi", [Note("a")], Note, Note)
        assert [note async for note in answers] == [Note("a")]
        with pytest.raises(StopAsyncIteration):
            await anext(answers)


async def test_a_stream_that_is_never_begun_is_no_call():
    async with in_memory(Script()) as served:
        served.stub._stream_stream("/test.Script/Bidi", [Note("a")], Note, Note)
        served.stub._unary_stream("/test.Script/ServerStreaming", Note("a"), Note)
        await turns()
        assert served.server.active_calls == 0


async def test_stubs_of_other_channels_are_not_touched():
    calls = []

    class OtherStream:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def send_message(self, message: Note, end: bool = False) -> None:
            calls.append((message, end))

        async def send_request(self) -> None:
            calls.append("request")

        async def end(self) -> None:
            calls.append("end")

        async def recv_message(self) -> Note:
            return Note("unary")

        async def __aiter__(self):
            yield Note("streamed")

    class OtherChannel:
        def request(self, *_: object, **__: object) -> OtherStream:
            return OtherStream()

    stub = ScriptStub(OtherChannel())  # type: ignore[arg-type]
    assert [note async for note in stub.server_streaming(Note("q"))] == [Note("streamed")]
    assert await stub.client_streaming([Note("q")]) == Note("unary")
    assert calls == [(Note("q"), True), "request", (Note("q"), False), "end"]


# the server's side


@in_both_ways
async def test_a_servicers_generator_is_closed_when_its_call_is_cancelled(serving):
    """betterproto's base leaves that to the garbage collector, which acts long after, in no task of ours."""
    ended = Ended()
    closed_inside = []

    class Flood(ScriptBase):
        async def server_streaming(self, note: Note):
            with ended:
                while True:
                    yield Note("x" * 100_000)

        async def unary(self, note: Note) -> Note:
            closed_inside.append(ended.event.is_set())
            return note

    async with serving(Flood()) as served:
        async with aclosing(served.stub.server_streaming(Note())) as answers:
            await anext(answers)
            await turns()
        await eventually(lambda: served.server.active_calls == 0)
        await served.stub.unary(Note())
    assert closed_inside == [True]


async def test_nothing_is_left_when_a_servicers_generator_raises():
    class Failing(ScriptBase):
        async def server_streaming(self, note: Note):
            yield Note("one")
            raise GRPCError(Status.OUT_OF_RANGE, "that was all")

    async with leaving_nothing(), in_memory(Failing()) as served:
        answers = served.stub.server_streaming(Note())
        assert await anext(answers) == Note("one")
        with pytest.raises(GRPCError, match="that was all"):
            await anext(answers)
