"""Whatever a servicer does ends its own call, with a status, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from functools import partial

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint
from grpclib.const import Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.events import RecvMessage, RecvRequest, SendInitialMetadata, SendMessage, SendTrailingMetadata, listen
from grpclib.exceptions import GRPCError, ProtocolError
from h2.errors import ErrorCodes

from connectrio.diagnostics import dropped_lines
from connectrio.rpc import Server, current_call
from connectrio.rpc.status import MAX_STATUS_MESSAGE_SIZE
from connectrio.rpc.testing import memory_channel
from rpc.kit.frames import Data, Headers, Reset
from rpc.kit.raw import raw_client
from rpc.kit.script import BIDI, CLIENT_STREAMING, SERVER_STREAMING, UNARY, Note, Script, ScriptStub
from rpc.kit.serving import PATIENCE, cancelled_at_rest, eventually, in_memory, leaving_nothing, turns


async def failure(served, **options) -> GRPCError:
    """How a unary call ends; others are still answered afterwards."""
    with pytest.raises(GRPCError) as raised:
        await served.stub.unary(Note("a"), **options)
    await eventually(lambda: served.server.active_calls == 0)
    assert await served.stub.client_streaming([Note("still"), Note("here")]) == Note("stillhere")
    return raised.value


def raising(error: BaseException):
    async def method(stream):
        await stream.recv_message()
        raise error

    return method


# exceptions


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a secret"),
        AssertionError(),
        TimeoutError(),
        OSError(5, "disk"),
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        GeneratorExit(),
        StopIteration(),
        ExceptionGroup("several", [ValueError("a secret"), OSError()]),
        BaseExceptionGroup("several", [ValueError("a secret"), KeyboardInterrupt(), asyncio.CancelledError()]),
        anyio.ClosedResourceError(),
        anyio.EndOfStream(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_exception_is_unknown_and_says_nothing_of_what_is_inside(error: BaseException):
    async with in_memory(Script(raising(error))) as served:
        outcome = await failure(served)
    assert outcome.status is Status.UNKNOWN
    assert "secret" not in str(outcome.message)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
async def test_a_grpc_error_is_its_status(status: Status):
    async with in_memory(Script(raising(GRPCError(status, "why")))) as served:
        outcome = await failure(served)
    assert (outcome.status, outcome.message) == (status, "why")


async def test_a_grpc_error_in_a_task_of_the_servicer_is_its_status():
    """The task group around it, and one around that, put it into groups."""

    async def serve(_):
        async with anyio.create_task_group(), anyio.create_task_group() as tasks:
            tasks.start_soon(raising(GRPCError(Status.NOT_FOUND, "why")), _)
            await anyio.sleep_forever()

    async with in_memory(Script(serve)) as served:
        outcome = await failure(served)
    assert (outcome.status, outcome.message) == (Status.NOT_FOUND, "why")


async def test_of_several_grpc_errors_none_is_the_status():
    errors = [GRPCError(Status.NOT_FOUND, "one"), GRPCError(Status.ABORTED, "another")]
    async with in_memory(Script(raising(ExceptionGroup("several", errors)))) as served:
        outcome = await failure(served)
    assert (outcome.status, outcome.message) == (Status.UNKNOWN, "the servicer raised ExceptionGroup")


async def test_a_grpc_error_without_a_message():
    async with in_memory(Script(raising(GRPCError(Status.ABORTED)))) as served:
        outcome = await failure(served)
    assert (outcome.status, outcome.message) == (Status.ABORTED, None)


@pytest.mark.parametrize(
    "error",
    [
        GRPCError(5, "a number"),  # type: ignore[arg-type]
        GRPCError("NOT_FOUND", "a name"),  # type: ignore[arg-type]
        GRPCError(None),  # type: ignore[arg-type]
    ],
    ids=lambda error: repr(error.status),
)
async def test_a_grpc_error_with_a_status_that_is_none_is_the_servicers_fault(error: GRPCError):
    async with in_memory(Script(raising(error))) as served:
        assert (await failure(served)).status is Status.UNKNOWN


@pytest.mark.parametrize("message", [ValueError("inside"), 5, b"bytes"], ids=lambda message: type(message).__name__)
async def test_a_message_that_is_no_text_is_made_one(message: object):
    async with in_memory(Script(raising(GRPCError(Status.NOT_FOUND, message)))) as served:  # type: ignore[arg-type]
        outcome = await failure(served)
    assert (outcome.status, outcome.message) == (Status.NOT_FOUND, str(message))


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        ("ünïcödé \N{SNAKE}", "ünïcödé \N{SNAKE}"),
        ("100 %, %41, %zz", "100 %, %41, %zz"),
        ("line\r\nline\ttab\0nul\x7f", "line\r\nline\ttab\0nul\x7f"),
        ("half a \ud800 pair", "half a \\ud800 pair"),
        ("failed: ", "failed:"),
        (" ", None),
        ("", None),
    ],
)
async def test_status_messages_of_all_kinds(message: str, seen: str | None):
    async with in_memory(Script(raising(GRPCError(Status.INTERNAL, message)))) as served:
        assert ((await failure(served)).message or None) == seen


@pytest.mark.parametrize("text", ["x", "ü", "\N{SNAKE}", "\0"])
async def test_huge_status_messages_are_cut(text: str):
    async with leaving_nothing():
        server = Server([Script(raising(GRPCError(Status.INTERNAL, text * 100_000)))])
        async with raw_client(server) as client:
            await client.send(client.make.request(1), client.make.message(1, b"", end_stream=True))
            assert len((await client.trailers(1))["grpc-message"]) <= MAX_STATUS_MESSAGE_SIZE
        async with memory_channel(server) as channel:
            with pytest.raises(GRPCError, match=r"\[truncated: 100000 characters in all\]"):
                await ScriptStub(channel).unary(Note())


async def test_an_exception_after_messages_is_the_status():
    async def method(stream):
        await stream.send_message(Note("one"))
        raise GRPCError(Status.DATA_LOSS, "lost")

    async with in_memory(Script(server_streaming=method)) as served:
        answers = served.stub.server_streaming(Note())
        assert await anext(answers) == Note("one")
        with pytest.raises(GRPCError, match="lost"):
            await anext(answers)


async def test_an_exception_after_the_unary_message_is_the_status():
    async def method(stream):
        await stream.send_message(Note("one"))
        raise GRPCError(Status.DATA_LOSS, "lost")

    async with in_memory(Script(method)) as served:
        assert (await failure(served)).status is Status.DATA_LOSS


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
async def test_a_cancelled_task_of_asyncios_own(anyio_backend):
    """Only asyncio lets anybody cancel a task from outside all scopes; what trio has for it is the next test."""

    async def method(stream):
        task = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    async def suicidal(stream):
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep_forever()

    for servicer in Script(method), Script(suicidal):
        async with in_memory(servicer) as served:
            assert (await failure(served)).status is Status.UNKNOWN


@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])
async def test_a_cancelled_nursery_of_trios_own(anyio_backend):
    """It keeps its cancellation to itself: what is left is a method that returns without a response."""

    async def method(stream):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.cancel_scope.cancel()
            await stream.recv_message()

    async with in_memory(Script(method)) as served:
        assert (await failure(served)).status is Status.UNKNOWN


# endings


@pytest.mark.parametrize("path", ["unary", "client_streaming"])
async def test_returning_without_a_response(path: str):
    async def method(stream):
        await stream.recv_message()

    async with in_memory(Script(method, client_streaming=method)) as served:
        with pytest.raises(GRPCError, match="without") as raised:
            await (served.stub.unary(Note()) if path == "unary" else served.stub.client_streaming([]))
        assert raised.value.status is Status.UNKNOWN


async def test_a_streaming_method_may_return_without_a_message():
    async def method(stream):
        pass

    async with in_memory(Script(server_streaming=method, bidi=method)) as served:
        assert [note async for note in served.stub.server_streaming(Note())] == []
        assert [note async for note in served.stub.bidi([Note()])] == []


async def test_a_servicer_may_end_the_call_itself():
    async def method(stream):
        await stream.recv_message()
        await stream.send_initial_metadata(metadata={"initial": "1"})
        await stream.send_trailing_metadata(
            status=Status.FAILED_PRECONDITION, status_message="by hand", metadata={"trailing": "2"}
        )

    async with in_memory(Script(method)) as served:
        outcome = await failure(served)
    assert (outcome.status, outcome.message) == (Status.FAILED_PRECONDITION, "by hand")


async def test_what_a_servicer_does_after_it_ended_the_call_is_its_own_affair():
    """Ending the call early, while the client may still send, does not cancel what comes after."""
    finished = anyio.Event()

    async def method(stream):
        await stream.send_message(Note("early"))
        await stream.send_trailing_metadata()
        await checkpoint()
        finished.set()

    async with in_memory(Script(client_streaming=method)) as served:
        async with served.channel.request(
            CLIENT_STREAMING, Script().__mapping__()[CLIENT_STREAMING].cardinality, Note, Note
        ) as stream:
            await stream.send_request()
            assert await stream.recv_message() == Note("early")
        await finished.wait()


async def test_what_a_servicer_does_after_it_cancelled_the_call_is_its_own_affair():
    finished = anyio.Event()

    async def method(stream):
        await stream.cancel()
        await checkpoint()
        finished.set()

    async with in_memory(Script(method)) as served:
        assert (await failure(served)).status is Status.CANCELLED
        await finished.wait()


async def test_trailing_metadata_twice_is_an_error_of_the_servicer():
    errors = []

    async def method(stream):
        await stream.send_message(await stream.recv_message())
        await stream.send_trailing_metadata()
        try:
            await stream.send_trailing_metadata()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)

    async with in_memory(Script(method)) as served:
        assert await served.stub.unary(Note("a")) == Note("a")
    assert "already sent" in str(errors)


async def misuse(*steps: str, path: str = UNARY) -> tuple[list, list]:
    """What a servicer gets for using the stream wrong after `steps`, and what the client sees."""
    errors = []

    async def method(stream):
        await stream.recv_message()
        for step in steps:
            try:
                await {
                    "message": lambda: stream.send_message(Note("m")),
                    "initial": stream.send_initial_metadata,
                    "trailing": stream.send_trailing_metadata,
                    "failed": lambda: stream.send_trailing_metadata(status=Status.ABORTED),
                    "cancel": stream.cancel,
                }[step]()
            except Exception as error:  # noqa: BLE001 - the test looks at it
                errors.append(type(error).__name__)
            else:
                errors.append(None)

    async with leaving_nothing():
        server = Server([Script(method, server_streaming=method, bidi=method)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, path), client.make.message(1, b"", end_stream=True))
            frames = await client.whole(1)
            # nothing that is wrong in one call ends the connection
            await client.send(client.make.request(3, CLIENT_STREAMING), client.make.message(3, b"", end_stream=True))
            assert (await client.trailers(3))["grpc-status"] == "0"
    return errors, frames


@pytest.mark.parametrize(
    ("steps", "errors"),
    [
        (["message", "message"], [None, "ProtocolError"]),
        (["initial", "initial", "message"], [None, "ProtocolError", None]),
        (["message", "initial"], [None, "ProtocolError"]),
        (["trailing", "message"], ["ProtocolError", None]),  # OK without a message
        (["message", "trailing", "trailing"], [None, None, "ProtocolError"]),
        (["failed", "message"], [None, "ProtocolError"]),
        (["failed", "initial"], [None, "ProtocolError"]),
        (["message", "trailing", "message"], [None, None, "ProtocolError"]),
        (["cancel", "cancel"], [None, "ProtocolError"]),
        (["cancel", "message"], [None, "StreamTerminatedError"]),
        (["cancel", "trailing"], [None, "ProtocolError"]),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
async def test_misuse_of_a_unary_stream_is_an_error(steps: list[str], errors: list[str | None]):
    seen, _ = await misuse(*steps)
    assert seen == errors


async def test_messages_after_the_trailers_are_an_error_also_when_the_window_is_shut():
    errors = []

    async def method(stream):
        await stream.recv_message()
        async with cancelled_at_rest():
            await stream.send_message(Note("x" * 10))
        try:
            await stream.send_trailing_metadata()
            await stream.send_message(Note("late"))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            errors.append(type(error).__name__)

    async with leaving_nothing():
        server = Server([Script(server_streaming=method)])
        async with raw_client(server, {}) as client:
            await client.send(client.make.settings({4: 3}))
            await client.send(client.make.request(1, SERVER_STREAMING), client.make.message(1, b"", end_stream=True))
            await client.whole(1)
            await eventually(lambda: server.active_calls == 0)
    assert errors == ["ProtocolError"]


@pytest.mark.parametrize("path", [UNARY, SERVER_STREAMING])
async def test_a_response_that_cannot_be_encoded(path: str):
    async def method(stream):
        await stream.recv_message()
        await stream.send_message("not a note")

    async with leaving_nothing():
        server = Server([Script(method, method)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, path), client.make.message(1, b"", end_stream=True))
            assert (await client.trailers(1))["grpc-status"] == str(Status.UNKNOWN.value)


async def test_a_response_with_a_field_that_cannot_be_encoded():
    async def method(stream):
        await stream.recv_message()
        await stream.send_message(Note("half a \ud800 pair"))

    async with leaving_nothing():
        server = Server([Script(method)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, UNARY), client.make.message(1, b"", end_stream=True))
            trailers = await client.trailers(1)
    assert trailers["grpc-status"] == str(Status.INTERNAL.value)
    assert trailers["grpc-message"].startswith("the response cannot be encoded: 'utf-8' codec ")


# metadata


async def trailers_of(method) -> tuple[Headers, list]:
    async with leaving_nothing():
        server = Server([Script(method)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1), client.make.message(1, b"a", end_stream=True))
            return await client.trailers(1), client.of(1)


@pytest.mark.parametrize("outcome", ["answers", "fails", "raises"])
async def test_trailing_metadata_of_the_current_call_goes_with_any_status(outcome: str):
    async def method(stream):
        call = current_call()
        call.set_trailing_metadata([("x-cost", "5"), ("x-raw-bin", b"\0\xff")])
        call.set_trailing_metadata([("x-cost", "6")])
        await stream.recv_message()
        if outcome == "answers":
            await stream.send_message(Note())
        elif outcome == "fails":
            raise GRPCError(Status.ABORTED)
        else:
            raise ValueError

    trailers, _ = await trailers_of(method)
    custom = [(name, value) for name, value in trailers.headers if name.startswith("x-")]
    assert custom == [("x-cost", "5"), ("x-raw-bin", "AP8"), ("x-cost", "6")]


@pytest.mark.parametrize(
    "pairs",
    [
        [("x", "not\nprintable")],
        [("x", "nön-ascii")],
        [("x", "\0")],
        [("x", 5)],
        [("x", b"bytes")],
        [("x-bin", "text")],
        [("UPPER", "case")],
        [("white space", "x")],
        [("", "x")],
        [("grpc-status", "0")],
        [(":status", "200")],
        [("te", "x")],
        [(5, "x")],
        ["not a pair"],
        [("a", "b", "c")],
        5,
        None,
    ],
    ids=repr,
)
@pytest.mark.parametrize("outcome", ["answers", "fails"])
async def test_trailing_metadata_that_cannot_be_sent(pairs, outcome: str):
    async def method(stream):
        call = current_call()
        await stream.recv_message()
        if outcome == "answers":
            await stream.send_message(Note())
        call.set_trailing_metadata(pairs)
        if outcome == "fails":
            raise GRPCError(Status.NOT_FOUND)

    trailers, frames = await trailers_of(method)
    assert trailers["grpc-status"] in {str(Status.INTERNAL.value), str(Status.UNKNOWN.value)}
    assert sum(isinstance(frame, Headers) for frame in frames) == (2 if outcome == "answers" else 1)
    # only what begins a response has an HTTP status
    assert ((":status", "200") in trailers.headers) is (outcome == "fails")


async def test_trailing_metadata_that_is_not_valid_hurts_no_other_call():
    async def method(stream):
        call = current_call()
        call.set_trailing_metadata([("UPPER", "case")])
        await stream.send_message(await stream.recv_message())

    async with in_memory(Script(method)) as served:
        assert "UPPER" in str((await failure(served)).message)


@pytest.mark.parametrize(
    "metadata", [{"x": "new\nline"}, {"UPPER": "x"}, {"x": 5}, {"grpc-x": "y"}, {"host": "h"}], ids=repr
)
async def test_initial_metadata_that_cannot_be_sent(metadata: dict):
    async def method(stream):
        await stream.recv_message()
        await stream.send_initial_metadata(metadata=metadata)

    async with in_memory(Script(method)) as served:
        error = await failure(served)
        assert error.status is Status.INTERNAL
        assert f"{next(iter(metadata))!r} cannot be sent" in (error.message or "")


async def test_a_servicer_that_sends_after_the_status_hears_of_its_own_mistake():
    """Although the stream was reset by then, because the client had not ended its side."""

    async def method(stream):
        await stream.send_trailing_metadata(status=Status.OK)
        for send in (partial(stream.send_message, Note()), stream.send_initial_metadata):
            with pytest.raises(ProtocolError, match="the call was ended already"):
                await send()
        ended.set()

    ended = anyio.Event()
    async with leaving_nothing(), raw_client(Server([Script(bidi=method)])) as client:
        await client.send(client.make.request(1, BIDI))
        await ended.wait()


# what others hook in: grpclib's events, a codec for details


@pytest.mark.parametrize("event", [RecvRequest, SendInitialMetadata, SendMessage, SendTrailingMetadata])
async def test_a_listener_that_raises_ends_the_call_and_nothing_else(event):
    failing = True

    async def listener(_):
        if failing:
            raise LookupError("from the listener")

    async with in_memory(Script()) as served:
        listen(served.server, event, listener)
        with pytest.raises(GRPCError) as raised:
            await served.stub.unary(Note("a"))
        assert raised.value.status in {Status.UNKNOWN, Status.INTERNAL}
        failing = False
        assert await served.stub.unary(Note("b")) == Note("b")


async def test_listeners_may_change_what_passes():
    async def add(event):
        event.metadata["x-added"] = "by the listener"

    async def see(stream):
        await stream.send_message(Note(stream.metadata["x-added"] + (await stream.recv_message()).text))

    async with in_memory(Script(see)) as served:
        listen(served.server, RecvRequest, add)
        listen(served.server, SendTrailingMetadata, add)
        assert await served.stub.unary(Note("!")) == Note("by the listener!")


async def sleep_long(_: object) -> None:
    await anyio.sleep(3600)


async def test_a_listener_that_waits_at_the_end_has_the_time_of_its_call():
    async with in_memory(Script()) as served:
        listen(served.server, SendTrailingMetadata, sleep_long)
        with pytest.raises(GRPCError) as raised:
            await served.stub.unary(Note("a"), timeout=0.05)
        assert raised.value.status is Status.DEADLINE_EXCEEDED
        await eventually(lambda: served.server.active_calls == 0)


async def test_a_listener_that_waits_ends_with_its_client():
    async with leaving_nothing():
        server = Server([Script()])
        listen(server, SendTrailingMetadata, sleep_long)
        async with raw_client(server) as client:
            await client.send(client.make.request(1), client.make.message(1, b"", end_stream=True))
            await client.until(lambda frame: isinstance(frame, Data))
            assert server.active_calls == 1
            await client.send(client.make.reset(1))
            await eventually(lambda: server.active_calls == 0)


@pytest.mark.parametrize("is_due", [False, True], ids=["after the servicer", "of a servicer that is cancelled"])
async def test_a_listener_that_waits_does_not_hold_up_the_end_of_a_server(is_due: bool):
    async def method(stream):
        await stream.recv_message()
        if is_due:
            await anyio.sleep_forever()
        await stream.send_message(Note())

    async with leaving_nothing():
        server = Server([Script(method)])
        listen(server, SendTrailingMetadata, sleep_long)
        async with raw_client(server) as client:
            await client.send(client.make.request(1), client.make.message(1, b"", end_stream=True))
            await turns()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.shutdown, 0)
                assert (await client.trailers(1))["grpc-status"] == str(Status.UNAVAILABLE.value)
                await client.transport.aclose()


async def test_a_message_is_not_lost_in_a_listener_that_is_cancelled():
    cut = True

    async def listener(_: object) -> None:
        if cut:
            await anyio.sleep_forever()

    async def method(stream):
        nonlocal cut
        with anyio.move_on_after(0.01):
            await stream.recv_message()
        cut = False
        await stream.send_message(await stream.recv_message())

    async with in_memory(Script(method)) as served:
        listen(served.server, RecvMessage, listener)
        assert await served.stub.unary(Note("a")) == Note("a")


class DetailsCodec(StatusDetailsCodecBase):
    def encode(self, status, message, details):
        if details == "bad":
            raise LookupError("no details for you")
        return str(details).encode()

    def decode(self, status, message, data):
        return data.decode()


@pytest.mark.parametrize(("details", "encoded"), [("good", "Z29vZA"), ("bad", None), (None, None)])
async def test_status_details(details: str | None, encoded: str | None):
    async with leaving_nothing():
        servicer = Script(raising(GRPCError(Status.ABORTED, "m", details)))
        server = Server([servicer], status_details_codec=DetailsCodec())
        async with raw_client(server) as client:
            await client.send(client.make.request(1), client.make.message(1, b"", end_stream=True))
            trailers = dict((await client.trailers(1)).headers)
            assert trailers.get("grpc-status-details-bin") == encoded
            assert trailers["grpc-status"] == str((Status.INTERNAL if details == "bad" else Status.ABORTED).value)
            await client.send(client.make.request(3, BIDI), client.make.data(3, end_stream=True))
            assert (await client.trailers(3))["grpc-status"] == "0"


async def test_status_details_are_made_of_the_message_that_is_sent():
    """They may hold it, and so be as large."""
    given = []

    class Details(DetailsCodec):
        def encode(self, status, message, details):
            given.append(message)
            return b""

    async with leaving_nothing():
        servicer = Script(raising(GRPCError(Status.ABORTED, "x" * 100_000, "details")))
        async with raw_client(Server([servicer], status_details_codec=Details())) as client:
            await client.send(client.make.request(1), client.make.message(1, b"", end_stream=True))
            assert given == [(await client.trailers(1))["grpc-message"]]


# the current call


async def test_the_current_call():
    calls = []

    async def method(stream):
        calls.append(current_call())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note_current_call)
        calls.append(await anyio.to_thread.run_sync(current_call))
        await stream.send_message(await stream.recv_message())

    async def note_current_call() -> None:
        calls.append(current_call())

    async with in_memory(Script(method)) as served:
        await served.stub.unary(Note(), timeout=PATIENCE, metadata={"x-key": "value"})
        with pytest.raises(LookupError, match="code that answers a call"):
            current_call()
    call, in_child, in_thread = calls
    assert call is in_child is in_thread
    assert call.method == UNARY
    assert call.metadata["x-key"] == "value"
    assert call.peer == ""
    assert str(call.user_agent).startswith("grpc-python-connectrio/")
    assert call.deadline is not None
    assert 0 < call.deadline.time_remaining() < PATIENCE + 1  # a float may have been rounded


async def test_calls_at_once_have_each_their_own():
    met = anyio.Event()
    waiting = 0

    async def method(stream):
        nonlocal waiting
        note = await stream.recv_message()
        waiting += 1
        if waiting == 3:
            met.set()
        await met.wait()
        call = current_call()
        await stream.send_message(Note(f"{note.text} {call.metadata['x-key']}"))

    async with in_memory(Script(method)) as served, anyio.create_task_group() as tasks:

        async def one(key: str) -> None:
            assert await served.stub.unary(Note(key), metadata={"x-key": key}) == Note(f"{key} {key}")

        for key in "abc":
            tasks.start_soon(one, key)


async def test_nothing_refers_to_a_call_that_is_over():
    """No cycle keeps its messages alive until a collection."""
    gc.collect()
    async with in_memory(Script()) as served:
        await served.stub.unary(Note("first"))
        before = sys.getallocatedblocks()
        gc.disable()
        try:
            for _ in range(20):
                await served.stub.unary(Note("x" * 1000))
        finally:
            gc.enable()
        grown = sys.getallocatedblocks() - before
    assert grown < 20 * 200


async def test_a_reset_of_the_servicers_own_is_cancel():
    async def method(stream):
        await stream.recv_message()
        await stream.send_message(Note("one"))
        await stream.cancel()

    _, frames = [], []
    async with leaving_nothing():
        server = Server([Script(server_streaming=method)])
        async with raw_client(server) as client:
            await client.send(client.make.request(1, SERVER_STREAMING), client.make.message(1, b"", end_stream=True))
            frames = await client.whole(1)
    assert [type(frame) for frame in frames] == [Headers, Data, Reset]
    assert frames[-1] == Reset(1, ErrorCodes.CANCEL)


# what runs code of others while it tells of an error


class HostileError(Exception):
    def __str__(self):
        raise SystemExit(9)

    __repr__ = __str__


class HostileValueError(HostileError, ValueError):
    pass


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (HostileError(), Status.UNKNOWN, "the servicer raised HostileError"),
        (GRPCError(Status.ABORTED, HostileError()), Status.ABORTED, "(SystemExit in the error's own text)"),
        (ExceptionGroup("g", [HostileError()]), Status.UNKNOWN, "the servicer raised ExceptionGroup"),
    ],
    ids=["raised", "as a message", "in a group"],
)
async def test_an_error_that_cannot_be_described(error, status: Status, message: str):
    async with in_memory(Script(raising(error))) as served:
        raised = await failure(served)
    assert (raised.status, raised.message) == (status, message)


@pytest.mark.parametrize(
    "error", [SystemExit(3), HostileError(), HostileValueError()], ids=lambda each: type(each).__name__
)
async def test_a_codec_of_details_that_fails_badly(error):
    class Codec(StatusDetailsCodecBase):
        def encode(self, status, message, details):
            raise error

        def decode(self, status, message, data):
            raise AssertionError

    servicer = Script(raising(GRPCError(Status.ABORTED, "m", "details")))
    async with leaving_nothing() as log, raw_client(Server([servicer], status_details_codec=Codec())) as client:
        await client.send(client.make.request(1), client.make.message(1, b"", end_stream=True))
        trailers = dict((await client.trailers(1)).headers)
        assert trailers["grpc-status"] == str(Status.INTERNAL.value)
        assert trailers["grpc-message"].startswith("the trailers of ABORTED cannot be sent: ")
        await client.send(client.make.request(3, BIDI), client.make.data(3, end_stream=True))
        assert (await client.trailers(3))["grpc-status"] == "0"
    lines = [line for line in log if line["event"] == "the trailers of %(rpc)s cannot be sent"]
    assert ["peer" in line for line in lines] == [True]


class FailingHandler(logging.Handler):
    def emit(self, record):
        raise SystemExit(3)


async def test_a_log_handler_that_fails_ends_no_call():
    logger = logging.getLogger("connectrio.rpc")
    handler = FailingHandler()
    logger.addHandler(handler)
    before = dropped_lines()
    try:
        async with in_memory(Script(raising(ValueError("bug")))) as served:
            assert (await failure(served)).message == "the servicer raised ValueError"
    finally:
        logger.removeHandler(handler)
    assert dropped_lines() > before
