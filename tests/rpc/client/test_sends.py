"""What becomes of a client's messages that the server will not read: each way, the sender hears of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectrio.rpc import (
    CallEndedError,
    Channel,
    ChannelOptions,
    Interceptor,
    MessageStream,
    Proceed,
    RetryPolicy,
    Server,
    StreamWrapper,
)
from connectrio.rpc._client.call import ClientStream
from connectrio.rpc.call import Call
from connectrio.rpc.testing import memory_channel
from rpc.kit.frames import Data
from rpc.kit.playing import RESPONSE, channel_to, request_on
from rpc.kit.raw import RawServer
from rpc.kit.script import BIDI, CLIENT_STREAMING, Note, Script, ScriptStub
from rpc.kit.serving import eventually, in_memory
from rpc.kit.virtual_time import in_virtual_time

OK = [("grpc-status", "0")]
LARGE = Note("x" * 100_000)


def bidi(channel: Channel, **options) -> ClientStream[Note, Note]:
    return channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note, **options)


async def answered(stream: ClientStream[Note, Note]) -> None:
    await eventually(lambda: stream._attempts.stream.is_complete)


async def refuse(stream) -> None:
    await stream.recv_message()
    raise GRPCError(Status.FAILED_PRECONDITION, "not now")


async def answer_and_refuse(stream) -> None:
    await stream.send_message(await stream.recv_message())
    raise GRPCError(Status.FAILED_PRECONDITION, "not now")


async def answer_once(stream) -> None:
    await stream.send_message(await stream.recv_message())


@pytest.mark.parametrize("policy", [None, RetryPolicy(retryable_status_codes=[Status.UNAVAILABLE])])
@pytest.mark.parametrize("servicer", [refuse, answer_and_refuse])
async def test_after_an_early_error_sending_raises_it(servicer, policy):
    options = ChannelOptions(retry=policy)
    async with in_memory(Script(bidi=servicer), channel_options=options) as served, bidi(served.channel) as stream:
        await stream.send_message(Note("one"))
        await answered(stream)
        for _ in range(2):
            with pytest.raises(GRPCError, match="not now") as caught:
                await stream.send_message(Note("two"))
            assert caught.value.status is Status.FAILED_PRECONDITION
        await stream.end()  # which says nothing to anybody
        if servicer is answer_and_refuse:  # what came before the status is still there
            assert await stream.recv_message() == Note("one")
        with pytest.raises(GRPCError, match="not now"):
            await stream.recv_trailing_metadata()


async def test_an_answer_after_which_the_call_is_made_again_ends_no_sending():
    received = []

    async def refuse_once(stream) -> None:
        received.append([(await stream.recv_message()).text])
        if len(received) == 1:
            raise GRPCError(Status.UNAVAILABLE, "not now")
        async for note in stream:
            received[-1].append(note.text)
        await stream.send_message(Note("done"))

    options = ChannelOptions(retry=RetryPolicy(initial_backoff=0.001, retryable_status_codes=[Status.UNAVAILABLE]))
    async with in_memory(Script(bidi=refuse_once), channel_options=options) as served, bidi(served.channel) as stream:
        await stream.send_message(Note("one"))
        await answered(stream)
        await stream.send_message(Note("two"))
        await stream.end()
        assert await stream.recv_message() == Note("done")
    assert received == [["one"], ["one", "two"]]


async def test_the_status_reaches_a_caller_who_only_sends():
    async with in_memory(Script(bidi=refuse)) as served:
        with pytest.raises(GRPCError, match="not now"):  # noqa: PT012 - any of these sends may raise it
            async with bidi(served.channel) as stream:
                while True:
                    await stream.send_message(Note("tick"))
                    await anyio.lowlevel.checkpoint()


async def test_after_an_early_ok_sending_says_that_the_call_has_ended():
    async with in_memory(Script(client_streaming=answer_once)) as served:
        request = served.channel.request(CLIENT_STREAMING, Cardinality.STREAM_UNARY, Note, Note)
        async with request as stream:
            await stream.send_message(Note("one"))
            await answered(stream)
            with pytest.raises(CallEndedError, match="ended the call with OK before it read all messages"):
                await stream.send_message(Note("two"))
            assert await stream.recv_message() == Note("one")
            await stream.recv_trailing_metadata()
            with pytest.raises(CallEndedError):
                await stream.send_message(Note("three"))


@pytest.mark.parametrize(("trailers", "error"), [(OK, CallEndedError), ([("grpc-status", "9")], GRPCError)])
async def test_a_message_that_waits_for_the_window_is_not_dropped_in_silence(trailers, error):
    async with RawServer() as raw, channel_to(raw) as channel, anyio.create_task_group() as tasks:

        async def answer() -> None:
            peer = await raw.accept({SettingCodes.INITIAL_WINDOW_SIZE: 10})
            await peer.until(lambda frame: isinstance(frame, Data))
            await peer.send(peer.make.headers(1, RESPONSE), peer.make.headers(1, trailers, end_stream=True))

        tasks.start_soon(answer)
        with pytest.raises(error):
            async with bidi(channel) as stream:
                await stream.send_message(LARGE)


async def test_a_proxy_s_answer_is_not_taken_for_a_status():
    async with RawServer() as raw, channel_to(raw) as channel, anyio.create_task_group() as tasks:

        async def answer() -> None:
            peer = await raw.accept()
            await peer.until(request_on(1))
            await peer.send(peer.make.headers(1, [(":status", "503")], end_stream=True))

        tasks.start_soon(answer)
        async with bidi(channel) as stream:
            await stream.send_request()
            await answered(stream)
            with pytest.raises(GRPCError, match="HTTP status 503") as caught:
                await stream.send_message(Note())
            assert caught.value.status is Status.UNAVAILABLE
            await stream.cancel()


async def test_a_unary_request_that_is_answered_early_has_its_answer():
    """Nothing is lost: the server knew all that it wanted to know."""
    async with RawServer() as raw, channel_to(raw) as channel, anyio.create_task_group() as tasks:

        async def answer() -> None:
            peer = await raw.accept({SettingCodes.INITIAL_WINDOW_SIZE: 10})
            await peer.until(lambda frame: isinstance(frame, Data))
            end = peer.make.headers(1, OK, end_stream=True)
            await peer.send(peer.make.headers(1, RESPONSE), peer.make.message(1, b"y"), end)

        tasks.start_soon(answer)
        assert await ScriptStub(channel).unary(LARGE) == Note("y")


@pytest.mark.parametrize("end", ["reset", "lost"])
async def test_after_a_reset_and_without_a_connection_sending_raises(end: str):
    async with RawServer() as raw, channel_to(raw) as channel, anyio.create_task_group() as tasks:

        async def answer() -> None:
            peer = await raw.accept()
            await peer.until(lambda frame: isinstance(frame, Data))
            await peer.send(peer.make.headers(1, RESPONSE))
            if end == "lost":
                await peer.transport.aclose()
            else:
                await peer.send(peer.make.reset(1, ErrorCodes.INTERNAL_ERROR))

        tasks.start_soon(answer)
        async with bidi(channel) as stream:
            await stream.send_message(Note("one"))
            await eventually(lambda: stream._attempts.stream.termination is not None)
            with pytest.raises(GRPCError) as caught:
                await stream.send_message(Note("two"))
            assert caught.value.status is (Status.UNAVAILABLE if end == "lost" else Status.INTERNAL)
            with pytest.raises(GRPCError):
                await stream.recv_message()


@in_virtual_time
async def test_past_the_deadline_sending_raises():
    async with in_memory(Script(bidi=_hang)) as served:
        with pytest.raises(GRPCError, match="the deadline passed"):  # noqa: PT012 - the last send
            async with bidi(served.channel, timeout=1) as stream:
                await stream.send_message(Note("one"))
                await anyio.sleep(2)
                await stream.send_message(Note("two"))


async def _hang(stream) -> None:
    await anyio.sleep_forever()


async def test_a_call_that_this_side_has_cancelled_sends_nothing():
    async with in_memory(Script(bidi=_hang)) as served, bidi(served.channel) as stream:
        await stream.send_message(Note("one"))
        await stream.cancel()
        with pytest.raises(GRPCError, match="the client cancelled the call"):
            await stream.send_message(Note("two"))


def slow() -> Interceptor:
    """Lets the server end the call while a message is on its way."""

    class Slow(StreamWrapper):
        async def send_message(self, message: Note, **options) -> None:
            if message.text == "two":
                await eventually(lambda: self.inner.is_answered)
            await super().send_message(message, **options)

    @asynccontextmanager
    async def interceptor(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        async with proceed() as stream:
            yield Slow(stream)

    return interceptor


@pytest.mark.parametrize("source", ["iterable", "generator"])
async def test_a_stub_s_caller_gets_what_the_server_says_not_what_the_sender_hears(source: str):
    def notes():
        names = [Note("one"), Note("two")]

        async def generator():
            for note in names:
                yield note

        return names if source == "iterable" else generator()

    for servicer in answer_once, answer_and_refuse:
        server = Server([Script(client_streaming=servicer, bidi=servicer)])
        async with memory_channel(server, interceptors=[slow()]) as channel:
            stub, received = ScriptStub(channel), []
            if servicer is answer_once:
                assert await stub.client_streaming(notes()) == Note("one")
                assert [note async for note in stub.bidi(notes())] == [Note("one")]
            else:
                with pytest.raises(GRPCError, match="not now"):
                    await stub.client_streaming(notes())
                with pytest.raises(GRPCError, match="not now"):  # noqa: PT012 - the loop does
                    async for note in stub.bidi(notes()):
                        received.append(note)  # noqa: PERF401 - what came before the error counts
                assert received == [Note("one")]
