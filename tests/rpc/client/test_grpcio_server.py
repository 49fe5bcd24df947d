"""Against grpcio's server: connections that age, servers that stop, limits and pings."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio import to_thread
from grpclib.const import Status

from connectrio.rpc import Channel, ChannelOptions, ChannelState, GRPCError
from connectrio.rpc._client import retries
from rpc.kit.script import UNARY, Note, ScriptStub
from rpc.kit.serving import PATIENCE, captured_logs, eventually, leaving_nothing

grpc = pytest.importorskip("grpc", reason="needs the package grpcio")


@dataclass
class Grpcio:
    """A server of grpcio's that echoes; "wait" waits for `release`."""

    server: Any
    port: int
    peers: set[str] = field(default_factory=set)
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    release: threading.Event = field(default_factory=threading.Event)

    def echo(self, request: bytes, context: Any) -> bytes:
        self.peers.add(context.peer())
        if request == b"wait":
            self.waiting.release()
            self.release.wait(PATIENCE)
        return request


@asynccontextmanager
async def grpcio(port: int = 0, **options: int) -> AsyncIterator[Grpcio]:
    with ThreadPoolExecutor(8) as workers:
        server = grpc.server(workers, options=[(f"grpc.{name}", value) for name, value in options.items()])
        served = Grpcio(server, server.add_insecure_port(f"127.0.0.1:{port}"))
        method = UNARY.rpartition("/")[2]
        service = UNARY.split("/")[1]
        handlers = {method: grpc.unary_unary_rpc_method_handler(served.echo)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
        server.start()
        try:
            yield served
        finally:
            served.release.set()
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(server.stop(None).wait)


async def test_connections_that_age_lose_no_call():
    """GOAWAY every tenth of a second, with calls in flight all the time."""
    async with leaving_nothing(), grpcio(max_connection_age_ms=100) as served:
        calls = 0
        async with Channel(f"127.0.0.1:{served.port}") as channel:

            async def caller() -> None:
                nonlocal calls
                while len(served.peers) < 8:
                    assert await ScriptStub(channel).unary(Note("still there")) == Note("still there")
                    calls += 1

            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(caller)
        assert calls > 8


async def test_a_server_that_stops_lets_calls_finish_while_its_successor_has_the_new_ones():
    async with leaving_nothing(), grpcio(so_reuseport=1) as old, Channel(f"127.0.0.1:{old.port}") as channel:
        replies = []

        async def slow() -> None:
            replies.append(await ScriptStub(channel).unary(Note("wait")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow)
            await to_thread.run_sync(old.waiting.acquire)
            stopped = old.server.stop(PATIENCE)
            assert await channel.wait_for_state_change(ChannelState.READY) is not ChannelState.READY
            async with grpcio(old.port, so_reuseport=1) as new:
                assert await ScriptStub(channel.when_ready).unary(Note("new")) == Note("new")
                assert new.peers
                assert not replies
                old.release.set()
                await eventually(lambda: replies == [Note("wait")])
            await to_thread.run_sync(stopped.wait)


async def test_a_server_that_stops_without_grace_ends_its_calls():
    async with leaving_nothing(), grpcio() as served, Channel(f"127.0.0.1:{served.port}") as channel:
        failed = []

        async def slow() -> None:
            try:
                await ScriptStub(channel).unary(Note("wait"))
            except GRPCError as error:
                failed.append(error.status)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow)
            await to_thread.run_sync(served.waiting.acquire)
            served.server.stop(0)
            await eventually(lambda: bool(failed))
        assert failed[0] in (Status.UNAVAILABLE, Status.CANCELLED)


async def test_more_calls_at_once_than_the_server_allows(monkeypatch: pytest.MonkeyPatch):
    # the server counts a call until its threads let go of it, however long they wait for their turn
    monkeypatch.setattr(retries, "_MAX_REFUSALS", 12)
    async with leaving_nothing(), grpcio(max_concurrent_streams=2) as served:
        replies = []

        async def call(channel: Channel, text: str) -> None:
            replies.append((await ScriptStub(channel).unary(Note(text))).text)

        async with Channel(f"127.0.0.1:{served.port}") as channel, anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(call, channel, str(number))
        assert sorted(replies, key=int) == [str(number) for number in range(100)]
        assert len(served.peers) == 1


async def test_too_many_pings_for_grpcio():
    """The server allows one PING each five minutes, and closes the connection after more."""
    options = ChannelOptions(keepalive_without_calls=True)
    object.__setattr__(options, "keepalive_time", 0.01)  # below the floor, or this would take half a minute
    async with leaving_nothing(), grpcio() as served:
        with captured_logs() as logs:
            async with Channel(f"127.0.0.1:{served.port}", options=options) as channel:
                await channel.wait_until_ready()
                assert await channel.wait_for_state_change(ChannelState.READY) is ChannelState.IDLE
                # the next connection does not ping, or a slow call would be lost with it
                channel._policy._context.keepalive.time = math.inf
                assert await ScriptStub(channel).unary(Note("on")) == Note("on")
    assert [line["keepalive_time"] for line in logs if "too many pings" in line["event"]][:1] == [0.02]
