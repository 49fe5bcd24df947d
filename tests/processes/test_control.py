"""The messages between the supervisor and its processes."""

from __future__ import annotations

import math
import socket
from pathlib import Path

import anyio
import pytest

from connectrio.connector.failures import LoadFailure
from connectrio.host.samples import Sample
from connectrio.host.settings import HostSettings
from connectrio.processes._worker import _fitting
from connectrio.processes.control import (
    Control,
    Described,
    Failed,
    Order,
    Request,
    ServeOptions,
    Serving,
    Stacks,
    StateReport,
    StatusReport,
    encode,
    read_options,
    receive_order,
    write_options,
)
from connectrio.processes.exposition import Family
from connectrio.processes.exposition import Sample as MetricSample
from connectrio.telemetry.report import StackReport
from host.reports import call, job, report
from rpc.kit.serving import turns

SETTINGS = HostSettings(modules=["a", "b"], tls_cert=Path("/certificate.pem"), logs_limit=None, max_connection_idle=5)
HTTP = [("127.0.0.1", 9090)]
FAMILY = Family("calls", "Calls", "counter", "", [MetricSample("calls_total", {"kind": "get"}, math.inf)])
MESSAGES = [
    Order(1, ServeOptions(SETTINGS, 2, "trio", ["info"], "json"), HTTP),
    Request("report"),
    Order(2, ServeOptions(SETTINGS, 1, "trio", ["info"], "json"), HTTP, LoadFailure("module x", "broken", "x.py:1")),
    Serving(),
    Described([("Hello", "hello (0)", "module x")], [Sample("hello", 0, "x.py", ["--input", "n=1"])], ["duckdb: no"]),
    Failed("no such module: ∅"),
    Failed("x: NameError (x.py:1)", "   1 | y"),
    StateReport("serving", True, 3, [LoadFailure("module x", "ImportError", "broken")], [FAMILY], ["draining"]),
    StatusReport(report(jobs=[job()], calls=[call()], lag=math.inf)),
    Stacks([StackReport(kind="thread", name="t", what="", frames=["a.py:1 in f"])]),
]


async def pair():
    return [await Control.over(end) for end in socket.socketpair()]


async def test_messages_arrive_as_they_were_sent():
    ours, theirs = await pair()
    async with anyio.create_task_group() as tasks:
        for message in MESSAGES:
            tasks.start_soon(ours.send, message)
        received = [await theirs.receive() for _ in MESSAGES]
    assert len(received) == len(MESSAGES)
    assert all(message in received for message in MESSAGES)
    await ours.aclose()
    assert await theirs.receive() is None
    await theirs.aclose()


@pytest.mark.parametrize("turns_before", range(4))
async def test_a_receive_that_is_cancelled_as_a_message_comes(turns_before: int):
    """The event loop has nothing to report, which would fail this test."""
    for _ in range(5):
        ours, theirs = await pair()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ours.receive)
            await turns(10)
            await theirs.send(Serving())
            await turns(turns_before)
            tasks.cancel_scope.cancel()
        await ours.aclose()
        await theirs.aclose()


async def test_texts_that_utf_8_cannot_encode():
    """A connector that cannot be loaded with such an error must not end the process at each of its reports."""
    ours, theirs = await pair()
    failure = LoadFailure("module x", "ImportError", "broken \ud800")
    sent = [
        StateReport("serving", True, 3, [failure], [FAMILY], []),
        StatusReport(report(jobs=[job(error="a\udcffb", links=(("n\ud800", "u"),))], lag=math.inf)),
    ]
    for message in sent:
        await ours.send(message)
    state, status = [await theirs.receive() for _ in sent]
    assert state == StateReport("serving", True, 3, [LoadFailure("module x", "ImportError", "broken ?")], [FAMILY], [])
    assert status == StatusReport(report(jobs=[job(error="a?b", links=(("n?", "u"),))], lag=math.inf))
    await ours.aclose()
    await theirs.aclose()


async def test_a_message_that_would_end_its_reader_is_not_sent():
    ours, theirs = await pair()
    with pytest.raises(ValueError, match="at most 16777216"):
        await ours.send(Failed("x" * 16 * 1024 * 1024))
    await ours.aclose()
    assert await theirs.receive() is None
    await theirs.aclose()


def test_stacks_fit_into_a_message():
    deep = StackReport(kind="task", name="deep", what="", frames=["x" * 1000] * 100)
    kept = _fitting([deep] * 2000)
    assert 10 < len(kept) < 2000
    assert encode(Stacks(kept))
    assert _fitting([deep] * 10) == [deep] * 10


async def test_nobody_is_told_when_nobody_is_there():
    ours, theirs = await pair()
    await theirs.aclose()
    await ours.send(Request("report"))
    assert await ours.receive() is None
    await ours.aclose()


async def test_a_message_that_was_cut_is_none():
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(encode(Request("report"))[:-1])
    control = await Control.over(theirs)
    assert await control.receive() is None
    await control.aclose()


async def test_a_message_beyond_all_bounds():
    ours, theirs = socket.socketpair()
    control = await Control.over(theirs)
    with ours:
        ours.sendall(b"\xff" * 4)
        with pytest.raises(ValueError, match="a message of 4294967295 bytes"):
            await control.receive()
    await control.aclose()


def test_the_order_is_read_before_there_is_an_event_loop():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode(MESSAGES[0]))
        assert receive_order(theirs) == MESSAGES[0]
        ours.close()
        with pytest.raises(EOFError):
            receive_order(theirs)


def test_options_outlive_the_program_that_wrote_it():
    options = ServeOptions(
        HostSettings(max_connection_age=math.inf, unix_socket=Path("s")), 3, "asyncio", ["debug", "a=info"], "console"
    )
    assert read_options(write_options(options)) == options
