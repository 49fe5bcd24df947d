"""A call from the client's side: what a server may answer, and how the stream may not be used."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest
from grpclib.const import Cardinality, Status
from grpclib.events import RecvInitialMetadata, RecvMessage, RecvTrailingMetadata, SendMessage, SendRequest, listen
from grpclib.exceptions import GRPCError, ProtocolError
from h2.errors import ErrorCodes

from connectrio.rpc import Channel
from connectrio.rpc._client.call import ClientStream
from connectrio.rpc._grpc import frame_message
from rpc.kit.frames import Data, Reset
from rpc.kit.playing import RESPONSE, channel_to, request_on
from rpc.kit.raw import RawPeer, RawServer
from rpc.kit.script import BIDI, CLIENT_STREAMING, SERVER_STREAMING, UNARY, Note, Script, ScriptStub
from rpc.kit.serving import eventually, in_memory
from rpc.kit.virtual_time import in_virtual_time

OK = [("grpc-status", "0")]
PATHS = {
    Cardinality.UNARY_UNARY: UNARY,
    Cardinality.UNARY_STREAM: SERVER_STREAMING,
    Cardinality.STREAM_UNARY: CLIENT_STREAMING,
    Cardinality.STREAM_STREAM: BIDI,
}


def request(
    channel: Channel, cardinality: Cardinality = Cardinality.UNARY_UNARY, **options
) -> ClientStream[Note, Note]:
    return channel.request(PATHS[cardinality], cardinality, Note, Note, **options)


class Answer:
    """What a server that the test plays answers to every request, once it is there.

    :param parts: functions of what makes frames, and a stream's id
    """

    def __init__(self, *parts) -> None:
        self.parts = parts
        self.peer: RawPeer | None = None

    async def give(self, raw: RawServer) -> None:
        self.peer = peer = await raw.accept()
        for stream_id in range(1, 100, 2):
            await peer.until(request_on(stream_id))
            await peer.send(*(part(peer.make, stream_id) for part in self.parts))


def headers(*pairs: tuple[str, str], end: bool = False):
    return lambda make, stream_id: make.headers(stream_id, list(pairs), end_stream=end)


def data(payload: bytes, *, end: bool = False):
    return lambda make, stream_id: make.data(stream_id, payload, end_stream=end)


def message(payload: bytes):
    return lambda make, stream_id: make.message(stream_id, payload)


def reset(code: int):
    return lambda make, stream_id: make.reset(stream_id, code)


START, END = headers(*RESPONSE), headers(*OK, end=True)


@asynccontextmanager
async def answering(*parts):
    """A channel to a server that always answers so."""
    raw = RawServer()
    answer = Answer(*parts)
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:
        tasks.start_soon(answer.give, raw)
        yield channel, answer
        tasks.cancel_scope.cancel()


async def call(channel: Channel, stub_method: str) -> None:
    """Make a call, and wait for its end."""
    stub = ScriptStub(channel)
    if stub_method == "unary":
        await stub.unary(Note())
    elif stub_method == "client_streaming":
        await stub.client_streaming([Note()])
    else:
        request = Note() if stub_method == "server_streaming" else [Note()]
        [note async for note in getattr(stub, stub_method)(request)]


async def failure_of(*parts, stub_method: str = "unary") -> GRPCError:
    """Return how a call ends that is answered so."""
    async with answering(*parts) as (channel, _):
        with pytest.raises(GRPCError) as raised:
            await call(channel, stub_method)
    return raised.value


each_stub_method = pytest.mark.parametrize("stub_method", ["unary", "server_streaming", "client_streaming", "bidi"])


# statuses


@each_stub_method
@pytest.mark.parametrize("form", ["trailers only", "trailers", "trailers and reset", "after a message"])
async def test_an_error_status_in_every_form(stub_method: str, form: str):
    error = [("grpc-status", "9"), ("grpc-message", "not%20now")]
    parts = {
        "trailers only": [headers(*RESPONSE, *error, end=True)],
        "trailers": [START, headers(*error, end=True)],
        "trailers and reset": [START, headers(*error, end=True), reset(ErrorCodes.NO_ERROR)],
        "after a message": [START, message(b"a"), headers(*error, end=True)],
    }[form]
    failure = await failure_of(*parts, stub_method=stub_method)
    assert (failure.status, failure.message) == (Status.FAILED_PRECONDITION, "not now")


@each_stub_method
async def test_no_status_at_all(stub_method: str):
    failure = await failure_of(START, message(b"a"), headers(("x", "y"), end=True), stub_method=stub_method)
    assert failure.status is Status.UNKNOWN


async def test_an_end_without_trailers():
    failure = await failure_of(START, message(b"a"), data(b"", end=True))
    assert failure.status is Status.UNKNOWN


@in_virtual_time  # a call that is refused is made again, after pauses
@pytest.mark.parametrize(
    ("code", "status"),
    [(7, Status.UNAVAILABLE), (8, Status.CANCELLED), (2, Status.INTERNAL), (11, Status.RESOURCE_EXHAUSTED)],
)
@pytest.mark.parametrize("when", ["before headers", "after headers", "after a message"])
async def test_a_reset(code: int, status: Status, when: str):
    before = {"before headers": [], "after headers": [START], "after a message": [START, message(b"a")]}[when]
    failure = await failure_of(*before, reset(code), stub_method="server_streaming")
    assert failure.status is status


@pytest.mark.parametrize(
    ("code", "status"), [("404", Status.UNIMPLEMENTED), ("503", Status.UNAVAILABLE), ("200", Status.UNKNOWN)]
)
async def test_an_answer_that_is_not_grpc(code: str, status: Status):
    """A proxy may send such answers."""
    failure = await failure_of(headers((":status", code), ("content-type", "text/html")), data(b"<html>", end=True))
    assert failure.status is status


async def test_an_informational_response_first():
    async with answering(headers((":status", "103"), ("link", "x")), START, message(b"a"), END) as (channel, _):
        assert await ScriptStub(channel).unary(Note()) == Note("a")


# the number of messages


@pytest.mark.parametrize("stub_method", ["unary", "client_streaming"])
async def test_a_unary_response_without_a_message(stub_method: str):
    for parts in [START, END], [headers(*RESPONSE, *OK, end=True)]:
        failure = await failure_of(*parts, stub_method=stub_method)
        assert failure.status is Status.UNIMPLEMENTED
        assert "none" in str(failure.message)


@pytest.mark.parametrize("stub_method", ["unary", "client_streaming"])
async def test_a_unary_response_with_two_messages(stub_method: str):
    failure = await failure_of(START, message(b"a"), message(b"b"), END, stub_method=stub_method)
    assert failure.status is Status.UNIMPLEMENTED
    assert "2" in str(failure.message)


async def test_a_unary_response_that_nobody_reads_is_a_response():
    async with answering(START, message(b"a"), END) as (channel, _):
        async with request(channel) as stream:
            await stream.send_message(Note(), end=True)
        assert stream.trailing_metadata is not None


# messages


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b"\2\0\0\0\0", Status.INTERNAL),
        (b"\1\0\0\0\0", Status.INTERNAL),
        (b"\0\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED),
        (frame_message(b"\xff"), Status.INTERNAL),
        (b"\0\0\0\0\5abc", Status.INTERNAL),
    ],
    ids=["flag 2", "compressed with nothing", "too large", "undecodable", "cut"],
)
async def test_messages_that_are_wrong(payload: bytes, status: Status):
    failure = await failure_of(START, data(payload), END, stub_method="server_streaming")
    assert failure.status is status


async def test_an_error_beside_a_message_that_was_cut_is_the_error():
    """A server that is shut down in the middle of a message says UNAVAILABLE, and that can be tried again."""
    error = headers(("grpc-status", "14"), ("grpc-message", "shutting down"), end=True)
    failure = await failure_of(START, data(b"\0\0\0\0\5abc"), error, stub_method="server_streaming")
    assert (failure.status, failure.message) == (Status.UNAVAILABLE, "shutting down")


async def test_a_message_that_is_wrong_resets_the_stream_and_not_the_connection():
    async with answering(START, data(b"\2\0\0\0\0")) as (channel, answer):
        for _ in range(2):
            with pytest.raises(GRPCError):
                await ScriptStub(channel).unary(Note())
        assert answer.peer is not None
        assert Reset(1, ErrorCodes.CANCEL) in answer.peer.seen


async def test_messages_in_pieces():
    framed = frame_message(b"in pieces")
    pieces = [data(framed[index : index + 1]) for index in range(len(framed))]
    async with answering(START, *pieces, END) as (channel, _):
        assert await ScriptStub(channel).unary(Note()) == Note("in pieces")


async def test_padding():
    def padded(make, stream_id):
        return make.data(stream_id, frame_message(b"a"), padding=200) + make.data(stream_id, padding=7)

    async with answering(START, padded, END) as (channel, _):
        assert await ScriptStub(channel).unary(Note()) == Note("a")


# metadata of the response


@pytest.mark.parametrize("where", ["initial", "trailing"])
async def test_malformed_binary_metadata_is_internal(where: str):
    bad = ("x-bin", "!")
    parts = {
        "initial": [headers(*RESPONSE, bad), message(b"a"), END],
        "trailing": [START, message(b"a"), headers(*OK, bad, end=True)],
    }[where]
    failure = await failure_of(*parts)
    assert failure.status is Status.INTERNAL
    assert "x-bin" in str(failure.message)


async def test_initial_metadata_before_any_message():
    async with (
        answering(headers(*RESPONSE, ("x", "1"), ("x", "2"))) as (channel, _),
        request(channel, Cardinality.STREAM_STREAM) as stream,
    ):
        await stream.send_request()
        assert stream.initial_metadata is None
        await stream.recv_initial_metadata()
        assert stream.initial_metadata is not None
        assert stream.initial_metadata.getall("x") == ["1", "2"]
        await stream.cancel()


async def test_a_trailers_only_responses_metadata_is_trailing():
    async with answering(headers(*RESPONSE, *OK, ("x", "1"), end=True)) as (channel, _):
        async with request(channel, Cardinality.STREAM_STREAM) as stream:
            await stream.send_request(end=True)
            assert await stream.recv_message() is None
        assert dict(stream.initial_metadata or {}) == {}
        assert dict(stream.trailing_metadata or {}) == {"x": "1"}


# leaving


async def test_leaving_after_the_status_resets_nothing():
    async with answering(START, message(b"a"), END) as (channel, answer):
        await ScriptStub(channel).unary(Note())
        await ScriptStub(channel).unary(Note())
        assert answer.peer is not None
        assert not [frame for frame in answer.peer.seen if isinstance(frame, Reset)]


async def test_leaving_with_an_exception_resets():
    async def leave(channel: Channel) -> None:
        async with request(channel) as stream:
            await stream.send_message(Note(), end=True)
            raise ZeroDivisionError

    async with answering(START) as (channel, answer), anyio.create_task_group() as tasks:
        with pytest.raises(ZeroDivisionError):
            await leave(channel)
        assert answer.peer is not None
        seen = answer.peer.seen
        tasks.start_soon(ScriptStub(channel).unary, Note())  # whoever waits for it finds the reset before it
        await eventually(lambda: request_on(3)(seen[-1]) or Reset(1, ErrorCodes.CANCEL) in seen)
        assert Reset(1, ErrorCodes.CANCEL) in seen
        tasks.cancel_scope.cancel()


async def test_leaving_without_a_request_is_nothing():
    async with answering() as (channel, answer):
        async with request(channel):
            pass
        assert answer.peer is None


async def test_leaving_waits_for_the_status():
    async with answering(START, message(b"a"), headers(("grpc-status", "10"), end=True)) as (channel, _):
        with pytest.raises(GRPCError) as raised:
            async with request(channel) as stream:
                await stream.send_message(Note(), end=True)
        assert raised.value.status is Status.ABORTED


async def test_a_connection_lost_before_the_status_is_noticed_on_leaving():
    async with answering(START, message(b"a"), lambda make, _: make.raw(0, 0, 0, b"not HTTP/2")) as (channel, _):
        with pytest.raises(GRPCError) as raised:
            async with request(channel) as stream:
                await stream.send_message(Note(), end=True)
        assert raised.value.status is Status.UNAVAILABLE


async def test_an_error_that_was_raised_is_not_raised_again_on_leaving():
    async with (
        answering(headers(*RESPONSE, ("grpc-status", "10"), end=True)) as (channel, _),
        request(channel) as stream,
    ):
        await stream.send_message(Note(), end=True)
        for receive in stream.recv_message, stream.recv_message, stream.recv_trailing_metadata:
            with pytest.raises(GRPCError):
                await receive()


async def test_a_call_that_was_cancelled_is_left_in_silence():
    async with answering(START) as (channel, _), request(channel, Cardinality.STREAM_STREAM) as stream:
        await stream.send_request()
        await stream.cancel()


async def test_unread_messages_do_not_keep_the_status_away():
    many = [message(b"x" * 10_000)] * 5
    async with answering(START, *many, END) as (channel, _), request(channel, Cardinality.UNARY_STREAM) as stream:
        await stream.send_message(Note(), end=True)
        await stream.recv_message()


# misuse


@pytest.mark.parametrize("cardinality", list(Cardinality))
async def test_receiving_before_the_request(cardinality: Cardinality):
    async with in_memory(Script()) as served:
        stream = request(served.channel, cardinality)
        for wrong in (
            stream.recv_message,
            stream.recv_initial_metadata,
            stream.recv_trailing_metadata,
            stream.end,
            stream.cancel,
        ):
            with pytest.raises(ProtocolError, match="not sent yet"):
                await wrong()


async def test_requesting_twice():
    async with in_memory(Script()) as served, request(served.channel, Cardinality.STREAM_STREAM) as stream:
        await stream.send_request()
        with pytest.raises(ProtocolError, match="already"):
            await stream.send_request()
        await stream.end()


async def test_a_unary_request_is_one_message():
    async with in_memory(Script()) as served, request(served.channel) as stream:
        with pytest.raises(ProtocolError, match="one message"):
            await stream.send_request(end=True)
        await stream.send_request()
        with pytest.raises(ProtocolError, match="one message"):
            await stream.end()
        await stream.send_message(Note("a"))
        with pytest.raises(ProtocolError, match="already"):
            await stream.send_message(Note("b"))
        await stream.end()  # it is ended
        assert await stream.recv_message() == Note("a")


async def test_sending_after_the_end():
    async with in_memory(Script()) as served, request(served.channel, Cardinality.STREAM_STREAM) as stream:
        await stream.send_message(Note("a"))
        await stream.end()
        await stream.end()
        with pytest.raises(ProtocolError, match="ended already"):
            await stream.send_message(Note("b"))
        assert [note.text async for note in stream] == ["a"]


async def test_receiving_initial_metadata_twice():
    async with in_memory(Script()) as served, request(served.channel) as stream:
        await stream.send_message(Note("a"))
        await stream.recv_initial_metadata()
        with pytest.raises(ProtocolError, match="already"):
            await stream.recv_initial_metadata()
        assert await stream.recv_message() == Note("a")


async def test_receiving_after_the_end_is_none():
    async with in_memory(Script()) as served, request(served.channel, Cardinality.STREAM_STREAM) as stream:
        await stream.send_request(end=True)
        for _ in range(3):
            assert await stream.recv_message() is None
        await stream.recv_trailing_metadata()
        await stream.recv_trailing_metadata()


async def test_a_message_of_another_type():
    async with in_memory(Script()) as served:
        with pytest.raises(Exception, match="str"):
            await served.stub.unary("text")  # type: ignore[arg-type]
        assert await served.stub.unary(Note("a")) == Note("a")


# listeners


async def test_listeners_see_what_passes():
    seen = []

    async def see(event) -> None:
        seen.append(type(event).__name__)
        if isinstance(event, SendRequest):
            event.metadata["x-added"] = "by the listener"

    async def method(stream):
        await stream.recv_message()
        await stream.send_message(Note(stream.metadata["x-added"]))

    async with in_memory(Script(method)) as served:
        for event in SendRequest, SendMessage, RecvInitialMetadata, RecvMessage, RecvTrailingMetadata:
            listen(served.channel, event, see)
        assert await served.stub.unary(Note()) == Note("by the listener")
    assert seen == ["SendRequest", "SendMessage", "RecvInitialMetadata", "RecvMessage", "RecvTrailingMetadata"]


@pytest.mark.parametrize("event", [SendRequest, SendMessage, RecvInitialMetadata, RecvMessage, RecvTrailingMetadata])
async def test_a_listener_that_raises_is_the_callers_error(event):
    failing = True

    async def fail(_) -> None:
        if failing:
            raise LookupError("from the listener")

    async with in_memory(Script()) as served:
        listen(served.channel, event, fail)
        with pytest.raises(LookupError):
            await served.stub.unary(Note())
        failing = False
        assert await served.stub.unary(Note("on")) == Note("on")


async def test_half_closing_is_an_empty_frame():
    raw = RawServer()
    async with channel_to(raw) as channel, anyio.create_task_group() as tasks:

        async def call() -> None:
            async with request(channel, Cardinality.STREAM_STREAM) as stream:
                await stream.send_request()
                await stream.end()

        tasks.start_soon(call)
        peer = await raw.accept()
        await peer.whole(1)
        assert peer.of(1)[1:] == [Data(1, b"", end_stream=True)]
        await peer.send(peer.make.headers(1, RESPONSE + OK, end_stream=True))
