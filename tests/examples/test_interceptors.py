"""The interceptors of docs/how-to/interceptors.md do what the page says."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthStub
from connectrio.rpc import GRPCError, Health, Server, ServingStatus, Status, current_call
from connectrio.rpc.testing import memory_channel
from examples.interceptors.auth import require_token, send_token
from examples.interceptors.call_log import log_calls
from examples.interceptors.metrics import measure
from examples.interceptors.retry import retry
from rpc.kit.script import SERVER_STREAMING, UNARY, Note, ScriptBase, ScriptStub
from rpc.kit.serving import eventually
from rpc.kit.virtual_time import in_virtual_time


@asynccontextmanager
async def serving(servicer: Any, ours: Any = (), theirs: Any = ()) -> AsyncIterator[ScriptStub]:
    server = Server([servicer, healthy()], interceptors=ours)
    async with memory_channel(server, interceptors=theirs) as channel:
        yield ScriptStub(channel)
        await eventually(lambda: server.active_calls == 0)


def healthy() -> Health:
    health = Health()
    health.set("", ServingStatus.SERVING)
    return health


class WhoAmI(ScriptBase):
    async def unary(self, note: Note) -> Note:
        return Note(current_call().state["user"])


async def test_a_token_opens_the_door():
    require = require_token({"t0ken": "ann", "other": "bob"})
    async with serving(WhoAmI(), [require], [send_token("t0ken")]) as stub:
        assert await stub.unary(Note()) == Note("ann")


@pytest.mark.parametrize("sent", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic t0ken"}])
async def test_without_it_the_door_stays_shut_but_for_health(sent):
    async with serving(WhoAmI(), [require_token({"t0ken": "ann"})]) as stub:
        with pytest.raises(GRPCError, match="authorization: Bearer TOKEN") as caught:
            await stub.unary(Note(), metadata=sent)
        assert caught.value.status is Status.UNAUTHENTICATED
        assert (await HealthStub(stub.channel).check(HealthCheckRequest())).status is ServingStatus.SERVING


async def test_each_call_has_a_line_in_the_log(caplog):
    class Failing(ScriptBase):
        async def unary(self, note: Note) -> Note:
            raise GRPCError(Status.NOT_FOUND, "no such note")

    async with serving(Failing(), [log_calls], [log_calls]) as stub:
        with caplog.at_level(logging.INFO, logger="calls"):
            assert len([note async for note in stub.server_streaming(Note("abc"))]) == 3
            with pytest.raises(GRPCError):
                await stub.unary(Note())
    lines = [record.getMessage() for record in caplog.records if record.name == "calls"]
    texts = [(line.partition(":")[0], line.partition(":")[2].split()[0], line.partition(" s, ")[2]) for line in lines]
    assert sorted(texts) == [
        (SERVER_STREAMING, "OK", "1 sent, 3 received"),
        (SERVER_STREAMING, "OK", "3 sent, 1 received"),
        (UNARY, "NOT_FOUND", "0 sent, 1 received (no such note)"),
        (UNARY, "NOT_FOUND", "1 sent, 0 received (no such note)"),
    ]


async def test_calls_are_counted_by_method_and_status():
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"greeter_{name}", {"method": UNARY, **labels}) or 0.0

    before = value("calls_total", status="OK"), value("call_seconds_count")
    running = []

    class Looking(ScriptBase):
        async def unary(self, note: Note) -> Note:
            running.append(value("calls_running"))
            return note

    async with serving(Looking(), [measure]) as stub:
        await stub.unary(Note())
    assert (value("calls_total", status="OK"), value("call_seconds_count")) == (before[0] + 1, before[1] + 1)
    assert running == [1.0]
    assert value("calls_running") == 0.0


class Flaky(ScriptBase):
    """Succeeds at the third call."""

    def __init__(self, status: Status = Status.UNAVAILABLE) -> None:
        self.calls = 0
        self.status = status

    async def unary(self, note: Note) -> Note:
        self.calls += 1
        if self.calls < 3:
            raise GRPCError(self.status, "not now")
        return note


@in_virtual_time
async def test_a_call_is_made_again_until_it_succeeds():
    flaky = Flaky()
    async with serving(flaky, (), [retry()]) as stub:
        assert await stub.unary(Note("a")) == Note("a")
        assert [note.text async for note in stub.server_streaming(Note("ab"))] == ["a", "b"]
    assert flaky.calls == 3


@in_virtual_time
@pytest.mark.parametrize(
    ("status", "options", "calls"),
    [(Status.NOT_FOUND, {}, 1), (Status.UNAVAILABLE, {"attempts": 2}, 2), (Status.ABORTED, {"statuses": ()}, 1)],
)
async def test_other_statuses_and_the_last_attempt_reach_the_caller(status, options, calls):
    flaky = Flaky(status)
    async with serving(flaky, (), [retry(**options)]) as stub:
        with pytest.raises(GRPCError, match="not now"):
            await stub.unary(Note())
    assert flaky.calls == calls
