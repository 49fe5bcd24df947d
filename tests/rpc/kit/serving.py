"""A whole server for the length of a block, in memory or over loopback, that leaves nothing behind."""

from __future__ import annotations

import gc
import itertools
import logging
import operator
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
import pytest
from anyio.lowlevel import checkpoint

from connectrio.rpc import Channel, ChannelOptions, Server, ServerOptions
from connectrio.rpc.testing import memory_channel
from rpc.kit.script import ScriptStub

# seconds; nothing here takes long, but machines may be slow
PATIENCE = 30.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Give other tasks turns until `condition` is true."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what tests wait for has no event
            await anyio.sleep(0.001)


async def turns(count: int = 20) -> None:
    """Give other tasks some turns, for what must not happen to happen."""
    for _ in range(count):
        await checkpoint()


@contextmanager
def captured_logs() -> Iterator[list[dict[str, Any]]]:
    """Collect what rpc logs: of each line its fields, its text before they are filled in (`event`) and its level."""
    lines: list[dict[str, Any]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert record.getMessage()  # its fields fit into its text
            fields = record.args if isinstance(record.args, dict) else {}
            exc_info = {"exc_info": record.exc_info} if record.exc_info else {}
            lines.append({**fields, "event": record.msg, "log_level": record.levelname.lower(), **exc_info})

    logger = logging.getLogger("connectrio.rpc")
    collector, level = Collector(), logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logger.setLevel(level)
        logger.removeHandler(collector)


@asynccontextmanager
async def cancelled_at_rest() -> AsyncIterator[None]:
    """Cancel the block when it waits for what nobody is about to do."""

    async def cancel() -> None:
        await turns()
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            yield
            tasks.cancel_scope.cancel()


def timeouts() -> Iterator[float]:
    """Seconds, more and more: to be tried until the machine is fast enough for what must happen within them."""
    return itertools.accumulate(itertools.repeat(2), operator.mul, initial=0.05)


@contextmanager
def held_port() -> Iterator[int]:
    """A port of the loopback interface for those that the test lets listen there. Nobody else gets it meanwhile."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else nobody could listen there
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@asynccontextmanager
async def leaving_nothing(patience: float = PATIENCE) -> AsyncIterator[list[Any]]:
    """Fail when the block takes for ever, or when a task that it started is still there after it.

    What is garbage is collected, so that a resource nobody closed warns here and not in another test. What is logged
    is not rendered, which would take longer than most tests; the block gets it as it is.
    """
    before = len(anyio.get_running_tasks())
    with captured_logs() as log, anyio.fail_after(patience):
        yield log
    gc.collect(1)  # what a test made is young
    await eventually(lambda: len(anyio.get_running_tasks()) <= before)


@dataclass
class Served:
    """A server, a channel to it, and the script's stub on that channel."""

    server: Server
    channel: Channel
    stub: ScriptStub


def same_server(channel: Channel) -> Callable[[], Any]:
    """What connects another channel to the server of `channel`."""

    async def connect() -> Any:
        [address] = await channel._target.resolve()
        return await address.connect()

    return connect


Serving: TypeAlias = Callable[..., AbstractAsyncContextManager[Served]]


@asynccontextmanager
async def in_memory(
    *servicers: Any, options: ServerOptions | None = None, channel_options: ChannelOptions | None = None
) -> AsyncIterator[Served]:
    """Serve without a socket."""
    async with leaving_nothing():
        server = Server(servicers, options=options)
        async with memory_channel(server, channel_options) as channel:
            yield Served(server, channel, ScriptStub(channel))
            await eventually(lambda: server.active_calls == 0)


@asynccontextmanager
async def over_tcp(
    *servicers: Any, options: ServerOptions | None = None, channel_options: ChannelOptions | None = None
) -> AsyncIterator[Served]:
    """Serve on a free port of the loopback interface."""
    server = Server(servicers, options=options)
    async with (
        leaving_nothing(),
        listening(server) as port,
        Channel(f"127.0.0.1:{port}", options=channel_options) as channel,
    ):
        yield Served(server, channel, ScriptStub(channel))
        await eventually(lambda: server.active_calls == 0)


@asynccontextmanager
async def listening(server: Server, port: int = 0) -> AsyncIterator[int]:
    """Let `server` listen on the loopback interface; the port."""
    async with anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        [address] = await tasks.start(server.serve, listener)
        yield address[1]
        tasks.cancel_scope.cancel()


in_both_ways = pytest.mark.parametrize("serving", [in_memory, over_tcp])
