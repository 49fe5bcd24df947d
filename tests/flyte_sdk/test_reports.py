"""What a host tells of connectors for flyte-sdk: their own lines, on loops that are not the host's."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from flyte.connectors import Resource
from grpclib import GRPCError
from msgspec import structs

from connectrio import Registry
from connectrio.flyte import HostedConnector
from connectrio.host.host import Host
from connectrio.host.settings import HostSettings
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub, GetTaskRequest, TaskCategory
from connectrio.rpc import Channel
from connectrio.telemetry.attention import needs_attention
from flyte_sdk.harness import META, PATIENCE, Base

LINES = Path(__file__).read_text().splitlines()


def place(comment: str, function: str) -> str:
    """The line of this file that ends with `comment`."""
    [number] = [number for number, line in enumerate(LINES, 1) if line.endswith(f"  # {comment}")]
    return f"{__file__}:{number} in Plugin.{function}"


class Plugin(Base):
    """Awaits, blocks or fails, as the test wants."""

    name = "Plugin"
    task_type_name = "tiny"

    def __init__(self) -> None:
        self.does = "await"
        self.released = threading.Event()

    async def get(self, resource_meta, **kwargs) -> Resource:
        if self.does == "await":
            await asyncio.Event().wait()  # it awaits
        while self.does == "block" and not self.released.is_set():
            time.sleep(0.01)  # it blocks
        raise ConnectionError("no route")  # it fails


@asynccontextmanager
async def hosting(plugin: Plugin, **settings):
    registry = Registry()
    registry.register(HostedConnector.of(plugin))
    local = {"host": "127.0.0.1", "port": 0, "prometheus_port": 0, "watchdog": 3600, "poll_retry": 0, "poll_absorb": 0}
    host = Host(HostSettings(**{**local, **settings}), registry=registry)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(host.serve)
            async with Channel(addresses.target) as channel:
                yield host, AsyncConnectorServiceStub(channel), tasks
            await host.shutdown()


async def poll(stub) -> None:
    with suppress(GRPCError):
        await stub.get_task(GetTaskRequest(resource_meta=META, task_category=TaskCategory(name="tiny")))


async def until(host: Host, is_so):
    while not is_so(report := await host.report()):  # noqa: ASYNC110 - nothing else tells of it
        await anyio.sleep(0.01)
    return report


async def test_where_a_hosted_call_awaits():
    async with hosting(Plugin()) as (host, stub, _):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as polls:
                polls.start_soon(poll, stub)
                await until(host, lambda report: report.calls and report.calls[0].waits == place("it awaits", "get"))
                stacks = await host.stacks()
                [task] = [each for each in stacks if each.kind == "task" and each.what.startswith("on the loop ")]
                assert task.name == "Plugin.get"
                assert any(frame.startswith(place("it awaits", "get")) for frame in task.frames)
                scope.cancel()


async def test_where_a_hosted_call_blocks_its_loop(monkeypatch):
    monkeypatch.setattr("connectrio.host.report._BLOCKED", 0.05)
    plugin = Plugin()
    plugin.does = "block"
    async with hosting(plugin) as (host, stub, tasks):
        tasks.start_soon(poll, stub)
        try:
            blocks = place("it blocks", "get")
            report = await until(
                host, lambda report: report.threads and report.calls and report.calls[0].waits == blocks
            )
            [thread] = report.threads
            assert (thread.runs, thread.stuck_seconds) == ("Plugin.get", None)
            assert thread.loop.endswith(" (home)")
            assert any(frame.startswith(blocks) for frame in thread.stack)
            assert needs_attention(report) == []
            late = structs.replace(report, threads=[structs.replace(thread, seconds=10.0)])
            [attention] = needs_attention(late)
            assert (attention.kind, attention.severity) == ("blocked", "warning")
            assert attention.text.startswith(f"Plugin.get has blocked the event loop {thread.loop} for 10 s, at ")
            names = {each.name for each in await host.stacks() if each.kind == "thread"}
            assert thread.loop in names
        finally:
            plugin.released.set()
        await until(host, lambda report: not report.calls)


async def test_where_a_hosted_call_fails():
    plugin = Plugin()
    plugin.does = "fail"
    async with hosting(plugin) as (host, stub, _):
        await poll(stub)
        [failure] = (await host.report()).failures
        assert failure.place == place("it fails", "get")


@pytest.mark.parametrize("does", ["await", "block"])
async def test_where_a_hosted_call_was_when_its_time_was_up(does, monkeypatch):
    monkeypatch.setattr("connectrio.flyte._loop_pool._CANCEL_TIMEOUT", 0.05 if does == "block" else PATIENCE)
    plugin = Plugin()
    plugin.does = does
    async with hosting(plugin, get_limit=0.2) as (host, stub, _):
        await poll(stub)
        plugin.released.set()
        [failure] = (await host.report()).failures
        assert failure.status == "DEADLINE_EXCEEDED"
        assert failure.place == place(f"it {does}s", "get")
