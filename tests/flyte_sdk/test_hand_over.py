"""How often the threads of a host and of hosted code wake each other, and that no result stays behind."""

from __future__ import annotations

import asyncio
import threading

import anyio
from anyio.lowlevel import checkpoint

from connectrio.flyte._hand_over import HostLoop
from flyte_sdk.test_loops import PATIENCE, a_pool, eventually, home_of

CALLS = 50


async def test_calls_that_begin_and_end_together_need_few_wake_ups(monkeypatch):
    wakes = {"home": 0, "host": 0}
    ended = []

    async def at_once():
        return threading.current_thread().name

    async def call():
        ended.append(await pool.run(at_once, name="at once"))

    async with a_pool() as pool:
        await home_of(pool)
        host = HostLoop.current()
        announce, bring_back = pool._home.call_soon, host._call_from_thread

        def count(side, function):
            def counting(argument):
                wakes[side] += 1
                function(argument)

            return counting

        monkeypatch.setattr(pool._home, "call_soon", count("home", announce))
        monkeypatch.setattr(host, "_call_from_thread", count("host", bring_back))
        async with anyio.create_task_group() as tasks:
            for _ in range(CALLS):
                tasks.start_soon(call)
        monkeypatch.undo()
    assert len(ended) == CALLS
    assert 1 <= wakes["home"] <= CALLS // 4
    assert 1 <= wakes["host"] <= CALLS // 4


async def test_a_call_that_is_alone_is_announced_at_once(monkeypatch):
    """Others wait for a turn of the host's loop, in which more of them may start; so does one that comes after them."""
    delayed = []
    release = threading.Event()

    async def at_once():
        return "done"

    async def wait():
        await anyio.to_thread.run_sync(release.wait, PATIENCE)

    def after_this_turn(host, function):
        delayed.append(function)
        host._call_soon(function)

    async with a_pool() as pool:
        await home_of(pool)
        monkeypatch.setattr(HostLoop, "after_this_turn", after_this_turn)
        for _ in range(3):
            assert await pool.run(at_once, name="at once") == "done"
        assert not delayed
        other = pool.start(lambda _: wait(), name="wait")
        await eventually(lambda: other._thread is not None)
        assert await pool.run(at_once, name="at once") == "done"
        assert delayed
        release.set()
        await other.wait()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(lambda: pool.run(at_once, name="at once"))
        for expected in (True, False):
            delayed.clear()
            await pool.run(at_once, name="at once")
            assert bool(delayed) is expected
        dropped = pool.start(lambda _: at_once(), name="dropped")
        await dropped.cancel()
        assert HostLoop.current().calls == 0


async def test_a_result_does_not_wait_for_a_neighbour_that_blocks():
    """The home loop would bring both results back together."""
    release = threading.Event()

    async def at_once():
        return "quick"

    async def block():
        release.wait(PATIENCE)
        return "blocked"

    async with a_pool() as pool:
        await home_of(pool)
        quick = pool.start(lambda _: at_once(), name="quick")
        slow = pool.start(lambda _: block(), name="slow")
        try:
            await quick.wait()
            assert quick.result() == "quick"
            assert not slow._ended
        finally:
            release.set()
        await slow.wait()
        assert slow.result() == "blocked"


async def test_a_result_does_not_wait_for_a_neighbour_that_blocks_and_is_cancelled():
    """The first one has ended when the second one begins, which is cancelled before it looks after others."""
    held, blocks, release = threading.Event(), threading.Event(), threading.Event()
    go = asyncio.Event()

    async def block():
        blocks.set()
        release.wait(PATIENCE)

    async with a_pool() as pool, anyio.create_task_group() as tasks:
        home = await home_of(pool)
        quick = pool.start(lambda _: go.wait(), name="quick")
        await quick.wait_for_turn()
        home.call_soon_threadsafe(held.wait, PATIENCE)
        home.call_soon_threadsafe(go.set)
        slow = pool.start(lambda _: block(), name="slow")
        try:
            for _ in range(5):
                await checkpoint()
            held.set()
            await eventually(blocks.is_set)
            tasks.start_soon(slow.cancel)
            await eventually(lambda: quick._ended)
            assert not slow._ended
        finally:
            held.set()
            release.set()


async def test_news_that_come_while_others_are_told_are_told_too():
    told = []
    loop = HostLoop.current()

    def first():
        told.append("first")
        loop.add(lambda: told.append("second"))
        loop.wake()

    loop.add(first)
    loop.wake()
    loop.wake()
    await eventually(lambda: len(told) == 2)
    for _ in range(5):
        await checkpoint()
    assert told == ["first", "second"]
