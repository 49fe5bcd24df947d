"""What `on_call` is told of the calls of a server and of a channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.diagnostics import SafeLogger
from connectrio.rpc import Call, Channel, Server, current_call
from connectrio.rpc.testing import MemoryListener
from rpc.kit.script import UNARY, Note, Script, ScriptStub, Stream
from rpc.kit.serving import captured_logs, eventually, leaving_nothing, turns

GONE = "the client is gone"


class Told:
    """What an `on_call` was told."""

    def __init__(self, change: Callable[[Call], None] = lambda _: None) -> None:
        self.begun: list[Call] = []
        self.ended: list[tuple[Status, str | None]] = []
        self._change = change

    def __call__(self, call: Call) -> Callable[[Status, str | None], None]:
        self.begun.append(call)
        self._change(call)
        return lambda status, message: self.ended.append((status, message))


@asynccontextmanager
async def serving(server: Server, on_call: Any = None) -> AsyncIterator[Channel]:
    """A channel to `server`, in memory, that tells `on_call`."""
    async with leaving_nothing(), anyio.create_task_group() as tasks, MemoryListener() as listener:
        tasks.start_soon(server.serve, listener)
        async with Channel(listener.connect, on_call=on_call) as channel:
            yield channel
            await eventually(lambda: server.active_calls == 0)
        tasks.cancel_scope.cancel()


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


@pytest.mark.parametrize(
    ("servicer", "ends"),
    [
        (fail, (Status.NOT_FOUND, "no such note")),
        (break_down, (Status.UNKNOWN, "the servicer raised ValueError")),
        (send_own_status, (Status.ABORTED, "own")),
        (silent, (Status.UNKNOWN, "the servicer returned without sending the response")),
    ],
)
async def test_both_sides_are_told_the_status_that_the_client_gets(servicer, ends):
    ours, theirs = Told(), Told()
    async with serving(Server([Script(unary=servicer)], on_call=ours), theirs) as channel:
        with pytest.raises(GRPCError):
            await ScriptStub(channel).unary(Note("a"))
    assert ours.ended == theirs.ended == [ends]


async def test_a_call_that_succeeds():
    ours, theirs = Told(), Told(lambda call: call.metadata.add("x-added", "by the channel"))
    server = Server([Script()], on_call=ours)
    async with serving(server, theirs) as channel:
        assert await ScriptStub(channel).unary(Note("a"), metadata={"x-given": "1"}, timeout=3600) == Note("a")
        assert [each.text async for each in ScriptStub(channel).server_streaming(Note("b"))] == ["b"]
    assert ours.ended == theirs.ended == [(Status.OK, None)] * 2
    assert ours.begun[0].metadata == {"x-given": "1", "x-added": "by the channel"}
    assert [call.method for call in ours.begun] == [call.method for call in theirs.begun]
    assert ours.begun[0].method == UNARY
    assert theirs.begun[0].deadline is not None
    assert theirs.begun[0].peer == channel.authority


async def test_context_variables_are_the_servicer_s_for_its_call_alone():
    variable: ContextVar[str] = ContextVar("variable", default="none")
    seen = []

    async def look(stream: Stream) -> None:
        seen.append(variable.get())
        await stream.send_message(Note())

    def on_call(call: Call) -> Callable[[Status, str | None], None]:
        assert current_call() is call
        seen.append(variable.get())
        token = variable.set(call.metadata["x-name"])
        return lambda *_: variable.reset(token)

    async with serving(Server([Script(unary=look)], on_call=on_call)) as channel:
        for name in "first", "second":
            await ScriptStub(channel).unary(Note(), metadata={"x-name": name})
    assert seen == ["none", "first", "none", "second"]


async def test_a_deadline_that_passes():
    ours, theirs = Told(), Told()
    async with serving(Server([Script(unary=hang)], on_call=ours), theirs) as channel:
        for timeout in (0.02, 0.2, 2.0):  # on a busy machine, the time may be up before the call is sent
            with pytest.raises(GRPCError):
                await ScriptStub(channel).unary(Note(), timeout=timeout)
            if ours.begun:
                break
        await eventually(lambda: bool(ours.ended))
    assert theirs.ended[-1] == (Status.DEADLINE_EXCEEDED, "the deadline passed before the call was done")
    # the client's reset may come first
    assert ours.ended[0][0] in (Status.DEADLINE_EXCEEDED, Status.CANCELLED)


async def test_a_client_that_goes_away():
    ours, theirs = Told(), Told()
    async with serving(Server([Script(unary=hang)], on_call=ours), theirs) as channel:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ScriptStub(channel).unary, Note())
            await eventually(lambda: bool(ours.begun))
            tasks.cancel_scope.cancel()
        await eventually(lambda: bool(ours.ended))
    assert ours.ended == [(Status.CANCELLED, GONE)]
    assert theirs.ended == [(Status.CANCELLED, "the client left the call")]


async def test_a_stream_that_is_left_early():
    ours, theirs = Told(), Told()

    async def endless(stream: Stream) -> None:
        while True:
            await stream.send_message(Note("a"))
            await anyio.lowlevel.checkpoint()

    async with serving(Server([Script(server_streaming=endless)], on_call=ours), theirs) as channel:
        async with aclosing(ScriptStub(channel).server_streaming(Note())) as notes:
            async for _ in notes:
                break
        await eventually(lambda: bool(ours.ended))
    assert ours.ended == [(Status.CANCELLED, GONE)]
    assert theirs.ended == [(Status.CANCELLED, "the client left the call")]


async def test_a_server_that_shuts_down():
    ours, theirs = Told(), Told()
    server = Server([Script(unary=hang)], on_call=ours)
    async with serving(server, theirs) as channel, anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(GRPCError):
                await ScriptStub(channel).unary(Note())

        tasks.start_soon(call)
        await eventually(lambda: bool(ours.begun))
        await server.shutdown(grace=0)
    assert ours.ended == theirs.ended == [(Status.UNAVAILABLE, "the server is shutting down")]


async def test_a_call_that_finds_no_server():
    theirs = Told()

    async def refuse() -> Any:
        raise OSError("refused")

    async with Channel(refuse, on_call=theirs) as channel:
        with pytest.raises(GRPCError):
            await ScriptStub(channel).unary(Note())
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ScriptStub(channel.when_ready).unary, Note())  # type: ignore[arg-type]
                await turns()
                scope.cancel()
    (status, message), left = theirs.ended
    assert status is Status.UNAVAILABLE
    assert "refused" in (message or "")
    assert left[0] is Status.CANCELLED


@pytest.mark.parametrize("where", ["beginning", "end"])
async def test_one_that_fails_hurts_no_call(where, monkeypatch):
    monkeypatch.setattr("connectrio.rpc.call.log", SafeLogger("connectrio.rpc"))  # which has logged nothing yet

    def raises(*_: Any) -> Any:
        raise RuntimeError("the diagnostic is broken")

    on_call = raises if where == "beginning" else lambda _: raises
    with captured_logs() as lines:
        async with serving(Server([Script()], on_call=on_call), on_call) as channel:
            assert await ScriptStub(channel).unary(Note("a")) == Note("a")
    # once a second at most, for the server and the channel together
    warned = [line for line in lines if line["log_level"] == "warning"]
    assert warned
    assert all(line["event"].startswith(f"on_call failed at the {where}") for line in warned)
    assert all(line["error"] == "RuntimeError: the diagnostic is broken" for line in warned)


async def test_it_may_return_nothing():
    def on_call(call: Call) -> None:
        return None

    async with serving(Server([Script()], on_call=on_call), on_call) as channel:
        assert await ScriptStub(channel).unary(Note("a")) == Note("a")
