"""When calls of a package may leave their home loop, and which errors come from leaving it."""

from __future__ import annotations

import asyncio

import pytest

from connectrio.flyte._proof import Permission, Proof, comes_from_loop


def proof():
    return Proof(lambda loops: None, lambda: None)


def test_a_method_leaves_after_a_success_and_a_search():
    one = proof()
    assert one.permission("get") is Permission.WAIT
    one.ended("get", None, at_home=False)
    assert one.permission("get") is Permission.WAIT, "what a call on another loop has opened is not at home"
    one.ended("get", None, at_home=True)
    assert one.permission("get") is Permission.SEARCH
    assert one.permission("get") is Permission.WAIT, "somebody searches"
    assert not one.may_leave("get")
    one.searched(None)
    assert one.permission("get") is Permission.LEAVE
    assert one.may_leave("get")
    assert one.permission("create") is Permission.WAIT
    one.ended("create", None, at_home=True)
    assert one.permission("create") is Permission.SEARCH
    assert one.permission("get") is Permission.LEAVE
    one.searched("a lock")
    assert one.is_refuted
    assert one.permission("get") is Permission.WAIT
    assert not one.may_leave("get")


def test_a_failure_asks_for_another_success():
    """A package may have dropped its session, and a search would find none."""
    one = proof()
    one.ended("get", None, at_home=True)
    one.ended("create", OSError("gone"), at_home=True)
    assert one.permission("get") is Permission.WAIT
    one.ended("get", None, at_home=True)
    assert one.permission("get") is Permission.SEARCH
    one.ended("create", OSError("gone during the search"), at_home=True)
    one.searched(None)
    assert one.permission("get") is Permission.WAIT


def test_what_is_proved_may_fail():
    """When the other system is away, calls that wait for it in vain must not wait for each other too."""
    one = proof()
    one.ended("get", None, at_home=True)
    assert one.permission("get") is Permission.SEARCH
    one.searched(None)
    one.ended("get", OSError("gone"), at_home=True)
    assert one.permission("get") is Permission.SEARCH, "two have ended, twice as many as at the last search"
    one.searched(None)
    assert one.permission("get") is Permission.LEAVE


def error_of(coroutine):
    """Return the error of a coroutine on a loop of its own."""
    with pytest.raises(RuntimeError) as caught:
        asyncio.run(coroutine)
    return caught.value


async def wait_for(future):
    await future


async def acquire(lock):
    async with lock:
        await asyncio.wait([asyncio.ensure_future(lock.acquire())], timeout=0.01)


def test_the_errors_of_asyncio():
    loop, lock = asyncio.new_event_loop(), asyncio.Lock()
    assert comes_from_loop(error_of(wait_for(loop.create_future())))
    loop.close()
    asyncio.run(acquire(lock))
    asyncio.run(acquire(other := asyncio.Lock()))
    lock._locked = other._locked = True
    assert comes_from_loop(error_of(wait_for(lock.acquire())))


@pytest.mark.parametrize(
    "text",
    [
        "alru_cache is not safe to use across event loops: this cache was first used with a different event loop.",
        "Timeout context manager should be used inside a task",
        "Non-thread-safe operation invoked on an event loop other than the current one",
        "The future belongs to a different loop than the one specified as the loop argument",
    ],
)
def test_the_errors_of_others(text):
    assert comes_from_loop(RuntimeError(text))


@pytest.mark.parametrize("error", [None, RuntimeError("Event loop is closed"), ValueError("a loop"), TimeoutError()])
def test_other_errors(error):
    assert not comes_from_loop(error)


def test_errors_in_a_circle():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__context__ = other, one
    assert not comes_from_loop(one)
    other.__cause__ = RuntimeError("attached to a different loop")
    assert comes_from_loop(one)
