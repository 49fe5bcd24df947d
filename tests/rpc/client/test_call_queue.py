"""Calls that wait for a stream: first come, first served, whoever leaves."""

from __future__ import annotations

import anyio
import pytest

from connectrio.rpc._client.channel import CallQueue
from rpc.kit.serving import turns


class Slots:
    """Takes a slot for each of some calls, as a channel takes streams.

    :ivar waits: how often a call began to wait
    """

    def __init__(self) -> None:
        self.queue = CallQueue()
        self.free = 0
        self.waits = 0
        self.served: list[str] = []
        self.left: list[str] = []

    async def take(self, name: str) -> None:
        try:
            with self.queue.place() as place:
                while not (self.queue.is_first(place) and self.free):
                    self.waits += 1
                    await place.wait()
                self.free -= 1
                self.served.append(name)
        except anyio.get_cancelled_exc_class():
            self.left.append(name)
            raise

    def release(self, count: int = 1) -> None:
        self.free += count
        self.queue.wake_first()


@pytest.fixture
async def slots():
    return Slots()


async def in_line(tasks, slots: Slots, names: str) -> dict[str, anyio.CancelScope]:
    scopes = {}
    for name in names:
        scopes[name] = anyio.CancelScope()

        async def take(name: str = name) -> None:
            with scopes[name]:
                await slots.take(name)

        tasks.start_soon(take)
        await turns(3)
    return scopes


async def test_first_come_first_served(slots):
    async with anyio.create_task_group() as tasks:
        await in_line(tasks, slots, "abcdef")
        slots.release(3)
        await turns()
        assert slots.served == ["a", "b", "c"]
        for _ in range(3):
            slots.release()
        await turns()
    assert slots.served == list("abcdef")
    assert not slots.queue


async def test_who_comes_late_waits_behind_even_when_there_is_a_slot(slots):
    async with anyio.create_task_group() as tasks:
        await in_line(tasks, slots, "ab")
        slots.release(2)
        tasks.start_soon(slots.take, "c")  # comes before a and b were told
        await turns()
        assert slots.served == ["a", "b"]
        slots.release()


@pytest.mark.parametrize("leaver", "abc")
async def test_who_is_cancelled_takes_nobody_elses_turn(slots, leaver):
    async with anyio.create_task_group() as tasks:
        scopes = await in_line(tasks, slots, "abc")
        scopes[leaver].cancel()
        await turns()
        slots.release(2)
        await turns()
    assert slots.left == [leaver]
    assert slots.served == [name for name in "abc" if name != leaver]


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_cancelled_in_the_moment_of_its_turn_the_next_one_has_it(slots, cancel_first):
    async with anyio.create_task_group() as tasks:
        scopes = await in_line(tasks, slots, "ab")
        if cancel_first:
            scopes["a"].cancel()
            slots.release()
        else:
            slots.release()
            scopes["a"].cancel()
        await turns()
        assert slots.served + slots.left in (["b", "a"], ["a"])
        if slots.served == ["a"]:
            slots.release()
    assert slots.free == 0
    assert "b" in slots.served


async def test_everybody_looks_when_something_concerns_all(slots):
    looked = []

    async def look(name: str) -> None:
        with slots.queue.place() as place:
            await place.wait()
            looked.append(name)

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(look, name)
        await turns()
        slots.queue.wake_all()
    assert sorted(looked) == ["a", "b", "c"]


def test_an_empty_queue_takes_no_notice():
    queue = CallQueue()
    queue.wake_first()
    queue.wake_all()
    assert not queue


async def test_ten_thousand_in_line_are_no_slower_each(slots):
    """The cost of leaving at the front must not grow with the length of the queue."""
    async with anyio.create_task_group() as tasks:
        for number in range(10_000):
            tasks.start_soon(slots.take, str(number))
        await turns(3)
        slots.release(10_000)
    assert len(slots.served) == 10_000
    assert slots.waits <= 10_000, "each is woken once, when it is its turn"
