"""Callers of stubs see a call's metadata and status, with `response_metadata`."""

from __future__ import annotations

from contextlib import aclosing

import anyio
import pytest
from grpclib.client import StreamStreamMethod, StreamUnaryMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from multidict import MultiDict

from connectrio.rpc import GRPCError, response_metadata
from rpc.kit.frames import HeaderList
from rpc.kit.playing import RESPONSE, playing
from rpc.kit.script import BIDI, CLIENT_STREAMING, SERVER_STREAMING, UNARY, Note, Script, ScriptStub
from rpc.kit.serving import in_memory


async def tell(stream) -> None:
    """Answer with metadata that names the request, unless it is "wrong"."""
    text = "".join([note.text async for note in stream])
    if text == "wrong":
        await stream.send_trailing_metadata(
            status=Status.ABORTED, status_message="no", metadata={"why": "it was wrong", "raw-bin": b"\0"}
        )
        return
    await stream.send_initial_metadata(metadata={"for": text})
    await stream.send_message(Note(text))
    await stream.send_trailing_metadata(metadata={"cost": str(len(text))})


TELLING = Script(tell, tell, tell, tell)


async def unary(stub: ScriptStub, text: str) -> None:
    await stub.unary(Note(text))


async def server_streaming(stub: ScriptStub, text: str) -> None:
    async with aclosing(stub.server_streaming(Note(text))) as notes:
        assert [note.text async for note in notes] == [text]


async def client_streaming(stub: ScriptStub, text: str) -> None:
    await stub.client_streaming([Note(text)])


async def bidi(stub: ScriptStub, text: str) -> None:
    async with aclosing(stub.bidi([Note(text)])) as notes:
        assert [note.text async for note in notes] == [text]


KINDS = pytest.mark.parametrize("call", [unary, server_streaming, client_streaming, bidi])


@KINDS
async def test_a_call_that_is_answered(call):
    async with in_memory(TELLING) as served:
        with response_metadata() as seen:
            assert (seen.initial, seen.trailing, seen.status, seen.message) == (MultiDict(), MultiDict(), None, None)
            await call(served.stub, "abc")
        assert (seen.initial, seen.trailing) == (MultiDict({"for": "abc"}), MultiDict({"cost": "3"}))
        assert (seen.status, seen.message) == (Status.OK, None)


@KINDS
async def test_a_call_that_fails(call):
    async with in_memory(TELLING) as served:
        with response_metadata() as seen, pytest.raises(GRPCError):
            await call(served.stub, "wrong")
        assert seen.initial == MultiDict()
        assert seen.trailing == MultiDict({"why": "it was wrong", "raw-bin": b"\0"})
        assert (seen.status, seen.message) == (Status.ABORTED, "no")


async def test_initial_metadata_is_there_while_the_call_goes_on():
    async with playing() as played:
        stub = ScriptStub(played.channel)
        headers: HeaderList = [*RESPONSE, ("mood", "good")]

        async def serve() -> None:
            peer = await played.accept()
            await peer.whole(1)
            await peer.send(peer.make.headers(1, headers), peer.make.message(1, b"first"))

        played.tasks.start_soon(serve)
        with response_metadata() as seen:
            async with aclosing(stub.server_streaming(Note())) as notes:
                assert (await anext(notes)).text == "first"
                assert (seen.initial["mood"], seen.status) == ("good", None)


async def test_a_status_that_did_not_come_from_the_server():
    async def wait(stream) -> None:
        await anyio.sleep_forever()

    async with in_memory(Script(wait)) as served:
        with response_metadata() as seen, pytest.raises(GRPCError):
            await served.stub.unary(Note(), timeout=0.01)
        assert (seen.status, seen.trailing) == (Status.DEADLINE_EXCEEDED, MultiDict())


async def test_calls_at_once_are_kept_apart():
    async def call(stub: ScriptStub, text: str) -> None:
        with response_metadata() as seen:
            await unary(stub, text)
        found[text] = seen.initial["for"]

    found: dict[str, object] = {}
    async with in_memory(TELLING) as served, anyio.create_task_group() as tasks:
        for text in "abc":
            tasks.start_soon(call, served.stub, text)
    assert found == {"a": "a", "b": "b", "c": "c"}


async def test_the_last_call_counts_also_of_a_task_that_the_block_has_started():
    async with in_memory(TELLING) as served:
        with response_metadata() as outer:
            await unary(served.stub, "first")
            with response_metadata() as inner:
                await unary(served.stub, "inner")
            assert outer.initial["for"] == "first"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(unary, served.stub, "last")
        await unary(served.stub, "outside")
        assert (inner.initial["for"], outer.initial["for"]) == ("inner", "last")


async def test_grpclibs_stubs_show_them_too():
    """Made as grpclib's generated code does."""
    async with in_memory(TELLING) as served:
        for method, path, message in (
            (UnaryUnaryMethod, UNARY, Note("x")),
            (UnaryStreamMethod, SERVER_STREAMING, Note("x")),
            (StreamUnaryMethod, CLIENT_STREAMING, [Note("x")]),
            (StreamStreamMethod, BIDI, [Note("x")]),
        ):
            with response_metadata() as seen:
                await method(served.channel, path, Note, Note)(message)
            assert (seen.initial["for"], seen.trailing["cost"], seen.status) == ("x", "1", Status.OK)
