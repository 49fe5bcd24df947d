"""Large messages are decoded in a thread, one at a time, so that the event loop goes on."""

from __future__ import annotations

import gc
import threading
import weakref

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.rpc.garbage import without_collections
from connectrio.rpc.options import KIB
from rpc.kit.script import Note, Script, Stream
from rpc.kit.serving import eventually, in_memory

LARGE = "x" * 64 * KIB


class Decoder:
    """Notes whether messages are decoded in the event loop's thread, and can make decoding wait.

    Put in place of `Note.FromString`, which is what decodes.
    """

    def __init__(self) -> None:
        self.in_the_loop: list[bool] = []
        self.now = 0
        self.most = 0
        self.may_end = threading.Event()
        self.may_end.set()
        self._loop = threading.current_thread()
        self._lock = threading.Lock()

    def __call__(self, data: bytes) -> Note:
        with self._lock:
            self.in_the_loop.append(threading.current_thread() is self._loop)
            self.now += 1
            self.most = max(self.most, self.now)
        if not self.in_the_loop[-1]:
            self.may_end.wait(30)
        with self._lock:
            self.now -= 1
        return Note(data.decode())


@pytest.fixture
def decoder(monkeypatch):
    decoder = Decoder()
    yield decoder
    decoder.may_end.set()


async def answer_with_length(stream: Stream) -> None:
    note = await stream.recv_message()
    assert note is not None
    await stream.send_message(Note(str(len(note.text))))


async def test_only_large_messages_leave_the_event_loop(decoder: Decoder, monkeypatch):
    async with in_memory(Script(unary=answer_with_length)) as served:
        monkeypatch.setattr(Note, "FromString", decoder)
        assert await served.stub.unary(Note("small")) == Note("5")
        small, decoder.in_the_loop = decoder.in_the_loop, []
        assert await served.stub.unary(Note(LARGE)) == Note(str(len(LARGE)))

    # the request in the server, and the response in the channel, which always decodes in the loop
    assert small == [True, True]
    assert decoder.in_the_loop == [False, True]


async def test_calls_go_on_while_a_message_is_decoded_and_the_next_one_waits(decoder: Decoder, monkeypatch):
    async with in_memory(Script(unary=answer_with_length)) as served:
        monkeypatch.setattr(Note, "FromString", decoder)
        decoder.may_end.clear()
        answers = []

        async def call() -> None:
            answers.append(await served.stub.unary(Note(LARGE)))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(call)
            await eventually(lambda: decoder.now == 1)
            assert await served.stub.unary(Note("small")) == Note("5")
            decoder.may_end.set()

    assert len(answers) == 3
    assert decoder.most <= 2  # one in the thread, one in the loop


async def test_a_large_message_that_cannot_be_decoded():
    async with in_memory(Script()) as served:
        broken = Note(LARGE)
        broken.SerializeToString = lambda: b"\xff" * 64 * KIB  # type: ignore[method-assign]  # not UTF-8
        with pytest.raises(GRPCError) as raised:
            await served.stub.unary(broken)
    assert raised.value.status is Status.INTERNAL


async def test_a_receive_that_is_cancelled_before_its_message_is_decoded_loses_no_message(
    decoder: Decoder, monkeypatch
):
    impatient, left = anyio.CancelScope(), anyio.Event()

    async def method(stream: Stream) -> None:
        with impatient:
            await stream.recv_message()
        left.set()
        await answer_with_length(stream)

    async with in_memory(Script(unary=answer_with_length, client_streaming=method)) as served:
        monkeypatch.setattr(Note, "FromString", decoder)
        decoder.may_end.clear()
        answers = []

        async def first() -> None:
            await served.stub.unary(Note(LARGE))

        async def second() -> None:
            answers.append(await served.stub.client_streaming([Note(LARGE + "y")]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await eventually(lambda: decoder.now == 1)
            tasks.start_soon(second)
            await eventually(lambda: waiting(served.server) == 1)
            impatient.cancel()
            await left.wait()
            decoder.may_end.set()

    assert answers == [Note(str(len(LARGE) + 1))]


async def test_no_garbage_is_collected_while_a_large_message_is_decoded(monkeypatch):
    """Each collection would stop the event loop as well, for as long as it takes to visit all of the message."""
    collects: list[bool] = []

    def decode(data: bytes) -> Note:
        collects.append(gc.isenabled())
        if data.endswith(b"bad"):
            raise ValueError("bad")
        return Note(data.decode())

    monkeypatch.setattr(Note, "FromString", decode)
    async with in_memory(Script(unary=answer_with_length)) as served:
        for text in "x", LARGE:
            collects.clear()
            await served.stub.unary(Note(text))
            assert collects[0] is (text == "x")
        with pytest.raises(GRPCError, match="bad"):
            await served.stub.unary(Note(LARGE + "bad"))
        assert gc.isenabled()


async def test_what_was_decoded_of_a_bad_message_is_free_when_its_call_is_answered(monkeypatch):
    parts: list[weakref.ref[Note]] = []

    def decode(data: bytes) -> Note:
        part = Note("part")
        parts.append(weakref.ref(part))
        try:
            raise IndexError
        except IndexError as error:
            try:
                raise UnicodeError from error
            except UnicodeError as cause:
                raise ValueError("bad") from cause

    monkeypatch.setattr(Note, "FromString", decode)
    async with in_memory(Script(unary=answer_with_length)) as served:
        with without_collections(), pytest.raises(GRPCError, match="bad"):
            await served.stub.unary(Note(LARGE))
        assert [part() for part in parts] == [None]


def waiting(server) -> int:
    """How many messages wait to be decoded."""
    return server._decode_turn.statistics().tasks_waiting
