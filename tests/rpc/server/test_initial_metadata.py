"""Initial metadata that servicers of both kinds set: with the headers, at once, with a status, or too late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, ProtocolError

from connectrio.rpc import Call, current_call, response_metadata
from rpc.kit.script import SERVER_STREAMING, Note, Script, ScriptBase, Stream
from rpc.kit.serving import in_memory

PAIRS = [("x-id", "1"), ("x-id", "2"), ("x-raw-bin", b"\0\1")]


async def test_it_goes_with_the_first_message():
    class Servicer(ScriptBase):
        async def unary(self, note: Note) -> Note:
            current_call().set_initial_metadata(PAIRS[:1])
            current_call().set_initial_metadata(PAIRS[1:])
            return note

    async with in_memory(Servicer()) as served:
        with response_metadata() as seen:
            await served.stub.unary(Note("a"))
    assert list(seen.initial.items()) == PAIRS


async def test_metadata_is_pairs_or_a_mapping():
    wrong = []

    class Servicer(ScriptBase):
        async def unary(self, note: Note) -> Note:
            call = current_call()
            call.set_initial_metadata({"x-id": "1", "x-raw-bin": b"\0"})
            call.set_trailing_metadata({"x-cost": "5"})
            for metadata in (("x-id", "1"), ["x-id"], [("x-id", "1", "2")]):
                for method in (call.set_initial_metadata, call.set_trailing_metadata):
                    with pytest.raises(TypeError, match="metadata is a mapping, or pairs such as") as raised:
                        method(metadata)  # type: ignore[arg-type]
                    wrong.append(raised)
            return note

    async with in_memory(Servicer()) as served:
        with response_metadata() as seen:
            await served.stub.unary(Note("a"))
    assert list(seen.initial.items()) == [("x-id", "1"), ("x-raw-bin", b"\0")]
    assert list(seen.trailing.items()) == [("x-cost", "5")]
    assert len(wrong) == 6


async def test_it_goes_at_once_while_the_servicer_works_on():
    go_on = anyio.Event()

    class Servicer(ScriptBase):
        async def server_streaming(self, note: Note) -> AsyncIterator[Note]:
            current_call().set_initial_metadata(PAIRS)
            await current_call().send_initial_metadata()
            await go_on.wait()
            yield note

    async with in_memory(Servicer()) as served:  # noqa: SIM117 - the call ends first
        async with served.channel.request(SERVER_STREAMING, Cardinality.UNARY_STREAM, Note, Note) as stream:
            await stream.send_message(Note("a"))
            await stream.recv_initial_metadata()
            assert list(stream.initial_metadata.items()) == PAIRS
            go_on.set()
            assert await stream.recv_message() == Note("a")


async def test_it_goes_before_a_status_that_comes_without_a_message():
    class Servicer(ScriptBase):
        async def unary(self, note: Note) -> Note:
            current_call().set_initial_metadata(PAIRS)
            current_call().set_trailing_metadata([("x-last", "1")])
            raise GRPCError(Status.NOT_FOUND, "none")

        async def server_streaming(self, note: Note) -> AsyncIterator[Note]:
            current_call().set_initial_metadata(PAIRS)
            return
            yield

    async with in_memory(Servicer()) as served:
        with response_metadata() as seen, pytest.raises(GRPCError, match="none"):
            await served.stub.unary(Note("a"))
        assert list(seen.initial.items()) == PAIRS
        assert dict(seen.trailing) == {"x-last": "1"}
        with response_metadata() as seen:
            assert [note async for note in served.stub.server_streaming(Note())] == []
        assert list(seen.initial.items()) == PAIRS


async def test_a_servicer_of_grpclib_s_adds_its_own():
    async def method(stream: Stream) -> None:
        note = await stream.recv_message()
        assert note is not None
        current_call().set_initial_metadata([("x-id", "1")])
        await stream.send_initial_metadata(metadata={"x-own": "2"})
        await stream.send_message(note)

    async with in_memory(Script(method)) as served:
        with response_metadata() as seen:
            await served.stub.unary(Note("a"))
    assert list(seen.initial.items()) == [("x-id", "1"), ("x-own", "2")]


@pytest.mark.parametrize("at_once", [False, True])
async def test_after_the_headers_it_is_too_late(at_once):
    class Servicer(ScriptBase):
        async def server_streaming(self, note: Note) -> AsyncIterator[Note]:
            if at_once:
                await current_call().send_initial_metadata()
            else:
                yield note
            with pytest.raises(ProtocolError, match=r"was sent already.*Set it before, or send trailing metadata"):
                current_call().set_initial_metadata(PAIRS)
            with pytest.raises(ProtocolError, match="was sent already"):
                await current_call().send_initial_metadata()
            yield note

    async with in_memory(Servicer()) as served, aclosing(served.stub.server_streaming(Note("a"))) as notes:
        assert len([note async for note in notes]) == (1 if at_once else 2)


async def test_a_call_that_is_over_and_one_of_a_channel_have_no_headers_to_send():
    calls = []

    class Servicer(ScriptBase):
        async def unary(self, note: Note) -> Note:
            calls.append(current_call())
            return note

    async with in_memory(Servicer()) as served:
        await served.stub.unary(Note("a"))
    for call in (*calls, Call("/a.Service/Method", served.channel.request("/a", Cardinality.UNARY_UNARY, Note, Note))):
        with pytest.raises(ProtocolError, match="only a call that a server is answering"):
            call.set_initial_metadata(PAIRS)
        with pytest.raises(ProtocolError, match="only a call that a server is answering"):
            await call.send_initial_metadata()


async def test_metadata_that_cannot_be_sent_is_named():
    class Servicer(ScriptBase):
        async def unary(self, note: Note) -> Note:
            current_call().set_initial_metadata([("X-Upper", "1")])
            return note

    async with in_memory(Servicer()) as served:
        with pytest.raises(GRPCError, match="X-Upper") as caught:
            await served.stub.unary(Note("a"))
    assert caught.value.status is Status.INTERNAL
