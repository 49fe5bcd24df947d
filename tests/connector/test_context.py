"""What a connector may know of the call that it answers."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from contextvars import copy_context

import anyio
import pytest
from multidict import MultiDict

from connectrio import CurrentCall, current_call
from connectrio.connector.context import Start, reset_current_call, set_creation, set_current_call


def answering(timeout: float | None = 3600) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    metadata = MultiDict({"authorization": "Bearer hunter2", "x-tenant": "blue"})
    set_current_call("10.0.0.1:5", metadata, deadline)


async def test_in_a_task():
    answering()
    set_creation("cr-1", Start(anyio.CancelScope(), lambda: 0.0))
    call = current_call()
    assert (call.key, call.peer, call.metadata["x-tenant"]) == ("cr-1", "10.0.0.1:5", "blue")
    assert 0 < call.time_remaining() < 3601  # 3600, give or take a float's rounding


async def test_in_a_worker_thread():
    answering()
    set_creation("cr-1", Start(anyio.CancelScope(), lambda: 0.0))
    call = await anyio.to_thread.run_sync(current_call)
    assert (call.key, call.peer) == ("cr-1", "10.0.0.1:5")
    assert 0 < await anyio.to_thread.run_sync(lambda: current_call().time_remaining()) < 3601


async def test_in_the_event_loop_of_another_thread():
    """Its clock may be another one; and the host's event loop, which may be about to end, is not asked."""

    async def ask() -> None:
        remaining.append(current_call().time_remaining())

    answering()
    remaining: list[float] = []
    thread = threading.Thread(target=copy_context().run, args=(asyncio.run, ask()))
    thread.start()
    thread.join()  # blocks the event loop
    assert 0 < remaining[0] < 3601


async def test_a_key_is_taken_back_alone():
    answering()
    token = set_creation("cr-1", Start(anyio.CancelScope(), lambda: 0.0))
    reset_current_call(token)
    assert (current_call().key, current_call().peer) == (None, "10.0.0.1:5")


async def test_without_a_deadline():
    answering(timeout=None)
    assert current_call().time_remaining() is None


async def test_once_the_deadline_has_passed():
    answering(timeout=-math.inf)
    assert current_call().time_remaining() == 0


def test_outside_of_any_call():
    assert current_call() == CurrentCall()
    assert current_call().time_remaining() is None


async def test_its_repr_shows_no_metadata():
    answering()
    assert "hunter2" not in repr(current_call())


@pytest.mark.parametrize("name", ["key", "peer", "metadata"])
def test_it_cannot_be_changed(name):
    with pytest.raises(AttributeError):
        setattr(current_call(), name, "x")
