"""Clients that send more frames at once than a server acts on in one round, and what is left of connections."""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack

import anyio
import pytest

from connectrio.rpc import Server
from connectrio.rpc._http2.server_side import ServerConnection
from connectrio.rpc._server.turns import Turns
from rpc.kit.raw import raw_client
from rpc.kit.script import Note, Script
from rpc.kit.serving import eventually, in_memory, turns

BUSY = 50


@pytest.mark.parametrize("frames", [1000, 3000])
async def test_many_busy_clients_do_not_keep_a_call_waiting(frames, monkeypatch):
    """The first frames are as many as a client may send in a turn without waiting, the others go through turns."""
    busy = 0

    def process(connection: ServerConnection, most: int) -> bool:
        nonlocal busy
        has_more = original(connection, most)
        busy += has_more
        return has_more

    original = ServerConnection.process
    monkeypatch.setattr(ServerConnection, "process", process)
    async with in_memory(Script()) as served, AsyncExitStack() as stack:
        await served.stub.unary(Note("connected"))
        clients = [await stack.enter_async_context(raw_client(served.server)) for _ in range(BUSY)]
        for client in clients:
            await client.send(client.make.request(1), frames * client.make.data(1, b"x"))
        await turns(3)
        before = busy
        assert await served.stub.unary(Note("x")) == Note("x")
        assert busy - before < BUSY  # not a turn for each of them
        assert before > 0
        for client in clients:
            await client.transport.aclose()


async def test_addresses_come_one_after_the_other():
    came: list[str] = []
    all_turns = Turns()

    async def one(address: str | None, name: str) -> None:
        async with all_turns.of(address):
            came.append(name)

    async with anyio.create_task_group() as tasks, all_turns.of("other"):
        for number in range(5):
            tasks.start_soon(one, "crowd", f"crowd {number}")
            await turns()
        for address in "alone", None:
            tasks.start_soon(one, address, address or "no address")
            await turns()
        assert came == []
    assert came == ["crowd 0", "alone", "no address", "crowd 1", "crowd 2", "crowd 3", "crowd 4"]


async def test_whoever_is_cancelled_while_waiting_gives_up_its_turn():
    all_turns = Turns()
    b = all_turns.of("b")
    async with anyio.create_task_group() as tasks:
        async with all_turns.of("a"):
            waiting = anyio.CancelScope()

            async def wait() -> None:
                with waiting:
                    async with b:
                        raise AssertionError

            tasks.start_soon(wait)
            await turns()
            waiting.cancel()
            await turns()
        with anyio.fail_after(5):
            async with b:
                pass


async def test_nothing_refers_to_a_connection_that_is_over():
    """No cycle keeps it, and what it has not read, until a collection."""

    def connections() -> int:
        return sum(type(each) is ServerConnection for each in gc.get_objects())

    server = Server([Script()])
    gc.collect()
    before = connections()
    gc.disable()
    try:
        for _ in range(5):
            async with raw_client(server) as client:
                # for a call that is refused, so that none is cancelled: on trio, that may leave cycles of trio's own
                await client.send(client.make.request(1, "/not/there"), 5000 * client.make.data(1, b"x"))
                await turns()
                await client.transport.aclose()
            await eventually(lambda: not len(server._connections))
        await eventually(lambda: connections() <= before)
    finally:
        gc.enable()
