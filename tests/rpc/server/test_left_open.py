"""What a servicer leaves open in its task ends its own call, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.rpc.left_open import LeftOpenError, leaving_nothing_open
from rpc.kit.script import Note, Script
from rpc.kit.serving import Served, captured_logs, eventually, in_memory, leaving_nothing, turns

on_asyncio = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)


class Careless:
    """Leaves things open.

    :ivar running: how many tasks run that were started in there
    """

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.running = 0

    async def runs_on(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.running -= 1

    async def scope(self) -> None:
        self.kept.append(anyio.CancelScope().__enter__())

    async def shield(self) -> None:
        self.kept.append(anyio.CancelScope(shield=True).__enter__())

    async def deadline(self) -> None:
        self.kept.append(anyio.move_on_after(0.01).__enter__())

    async def passed_deadline(self) -> None:
        self.kept.append(anyio.move_on_after(0).__enter__())

    async def cancelled(self) -> None:
        scope = anyio.CancelScope()
        self.kept.append(scope.__enter__())
        scope.cancel()

    async def group(self) -> None:
        group = anyio.create_task_group()
        self.kept.append(await group.__aenter__())
        self.running += 1
        group.start_soon(self.runs_on)

    async def many(self) -> None:
        for leave in (self.scope, self.group, self.deadline, self.group, self.shield):
            await leave()

    async def group_inside_a_scope(self) -> None:
        with anyio.CancelScope():
            await self.group()

    async def group_whose_error_is_swallowed(self) -> None:
        """On trio, the scope that fails to exit is exited, and only the group is left."""
        with suppress(RuntimeError):
            await self.group_inside_a_scope()

    async def generator(self) -> None:
        async def numbers():
            with anyio.CancelScope():
                yield 1

        generator = numbers()
        await anext(generator)
        self.kept.append(generator)

    async def aclose(self) -> None:
        """What was left open is closed by now; generators do not know."""
        for each in self.kept:
            with suppress(RuntimeError, AttributeError):
                await each.aclose()


LEAVES = [
    "scope", "shield", "deadline", "passed_deadline", "cancelled", "group", "many", "group_inside_a_scope", "generator",
]  # fmt: skip


async def nothing() -> None:
    """For those that do not wait."""


async def answer(served: Served, text: str) -> Note | GRPCError:
    try:
        return await served.stub.unary(Note(text))
    except GRPCError as error:
        return error


async def outcome_of(careless: Careless, act: Callable[..., Awaitable[None]]) -> Any:
    """How a call ends whose servicer does `act`; one beside it and some after it are answered as if it were not."""
    going_on = anyio.Event()
    beside: list[Any] = []

    async def method(stream) -> None:
        note = await stream.recv_message()
        if note.text == "careless":
            await act(stream)
        elif note.text == "beside":
            await going_on.wait()
        await stream.send_message(note)

    async def call_beside() -> None:
        beside.append(await answer(served, "beside"))

    async with in_memory(Script(method)) as served:
        assert await answer(served, "first") == Note("first")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_beside)
            await turns()
            outcome = await answer(served, "careless")
            await anyio.sleep(0.03)  # until deadlines have passed that were left behind
            assert [await answer(served, "next") for _ in range(3)] == [Note("next")] * 3
            going_on.set()
        assert beside == [Note("beside")]
        await eventually(lambda: careless.running == 0)
    await careless.aclose()
    return outcome


@pytest.mark.parametrize("then", [nothing, checkpoint, partial(anyio.sleep, 0.03)], ids=["at once", "soon", "later"])
@pytest.mark.parametrize("leave", LEAVES)
async def test_what_is_left_open_ends_its_own_call(leave: str, then: Callable[[], Awaitable[None]]):
    careless = Careless()

    async def act(_: object) -> None:
        await getattr(careless, leave)()
        await then()

    with captured_logs() as log:
        outcome = await outcome_of(careless, act)
    assert isinstance(outcome, GRPCError)
    assert outcome.status is Status.INTERNAL
    assert "still open: leave it in the call that has entered it" in outcome.message
    assert len([line for line in log if isinstance(line.get("error"), LeftOpenError)]) == 1


@pytest.mark.parametrize(
    "raised", [ZeroDivisionError(), GRPCError(Status.NOT_FOUND), SystemExit(3), KeyboardInterrupt()]
)
async def test_it_is_what_the_client_is_told_whatever_the_servicer_raises(raised: BaseException):
    careless = Careless()

    async def act(_: object) -> None:
        await careless.many()
        raise raised

    outcome = await outcome_of(careless, act)
    assert outcome.status is Status.INTERNAL


async def test_a_call_that_was_cancelled_by_its_servicer():
    careless = Careless()

    async def act(stream) -> None:
        await careless.many()
        await stream.cancel()

    assert (await outcome_of(careless, act)).status is Status.CANCELLED


async def test_a_group_that_nothing_tells_of():
    careless = Careless()

    async def act(_: object) -> None:
        await careless.group_whose_error_is_swallowed()
        await checkpoint()

    await outcome_of(careless, act)


async def test_a_stream_of_responses():
    careless = Careless()

    async def streams(stream) -> None:
        await stream.recv_message()
        await stream.send_message(Note("first"))
        await careless.many()
        await stream.send_message(Note("second"))

    async with in_memory(Script(server_streaming=streams)) as served:
        for _ in range(2):
            responses = served.stub.server_streaming(Note("a"))
            assert [await anext(responses), await anext(responses)] == [Note("first"), Note("second")]
            with pytest.raises(GRPCError) as raised:
                await anext(responses)
            assert raised.value.status is Status.INTERNAL
        await eventually(lambda: careless.running == 0)


async def test_a_client_that_goes_while_something_is_open():
    careless, waits = Careless(), anyio.Event()

    async def method(stream) -> None:
        note = await stream.recv_message()
        if note.text == "careless":
            await careless.group()
            waits.set()
            await anyio.sleep_forever()
        await stream.send_message(note)

    async with in_memory(Script(method)) as served:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer, served, "careless")
            await waits.wait()
            tasks.cancel_scope.cancel()
        assert await answer(served, "next") == Note("next")
        await eventually(lambda: careless.running == 0)


async def test_a_server_that_ends_while_something_is_open():
    careless, waits = Careless(), anyio.Event()

    async def method(stream) -> None:
        await stream.recv_message()
        await careless.scope()
        waits.set()
        await anyio.sleep_forever()

    async with in_memory(Script(method)) as served, anyio.create_task_group() as tasks:
        tasks.start_soon(answer, served, "careless")
        await waits.wait()
        await served.server.shutdown(0)


@on_asyncio
@pytest.mark.parametrize("then", [nothing, checkpoint], ids=["at once", "soon"])
async def test_a_task_that_is_asked_to_cancel_itself(anyio_backend, then: Callable[[], Awaitable[None]]):
    async def act(_: object) -> None:
        with suppress(asyncio.CancelledError):
            await then()
            asyncio.current_task().cancel()

    assert await outcome_of(Careless(), act) == Note("careless")


@on_asyncio
async def test_a_task_that_its_servicer_cancels_when_it_is_idle(anyio_backend):
    kept = []

    async def act(_: object) -> None:
        kept.append(asyncio.current_task())
        asyncio.get_running_loop().call_later(0.01, kept[0].cancel)

    assert await outcome_of(Careless(), act) == Note("careless")


async def test_other_code_can_be_kept_from_leaving_something_open():
    careless = Careless()
    async with leaving_nothing(), anyio.create_task_group() as tasks:

        async def run() -> None:
            with pytest.raises(LeftOpenError), leaving_nothing_open():
                await careless.many()
            with pytest.raises(ZeroDivisionError), leaving_nothing_open():
                raise ZeroDivisionError
            with pytest.raises(RuntimeError, match="my own"), leaving_nothing_open():
                raise RuntimeError("my own")
            with leaving_nothing_open():
                await checkpoint()

        tasks.start_soon(run)
        await eventually(lambda: len(careless.kept) == 5 and careless.running == 0)
