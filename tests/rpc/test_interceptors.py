"""Interceptors of servers and of channels: what they see, change and end, and what their errors do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthStub
from connectrio.rpc import Channel, Deadline, Server, current_call, response_metadata
from connectrio.rpc.call import Call
from connectrio.rpc.health import Health, ServingStatus
from connectrio.rpc.interceptors import Interceptor, MessageStream, Proceed, StreamWrapper
from connectrio.rpc.testing import MemoryListener
from rpc.kit.script import SERVER_STREAMING, UNARY, Note, Script, ScriptBase, ScriptStub, Stream
from rpc.kit.serving import captured_logs, eventually, leaving_nothing, turns
from rpc.kit.virtual_time import in_virtual_time

GONE = (Status.CANCELLED, "the client is gone")
TOO_LATE = (Status.DEADLINE_EXCEEDED, "the deadline passed before the call was done")


@asynccontextmanager
async def serving(server: Server, *interceptors: Interceptor) -> AsyncIterator[ScriptStub]:
    """A stub of `server`, in memory, on a channel with `interceptors`."""
    async with leaving_nothing(), anyio.create_task_group() as tasks, MemoryListener() as listener:
        tasks.start_soon(server.serve, listener)
        async with Channel(listener.connect, interceptors=interceptors) as channel:
            yield ScriptStub(channel)
            await eventually(lambda: server.active_calls == 0)
        tasks.cancel_scope.cancel()


class Seen:
    """What interceptors have seen, in order: (name, "begins"), (name, "yields"), (name, error, status, message)."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def interceptor(self, name: str = "one", change: Callable[[Call], None] = lambda _: None) -> Interceptor:
        @asynccontextmanager
        async def seeing(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
            self.events.append((name, "begins"))
            change(call)
            raised: BaseException | None = None
            try:
                async with proceed() as stream:
                    self.events.append((name, "yields"))
                    try:
                        yield stream
                    except BaseException as error:
                        self.events.append((name, "inside", type(error)))
                        raise
            except BaseException as error:
                raised = error
                raise
            finally:
                self.events.append((name, type(raised), call.status, call.status_message))

        return seeing

    @property
    def ends(self) -> list[tuple[Any, ...]]:
        """The last of each call: error, status and message."""
        return [event[1:] for event in self.events if len(event) == 4]


def refusing(status: Status, message: str) -> Interceptor:
    @asynccontextmanager
    async def refuse(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        raise GRPCError(status, message)
        yield

    return refuse


def wrapping(make: Callable[[MessageStream], MessageStream]) -> Interceptor:
    @asynccontextmanager
    async def wrap(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        async with proceed() as stream:
            yield make(stream)

    return wrap


class Louder(StreamWrapper):
    """Marks what passes, in each direction."""

    async def send_message(self, message: Note, **options: Any) -> None:
        await super().send_message(Note(message.text + "!"), **options)

    async def recv_message(self) -> Note | None:
        note = await super().recv_message()
        return None if note is None else Note(note.text + "?")


async def fail(stream: Stream) -> None:
    raise GRPCError(Status.NOT_FOUND, "no such note")


async def break_down(stream: Stream) -> None:
    raise ValueError("a secret")


async def send_own_status(stream: Stream) -> None:
    await stream.send_trailing_metadata(status=Status.ABORTED, status_message="own")


async def silent(stream: Stream) -> None:
    pass


async def hang(stream: Stream) -> None:
    await anyio.sleep_forever()


# order and ends


async def test_the_first_is_the_outermost_on_both_sides():
    ours, theirs = Seen(), Seen()
    server = Server([Script()], interceptors=[ours.interceptor("first"), ours.interceptor("second")])
    async with serving(server, theirs.interceptor("first"), theirs.interceptor("second")) as stub:
        assert await stub.unary(Note("a")) == Note("a")
    assert ours.events == [
        ("first", "begins"),
        ("second", "begins"),
        ("second", "yields"),
        ("first", "yields"),
        ("second", type(None), Status.OK, None),
        ("first", type(None), Status.OK, None),
    ]
    assert theirs.events == ours.events


@pytest.mark.parametrize(
    ("servicer", "inside", "status", "message"),
    [
        (fail, GRPCError, Status.NOT_FOUND, "no such note"),
        (break_down, ValueError, Status.UNKNOWN, "the servicer raised ValueError"),
        (send_own_status, None, Status.ABORTED, "own"),
        (silent, None, Status.UNKNOWN, "the servicer returned without sending the response"),
    ],
)
async def test_errors_are_raw_inside_and_statuses_outside(servicer, inside, status, message):
    ours, theirs = Seen(), Seen()
    server = Server([Script(unary=servicer)], interceptors=[ours.interceptor("first"), ours.interceptor("second")])
    async with serving(server, theirs.interceptor()) as stub:
        with pytest.raises(GRPCError) as caught:
            await stub.unary(Note("a"))
    assert (caught.value.status, caught.value.message) == (status, message)
    assert ours.ends == [(GRPCError, status, message)] * 2
    assert theirs.ends == [(GRPCError, status, message)]
    raw = [event for event in ours.events if event[1] == "inside"]
    assert raw == ([] if inside is None else [("first", "inside", inside), ("second", "inside", inside)])


async def test_all_kinds_of_methods_pass():
    ours, theirs = Seen(), Seen()
    cardinalities: list[Cardinality] = []
    note = lambda call: cardinalities.append(call.cardinality)  # noqa: E731
    async with serving(
        Server([ScriptBase()], interceptors=[ours.interceptor(change=note)]), theirs.interceptor()
    ) as stub:
        assert await stub.unary(Note("a")) == Note("a")
        assert [each.text async for each in stub.server_streaming(Note("ab"))] == ["a", "b"]
        assert await stub.client_streaming([Note("a"), Note("b")]) == Note("ab")
        assert [each.text async for each in stub.bidi([Note("a"), Note("b")])] == ["a", "b"]
    assert ours.ends == theirs.ends == [(type(None), Status.OK, None)] * 4
    assert cardinalities == [
        Cardinality.UNARY_UNARY,
        Cardinality.UNARY_STREAM,
        Cardinality.STREAM_UNARY,
        Cardinality.STREAM_STREAM,
    ]


async def test_those_around_a_refusal_see_it_and_the_servicer_does_not():
    ours, called = Seen(), []

    async def servicer(stream: Stream) -> None:
        called.append(stream)

    refuse = refusing(Status.UNAUTHENTICATED, "who are you?")
    server = Server([Script(unary=servicer)], interceptors=[ours.interceptor(), refuse])
    async with serving(server) as stub:
        with pytest.raises(GRPCError, match="who are you") as caught:
            await stub.unary(Note())
    assert caught.value.status is Status.UNAUTHENTICATED
    assert ours.ends == [(GRPCError, Status.UNAUTHENTICATED, "who are you?")]
    assert not called


async def test_a_channel_s_refusal_sends_nothing():
    ours, theirs = Seen(), Seen()
    refuse = refusing(Status.RESOURCE_EXHAUSTED, "too many")
    async with serving(Server([Script()], interceptors=[ours.interceptor()]), theirs.interceptor(), refuse) as stub:
        with pytest.raises(GRPCError, match="too many"):
            await stub.unary(Note())
    assert theirs.ends == [(GRPCError, Status.RESOURCE_EXHAUSTED, "too many")]
    assert not ours.events


async def test_the_error_may_be_changed():
    @asynccontextmanager
    async def mapping(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        async with proceed() as stream:
            try:
                yield stream
            except ValueError as error:
                raise GRPCError(Status.INVALID_ARGUMENT, "mapped") from error

    ours = Seen()
    server = Server([Script(unary=break_down)], interceptors=[ours.interceptor(), mapping])
    async with serving(server) as stub:
        with pytest.raises(GRPCError, match="mapped"), captured_logs() as lines:
            await stub.unary(Note())
    assert ours.ends == [(GRPCError, Status.INVALID_ARGUMENT, "mapped")]
    assert not [line for line in lines if line["log_level"] == "error"]


@in_virtual_time
async def test_a_deadline_that_passes():
    ours, theirs = Seen(), Seen()
    server = Server([Script(unary=hang)], interceptors=[ours.interceptor("first"), ours.interceptor("second")])
    async with serving(server, theirs.interceptor()) as stub:
        with pytest.raises(GRPCError):
            await stub.unary(Note(), timeout=1)
        await eventually(lambda: len(ours.ends) == 2)
    cancelled = anyio.get_cancelled_exc_class()
    # the client's reset may come first
    assert [each[0] for each in ours.ends] == [cancelled] * 2
    assert ours.ends[0][1:] in (TOO_LATE, GONE)
    assert theirs.ends == [(GRPCError, *TOO_LATE)]


async def test_a_client_that_goes_away():
    ours, theirs = Seen(), Seen()
    async with serving(Server([Script(unary=hang)], interceptors=[ours.interceptor()]), theirs.interceptor()) as stub:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stub.unary, Note())
            await eventually(lambda: ("one", "yields") in ours.events)
            tasks.cancel_scope.cancel()
        await eventually(lambda: bool(ours.ends))
    cancelled = anyio.get_cancelled_exc_class()
    assert ours.ends == [(cancelled, *GONE)]
    assert theirs.ends == [(cancelled, Status.CANCELLED, "the client left the call")]


async def test_a_client_that_has_gone_when_the_servicer_returns():
    ours, go_on = Seen(), anyio.Event()

    async def stubborn(stream: Stream) -> None:
        await stream.recv_message()
        with anyio.CancelScope(shield=True):
            await go_on.wait()
            with pytest.raises(ConnectionError, match="the peer reset the stream"):
                await stream.send_message(Note())

    server = Server([Script(server_streaming=stubborn)], interceptors=[ours.interceptor()])
    async with serving(server) as stub:  # noqa: SIM117 - the call ends first
        async with stub.channel.request(SERVER_STREAMING, Cardinality.UNARY_STREAM, Note, Note) as stream:
            await stream.send_message(Note())
            await eventually(lambda: ("one", "yields") in ours.events)
            await turns()
            await stream.cancel()
            await turns()
            go_on.set()
            await eventually(lambda: bool(ours.ends))
            with pytest.raises(GRPCError):
                await stream.recv_message()
    assert ours.ends == [(GRPCError, *GONE)]


async def test_one_that_sends_when_the_client_has_gone_is_told():
    @asynccontextmanager
    async def saying_goodbye(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        try:
            async with proceed() as stream:
                yield stream
        finally:
            with anyio.CancelScope(shield=True):
                await stream.send_message(Note("goodbye"))

    ours = Seen()
    servicer = Script(server_streaming=hang)
    async with serving(Server([servicer], interceptors=[ours.interceptor(), saying_goodbye])) as stub:
        with captured_logs() as lines:
            async with stub.channel.request(SERVER_STREAMING, Cardinality.UNARY_STREAM, Note, Note) as stream:
                await stream.send_message(Note())
                await eventually(lambda: ("one", "yields") in ours.events)
                await stream.cancel()
            await eventually(lambda: bool(ours.ends))
    assert ours.ends == [(GRPCError, *GONE)]
    assert not [line for line in lines if line["log_level"] == "error"]


async def test_a_server_that_shuts_down():
    ours = Seen()
    server = Server([Script(unary=hang)], interceptors=[ours.interceptor()])
    async with serving(server) as stub, anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(GRPCError):
                await stub.unary(Note())

        tasks.start_soon(call)
        await eventually(lambda: ("one", "yields") in ours.events)
        await server.shutdown(grace=0)
    assert ours.ends == [(anyio.get_cancelled_exc_class(), Status.UNAVAILABLE, "the server is shutting down")]


@in_virtual_time
async def test_one_that_waits_is_cancelled_with_its_call():
    ours = Seen()

    @asynccontextmanager
    async def waiting(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        await anyio.sleep_forever()
        yield  # type: ignore[misc]

    async with serving(Server([Script()], interceptors=[ours.interceptor(), waiting])) as stub:
        with pytest.raises(GRPCError) as caught:
            await stub.unary(Note(), timeout=1)
        await eventually(lambda: bool(ours.ends))
    assert caught.value.status is Status.DEADLINE_EXCEEDED
    assert ours.ends[0][0] is anyio.get_cancelled_exc_class()
    assert ours.ends[0][1:] in (TOO_LATE, GONE)


# what they share with the call


async def test_a_channel_s_interceptor_adds_metadata_and_sets_the_deadline():
    def change(call: Call) -> None:
        call.metadata.add("x-added", "by the channel")
        call.deadline = Deadline.from_timeout(3600)

    calls: list[Call] = []
    server = Server([Script()], interceptors=[Seen().interceptor(change=calls.append)])
    async with serving(server, Seen().interceptor(change=change)) as stub:
        await stub.unary(Note("a"), metadata={"x-given": "1"})
    [call] = calls
    assert call.metadata == {"x-given": "1", "x-added": "by the channel"}
    assert call.deadline is not None
    assert call.method == UNARY


async def test_a_server_s_interceptor_adds_metadata_to_the_response():
    @asynccontextmanager
    async def adding(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        assert current_call() is call
        call.set_initial_metadata([("x-first", "1")])
        async with proceed() as stream:
            yield stream
        call.set_trailing_metadata([("x-last", call.status.name)])

    read = []

    @asynccontextmanager
    async def reading(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        with response_metadata() as seen:
            async with proceed() as stream:
                yield stream
        read.append((dict(seen.initial), dict(seen.trailing)))

    async with serving(Server([Script()], interceptors=[adding]), reading) as stub:
        await stub.unary(Note())
    assert read == [({"x-first": "1"}, {"x-last": "OK"})]


async def test_the_servicer_sees_context_variables_and_the_state_of_the_call():
    variable: ContextVar[str] = ContextVar("variable", default="none")
    seen = []

    @asynccontextmanager
    async def setting(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        token = variable.set(call.metadata["x-name"])
        call.state["user"] = call.metadata["x-name"]
        try:
            async with proceed() as stream:
                yield stream
        finally:
            variable.reset(token)

    async def look(stream: Stream) -> None:
        seen.append((variable.get(), current_call().state))
        await stream.send_message(Note())

    async with serving(Server([Script(unary=look)], interceptors=[setting])) as stub:
        for name in "first", "second":
            await stub.unary(Note(), metadata={"x-name": name})
    assert seen == [("first", {"user": "first"}), ("second", {"user": "second"})]


# messages


@pytest.mark.parametrize("script", [Script, ScriptBase])
async def test_messages_pass_through_a_wrapper_of_the_server(script):
    async with serving(Server([script()], interceptors=[wrapping(Louder)])) as stub:
        assert await stub.unary(Note("a")) == Note("a?!")
        assert [each.text async for each in stub.bidi([Note("a"), Note("b")])] == ["a?!", "b?!"]
        assert await stub.client_streaming([Note("a"), Note("b")]) == Note("a?b?!")


async def test_messages_pass_through_a_wrapper_of_the_channel():
    async def notes() -> AsyncIterator[Note]:
        yield Note("a")
        yield Note("b")

    async with serving(Server([ScriptBase()]), wrapping(Louder)) as stub:
        assert await stub.unary(Note("a")) == Note("a!?")
        assert [each.text async for each in stub.server_streaming(Note("a"))] == ["a?", "!?"]
        for source in (notes, lambda: [Note("a"), Note("b")]):
            assert [each.text async for each in stub.bidi(source())] == ["a!?", "b!?"]
            assert await stub.client_streaming(source()) == Note("a!b!?")


async def test_wrappers_nest_as_their_interceptors_do():
    class Named(Louder):
        name = ""

        async def send_message(self, message: Note, **options: Any) -> None:
            await StreamWrapper.send_message(self, Note(message.text + self.name), **options)

    names = [wrapping(type("Wrapper", (Named,), {"name": name})) for name in "12"]
    async with serving(Server([Script()]), *names) as stub:
        assert await stub.unary(Note("a")) == Note("a12??")


async def test_a_wrapped_servicer_s_generator_ends_with_its_call():
    ended = []

    class Watched(ScriptBase):
        async def server_streaming(self, note: Note) -> AsyncIterator[Note]:
            try:
                while True:
                    yield note
                    await anyio.lowlevel.checkpoint()
            finally:
                ended.append(note)

    async with serving(Server([Watched()], interceptors=[wrapping(Louder)])) as stub:
        async with aclosing(stub.server_streaming(Note())) as notes:
            async for _ in notes:
                break
        await eventually(lambda: bool(ended))


# making a call again


class Repeated(StreamWrapper):
    """Makes a unary call until it succeeds."""

    def __init__(self, proceed: Proceed) -> None:
        self._proceed = proceed
        self._message: Any = None

    async def send_message(self, message: Any, **options: Any) -> None:
        self._message = message

    async def recv_message(self) -> Any:
        while True:
            try:
                async with self._proceed() as stream:
                    await stream.send_message(self._message)
                    return await stream.recv_message()
            except GRPCError as error:
                if error.status is not Status.UNAVAILABLE:
                    raise


@asynccontextmanager
async def retrying(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    yield Repeated(proceed)


async def test_a_channel_s_interceptor_makes_a_call_again():
    theirs, inner, attempts = Seen(), Seen(), []

    async def at_last(stream: Stream) -> None:
        attempts.append(await stream.recv_message())
        if len(attempts) < 3:
            raise GRPCError(Status.UNAVAILABLE, "not yet")
        await stream.send_message(Note("done"))

    async with serving(Server([Script(unary=at_last)]), theirs.interceptor(), retrying, inner.interceptor()) as stub:
        assert await stub.unary(Note("a")) == Note("done")
        assert attempts == [Note("a")] * 3
        assert theirs.ends == [(type(None), Status.OK, None)]
        assert [end[1] for end in inner.ends] == [Status.UNAVAILABLE, Status.UNAVAILABLE, Status.OK]


async def test_one_that_answers_by_itself_ends_the_call_with_ok():
    class Cached(StreamWrapper):
        async def send_message(self, message: Any, **options: Any) -> None:
            pass

        async def recv_message(self) -> Any:
            return Note("cached")

    @asynccontextmanager
    async def cached(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        yield Cached(None)  # type: ignore[arg-type]

    theirs = Seen()
    async with serving(Server([]), theirs.interceptor(), cached) as stub:
        assert await stub.unary(Note("a")) == Note("cached")
    assert theirs.ends == [(type(None), Status.OK, None)]


# their own errors


@asynccontextmanager
async def faulty_before(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    raise KeyError("a secret")
    yield


@asynccontextmanager
async def faulty_inside(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    async with proceed():
        raise KeyError("a secret")
        yield


@asynccontextmanager
async def faulty_after(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    async with proceed() as stream:
        yield stream
    raise KeyError("a secret")


@asynccontextmanager
async def swallowing(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    try:
        async with proceed() as stream:
            yield stream
    except GRPCError:
        pass


@asynccontextmanager
async def not_yielding(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    async with proceed():
        return
        yield


def no_context_manager(call: Call, proceed: Proceed) -> Any:
    return None


class NoFunction:
    """An interceptor that is no function."""

    def __call__(self, call: Call, proceed: Proceed) -> AbstractAsyncContextManager[MessageStream]:
        raise SystemExit("a secret")


@pytest.mark.parametrize(
    ("interceptor", "text"),
    [
        (faulty_before, "the interceptor faulty_before raised KeyError"),
        (faulty_inside, "the interceptor faulty_inside raised KeyError"),
        (faulty_after, "the interceptor faulty_after raised KeyError"),
        (swallowing, "the interceptor swallowing raised RuntimeError"),
        (not_yielding, "the interceptor not_yielding raised RuntimeError"),
        (no_context_manager, "the interceptor no_context_manager raised AttributeError"),
        (NoFunction(), "the interceptor NoFunction raised SystemExit"),
    ],
)
async def test_an_error_of_a_server_s_interceptor_ends_its_call_alone(interceptor, text):
    ours = Seen()
    servicer = Script(unary=fail if interceptor is swallowing else Script().__mapping__()[UNARY].func)
    server = Server([servicer], interceptors=[ours.interceptor(), only(interceptor, UNARY)])
    async with serving(server) as stub, aclosing(stub.bidi(forever())) as notes:
        await anext(notes)
        with captured_logs() as lines, pytest.raises(GRPCError) as caught:
            await stub.unary(Note())
        await anext(notes)
    assert (caught.value.status, caught.value.message) == (Status.INTERNAL, text)
    [line] = [line for line in lines if line["log_level"] == "error"]
    assert line["event"] == "the interceptor %(interceptor)s of %(rpc)s raised"
    assert line["interceptor"] in text
    assert line["rpc"] == UNARY
    assert line["exc_info"]
    assert ours.ends[0] == (GRPCError, Status.INTERNAL, text)


def only(interceptor: Interceptor, method: str) -> Interceptor:
    """`interceptor` for one method; with its own name."""

    def chosen(call: Call, proceed: Proceed) -> AbstractAsyncContextManager[MessageStream]:
        return interceptor(call, proceed) if call.method == method else proceed()

    chosen.__qualname__ = getattr(interceptor, "__qualname__", type(interceptor).__name__)
    return chosen


async def forever() -> AsyncIterator[Note]:
    while True:
        yield Note()
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("interceptor", [faulty_before, faulty_inside, faulty_after])
async def test_an_error_of_a_channel_s_interceptor_reaches_the_caller_with_its_name(interceptor):
    theirs = Seen()
    async with serving(Server([Script()]), theirs.interceptor(), interceptor) as stub:
        with pytest.raises(KeyError) as caught:
            await stub.unary(Note())
        assert caught.value.__notes__ == [
            f"This comes from the interceptor {interceptor.__name__}, around a call of {UNARY}"
        ]
        assert theirs.ends == [(KeyError, Status.UNKNOWN, f"the interceptor {interceptor.__name__} raised KeyError")]


async def test_a_channel_s_interceptor_cannot_swallow_an_error():
    async with serving(Server([Script(unary=fail)]), swallowing) as stub:
        with pytest.raises(RuntimeError, match="swallowed the error of the call") as caught:
            await stub.unary(Note())
        assert "the interceptor swallowing" in caught.value.__notes__[0]


async def test_the_caller_s_own_error_passes_as_it_is():
    error, theirs = ValueError("the caller's"), Seen()
    async with serving(Server([Script()]), theirs.interceptor("first"), theirs.interceptor("second")) as stub:
        with pytest.raises(ValueError, match="caller's") as caught:  # noqa: PT012 - the error is the block's
            async with stub.channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note) as stream:
                await stream.send_message(Note())
                raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert theirs.ends == [(ValueError, Status.CANCELLED, "the client left the call")] * 2


@asynccontextmanager
async def with_tasks(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        async with proceed() as stream:
            yield stream
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("servicer", "end"),
    [
        (fail, (Status.NOT_FOUND, "no such note")),
        (break_down, (Status.UNKNOWN, "the servicer raised ValueError")),
        (Script().__mapping__()[UNARY].func, (Status.OK, None)),
    ],
)
async def test_a_task_group_of_an_interceptor_wraps_no_error(servicer, end):
    ours, theirs = Seen(), Seen()
    server = Server([Script(unary=servicer)], interceptors=[ours.interceptor(), with_tasks])
    async with serving(server, theirs.interceptor(), with_tasks) as stub:
        if end[0] is Status.OK:
            await stub.unary(Note())
        else:
            with pytest.raises(GRPCError, match=end[1]):
                await stub.unary(Note())
            error = LookupError("the caller's")
            with pytest.raises(LookupError) as caught:
                async with stub.channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note):
                    raise error
            assert caught.value is error
    assert ours.ends[0] == theirs.ends[0] == (GRPCError if end[1] else type(None), *end)


async def test_what_an_interceptor_leaves_open_ends_its_call_alone():
    @asynccontextmanager
    async def careless(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        if call.method == UNARY:
            anyio.CancelScope().__enter__()
        async with proceed() as stream:
            yield stream

    async with serving(Server([Script()], interceptors=[careless])) as stub:
        with pytest.raises(GRPCError, match="a cancel scope or task group that was entered here is still open"):
            await stub.unary(Note())
        assert [each.text async for each in stub.bidi([Note("a")])] == ["a"]


@pytest.mark.parametrize("where", [Server, Channel])
def test_a_forgotten_decorator_is_an_error_at_once(where):
    async def forgotten(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        async with proceed() as stream:
            yield stream

    async def worse(call: Call, proceed: Proceed) -> None:
        pass

    class WithCall:
        async def __call__(self, call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
            yield await proceed().__aenter__()

    for each, name, code in (
        (forgotten, "forgotten", forgotten.__code__),
        (worse, "worse", worse.__code__),
        (partial(forgotten), "forgotten", forgotten.__code__),
        (WithCall(), "WithCall", WithCall.__call__.__code__),
    ):
        place = rf"{name} \(.*test_interceptors.py:{code.co_firstlineno}\)"
        with pytest.raises(TypeError, match=rf"{place}.*asynccontextmanager"):
            where([] if where is Server else "localhost:1", interceptors=[each])


# calls that are dropped


async def test_responses_that_are_dropped_end_the_interceptors_at_once():
    theirs = Seen()
    async with serving(Server([ScriptBase()]), theirs.interceptor("first"), theirs.interceptor("second")) as stub:
        for stream in (lambda: stub.server_streaming(Note("abc")), lambda: stub.bidi(forever())):
            async with aclosing(stream()) as notes:
                async for _ in notes:
                    break
            assert theirs.ends == [(GeneratorExit, Status.CANCELLED, "the client left the call")] * 2
            theirs.events.clear()


async def test_one_that_waits_then_is_closed_where_it_waits():
    steps, event = [], anyio.Event()

    @asynccontextmanager
    async def slow(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        try:
            async with proceed() as stream:
                yield stream
        finally:
            try:
                await event.wait()
            finally:
                steps.append("closed")
                await anyio.sleep(3600)
                steps.append("never")

    async with serving(Server([ScriptBase()]), slow) as stub:
        async with aclosing(stub.server_streaming(Note("abc"))) as notes:
            async for _ in notes:
                break
        assert steps == ["closed"]
        event.set()  # wakes nobody
        await turns()


async def test_tasks_of_one_end_then_and_wake_nobody():
    ended = []

    async def task() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("task")

    @asynccontextmanager
    async def busy(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        async with anyio.create_task_group() as tasks, proceed() as stream:
            tasks.start_soon(task)
            await turns()
            yield stream
            tasks.cancel_scope.cancel()

    async with serving(Server([ScriptBase()]), busy) as stub:
        with anyio.CancelScope() as scope:
            async with aclosing(stub.server_streaming(Note("abc"))) as notes:
                async for _ in notes:
                    break
            await eventually(lambda: ended == ["task"])
            await turns()
        assert not scope.cancel_called
        assert await stub.unary(Note("a")) == Note("a")
    assert ended == ["task"] * 2


async def test_one_that_fails_then_is_logged():
    @asynccontextmanager
    async def faulty(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        try:
            async with proceed() as stream:
                yield stream
        finally:
            raise KeyError("a secret")

    async with serving(Server([ScriptBase()]), faulty) as stub:
        with captured_logs() as lines:
            async with aclosing(stub.server_streaming(Note("abc"))) as notes:
                async for _ in notes:
                    break
    [line] = [line for line in lines if line["log_level"] == "error"]
    assert line["rpc"] == SERVER_STREAMING
    assert "faulty" in line["interceptor"]


# gRPC's own services


async def test_health_passes_through_them_and_unknown_methods_do_not():
    health, methods = Health(), []
    health.set("", ServingStatus.SERVING)
    server = Server([health], interceptors=[Seen().interceptor(change=lambda call: methods.append(call.method))])
    async with serving(server) as stub:
        assert (await HealthStub(stub.channel).check(HealthCheckRequest())).status is ServingStatus.SERVING
        with pytest.raises(GRPCError, match="unknown method"):
            await stub.unary(Note())
    assert methods == ["/grpc.health.v1.Health/Check"]
