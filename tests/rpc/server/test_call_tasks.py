"""Tasks that answer call after call, and what one call may not do to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from itertools import pairwise

import anyio
import pytest
from anyio.lowlevel import checkpoint

from connectrio.rpc._server.call_tasks import CallTasks
from rpc.kit.script import Note, Script
from rpc.kit.serving import eventually, in_memory, leaving_nothing, turns

variable: ContextVar[object] = ContextVar("variable", default="as it was")


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None


class Stage:
    """Calls that tell which task they ran in."""

    def __init__(self, tasks: CallTasks) -> None:
        self.tasks = tasks
        self.ran: list[tuple[str, object]] = []

    def start(self, name: str, act: Callable | None = None) -> None:
        async def answer() -> None:
            self.ran.append((name, anyio.get_current_task().coro))
            if act is not None:
                await act()

        self.tasks.start(answer)

    async def all_of(self, *names: str) -> list[object]:
        """The tasks (by their coroutines) of these calls, once they have all begun; they begin in this order."""
        await eventually(lambda: len(self.ran) == len(names))
        assert [name for name, _ in self.ran] == list(names)
        return [task for _, task in self.ran]


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    async with leaving_nothing(), anyio.create_task_group() as group:
        stage = Stage(CallTasks(group))
        yield stage
        stage.tasks.close()


async def at_once() -> None:
    """Never waits."""


async def test_calls_that_never_wait_share_a_task():
    async with staged() as stage:
        for name in "abc":
            stage.start(name, at_once)
        tasks = await stage.all_of("a", "b", "c")
        await turns()
        stage.start("later")
        tasks = await stage.all_of("a", "b", "c", "later")
        assert len(set(tasks)) <= 2
        assert tasks[0] == tasks[1] == tasks[2]


async def test_a_call_that_waits_holds_up_no_other():
    going_on = anyio.Event()
    async with staged() as stage:
        for name in "abc":
            stage.start(name, going_on.wait)
        stage.start("d")
        tasks = await stage.all_of("a", "b", "c", "d")
        assert len(set(tasks)) == 4
        going_on.set()


async def test_calls_begin_together_where_calls_have_waited():
    """Otherwise each would begin in a turn of its own, and they would get on one by one."""
    going_on = anyio.Event()
    async with staged() as stage:
        stage.start("waits", checkpoint)
        await stage.all_of("waits")
        await turns()
        for _ in range(10):
            stage.start("together", going_on.wait)
        assert len(stage.ran) == 1
        for _ in range(2):  # trio runs the tasks that are ready in any order
            await checkpoint()
        assert len(stage.ran) == 11
        going_on.set()


async def test_others_have_their_turn_between_many_calls():
    began = []

    async with staged() as stage:
        for _ in range(100):
            stage.start("call")
        while len(stage.ran) < 100:
            began.append(len(stage.ran))
            await checkpoint()
    steps = [after - before for before, after in pairwise([*began, 100])]
    assert max(steps) <= 32, "one share in a turn, and on trio two"
    assert len({task for _, task in stage.ran}) <= 3


@pytest.mark.parametrize("leave", [checkpoint, lambda: anyio.sleep(0.001)])
async def test_a_call_that_has_waited_leaves_its_task_to_nobody(leave: Callable):
    async with staged() as stage:
        for name in "abc":
            stage.start(name, leave)
            await eventually(lambda name=name: stage.ran[-1:] and stage.ran[-1][0] == name)
            await turns()
        waited = await stage.all_of("a", "b", "c")
        assert len(set(waited)) == 3


@pytest.mark.parametrize("value", ["changed", Incomparable()])
async def test_a_call_that_changes_the_context_leaves_its_task_to_nobody(value: object):
    seen = []

    async def change() -> None:
        seen.append(variable.get())
        variable.set(value)

    async def change_back() -> None:
        token = variable.set(value)
        variable.reset(token)

    async with staged() as stage:
        stage.start("same", change_back)
        stage.start("a", change)
        stage.start("b", change)
        same, first, second = await stage.all_of("same", "a", "b")
        assert seen == ["as it was"] * 2
        assert same == first != second


async def test_a_call_that_changes_a_variable_that_was_set_before_leaves_its_task_to_nobody():
    seen = []

    async def change() -> None:
        seen.append(variable.get())
        variable.set("changed")

    token = variable.set("set before")
    try:
        async with staged() as stage:
            stage.start("a", change)
            stage.start("b", change)
            first, second = await stage.all_of("a", "b")
    finally:
        variable.reset(token)
    assert seen == ["set before"] * 2
    assert first != second


async def test_what_a_call_raises_is_raised_where_the_tasks_are():
    async def fail() -> None:
        raise ZeroDivisionError

    async def fail_later() -> None:
        await checkpoint()
        raise ZeroDivisionError

    for act in fail, fail_later:
        with pytest.RaisesGroup(ZeroDivisionError):
            async with staged() as stage:
                stage.start("a", act)
                await anyio.sleep_forever()


async def test_a_call_that_waits_is_cancelled_with_the_tasks():
    cleaned = []

    async def clean_up() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            cleaned.append(True)

    async with leaving_nothing(), anyio.create_task_group() as group:
        stage = Stage(CallTasks(group))
        stage.start("idle")
        stage.start("a", clean_up)
        await stage.all_of("idle", "a")
        await turns()
        group.cancel_scope.cancel()
    assert cleaned == [True]


@pytest.mark.parametrize("idle", [0, 1, 2])
async def test_closed_the_calls_that_were_started_are_answered(idle: int):
    names = [str(number) for number in range(50)]
    async with leaving_nothing(), anyio.create_task_group() as group:
        stage = Stage(CallTasks(group))
        for _ in range(idle * 20):
            stage.start("before")
        await eventually(lambda: len(stage.ran) == idle * 20)
        await turns()
        del stage.ran[:]
        for number, name in enumerate(names):
            stage.start(name, checkpoint if number % 7 == 0 else None)
        stage.tasks.close()
    assert [name for name, _ in stage.ran] == names


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
async def test_whoever_has_got_hold_of_a_calls_task_cannot_hurt_another_call(anyio_backend):
    """A servicer can keep the task that it runs in, and cancel it when it runs no more."""
    kept = []

    async def unary(stream) -> None:
        note = await stream.recv_message()
        if note.text == "keep":
            kept.append(asyncio.current_task())
            await checkpoint()
        if note.text == "cancel":
            await checkpoint()
            kept[0].cancel()
            await checkpoint()
        await stream.send_message(note)

    async with in_memory(Script(unary)) as served:
        for text in "keep", "next", "cancel", "after":
            assert await served.stub.unary(Note(text)) == Note(text)
