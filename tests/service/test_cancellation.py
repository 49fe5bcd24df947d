"""A cancelled call: what goes through untouched, and what must not look like a cancellation."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from contextlib import suppress
from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint
from grpclib import GRPCError
from grpclib.const import Status
from multidict import MultiDict
from structlog.testing import capture_logs

from connectrio.rpc.call import Call, Deadline, set_current_call
from service.harness import LIMITS, OPERATIONS, Service, connector, failing, log_lines

every_operation = pytest.mark.parametrize("operation", OPERATIONS)

# seconds; a power of two, which a clock that has run for months adds without rounding
SHORT = 2**-6


def deadline_of_the_client(limited: bool) -> float:
    """Soon, unless the host's own limit is what must act."""
    return math.inf if limited else anyio.current_time() + SHORT


class Sleeper:
    """Methods that wait for ever, and say what became of them."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.ended: list[str] = []

    def connector(self, **more):
        async def sleep(_self, **kwargs):
            self.started.set()
            try:
                await anyio.sleep_forever()
            except BaseException as error:
                self.ended.append(type(error).__name__)
                raise

        return connector(**dict.fromkeys(OPERATIONS, sleep), **more)


@every_operation
async def test_the_clients_cancellation_passes_through(operation):
    sleeper = Sleeper()
    service = Service(sleeper.connector())
    with anyio.CancelScope() as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.call, operation)
            await sleeper.started.wait()
            client.cancel()
    assert client.cancelled_caught
    assert len(sleeper.ended) == 1
    assert "Cancelled" in sleeper.ended[0]
    assert service.count(operation, "499") == 1


@every_operation
async def test_a_cancellation_long_before_the_deadline_is_no_deadline(operation):
    sleeper = Sleeper()
    service = Service(sleeper.connector())
    set_current_call(Call("/x", MultiDict(), deadline=Deadline.from_timeout(3600)))
    with anyio.CancelScope() as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.call, operation)
            await sleeper.started.wait()
            client.cancel()
    assert service.count(operation, "499") == 1


@every_operation
async def test_the_clients_deadline(operation):
    sleeper = Sleeper()
    service = Service(sleeper.connector())
    deadline = Deadline.from_timeout(0.02)
    set_current_call(Call("/x", MultiDict(), deadline=deadline, peer="", user_agent=None))
    with anyio.CancelScope(deadline=deadline.at) as scope, capture_logs() as logs:
        await service.call(operation)
    assert scope.cancelled_caught
    assert service.count(operation, "504") == 1
    [line] = logs
    assert (line["event"], line["log_level"], line["status"]) == ("call cancelled", "info", "DEADLINE_EXCEEDED")


@every_operation
async def test_the_hosts_limit(operation):
    sleeper = Sleeper()
    service = Service(sleeper.connector(), **dict.fromkeys(LIMITS, SHORT))
    with pytest.raises(GRPCError) as caught:
        await service.call(operation)
    assert caught.value.status is Status.DEADLINE_EXCEEDED
    setting = dict(zip(["create", "get", "delete", "get_metrics", "get_logs"], LIMITS, strict=True))[operation]
    assert (
        f"tiny task: stopped after {SHORT} s, this host's own limit for {operation} ({setting});"
        in caught.value.message
    )
    assert len(sleeper.ended) == 1
    assert service.count(operation, "504") == 1


async def test_the_hosts_limit_when_all_workers_are_busy():
    release = threading.Event()
    service = Service(connector(get=lambda self, **kwargs: None), get_limit=0.01, worker=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(service.workers.run, release.wait, name="another call", owner="tiny"))
        while not service.workers.busy:
            await checkpoint()
        try:
            with pytest.raises(GRPCError, match="all 1 worker threads were busy: the host may need more"):
                await service.get()
        finally:
            release.set()


async def test_the_hosts_limit_when_all_workers_are_stuck(gate):
    """More threads would not help, so the text does not say that."""
    service = Service(connector(get=lambda self, **kwargs: None), get_limit=0.01, worker=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(service.workers.run, gate.pass_through, name="Tiny.get", owner="tiny"))
        await gate.wait_entered()
        tasks.cancel_scope.cancel()
    told = "worker threads are stuck in calls that nobody waits for any more (1 in Tiny.get)"
    with pytest.raises(GRPCError, match=re.escape(told)):
        await service.get()
    assert service.sample("stuck_threads", method="Tiny.get") == 1
    gate.open()
    await service.workers.wait_idle()
    assert service.sample("stuck_threads", method="Tiny.get") == 0


@every_operation
async def test_no_limit(operation):
    async def soon(self, **kwargs):
        raise TimeoutError("the connector's own")

    service = Service(connector(**dict.fromkeys(OPERATIONS, soon)), **dict.fromkeys(LIMITS, math.inf))
    with pytest.raises(GRPCError, match="the connector's own") as caught:
        await service.call(operation)
    assert caught.value.status is Status.INTERNAL


@every_operation
@pytest.mark.parametrize("limited", [False, True], ids=["client", "host"])
async def test_a_connector_that_turns_its_cancellation_into_an_error(operation, limited):
    async def stubborn(self, **kwargs):
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            raise RuntimeError("interrupted") from error

    service = Service(
        connector(**dict.fromkeys(OPERATIONS, stubborn)),
        **dict.fromkeys(LIMITS, SHORT if limited else math.inf),
    )
    with anyio.CancelScope(deadline=deadline_of_the_client(limited)) as scope:
        with pytest.raises(GRPCError) as caught, capture_logs() as logs:
            await service.call(operation)
        assert caught.value.status is (Status.DEADLINE_EXCEEDED if limited else Status.INTERNAL)
        assert "interrupted" in logs[0]["exception"]
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught is not limited


@every_operation
@pytest.mark.parametrize("limited", [False, True], ids=["client", "host"])
async def test_a_cancellation_in_a_group(operation, limited):
    """A task of the connector's fails while the call is being cancelled."""

    async def fail():
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("while unwinding")

    async def group(self, **kwargs):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            await anyio.sleep_forever()

    service = Service(
        connector(**dict.fromkeys(OPERATIONS, group)),
        **dict.fromkeys(LIMITS, SHORT if limited else math.inf),
    )
    with (
        suppress(ExceptionGroup),
        anyio.CancelScope(deadline=deadline_of_the_client(limited)),
        pytest.raises((GRPCError, BaseExceptionGroup)) as caught,
    ):
        await service.call(operation)
    if limited:
        assert caught.value.status is Status.DEADLINE_EXCEEDED
        assert service.count(operation, "504") == 1


@every_operation
async def test_a_group_with_the_cancellation_itself_passes_through(operation):
    class Own(BaseExceptionGroup):
        pass

    async def group(self, **kwargs):
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as cancelled:
            raise Own("both", [cancelled, ValueError("x")]) from None

    service = Service(connector(**dict.fromkeys(OPERATIONS, group)))
    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(BaseExceptionGroup) as caught:
            await service.call(operation)
        assert "both" in str(caught.value)
    assert service.count(operation, "499") == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@every_operation
async def test_a_cancelled_future_is_no_cancelled_call(operation, anyio_backend):
    async def waits(self, **kwargs):
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    service = Service(connector(**dict.fromkeys(OPERATIONS, waits)))
    with pytest.raises(GRPCError, match="CancelledError") as caught:
        await service.call(operation)
    assert caught.value.status is Status.INTERNAL


@every_operation
async def test_a_connector_may_cancel_a_scope_of_its_own(operation):
    async def moves_on(self, **kwargs):
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        raise LookupError("after the scope")

    with pytest.raises(GRPCError, match="after the scope"):
        await Service(connector(**dict.fromkeys(OPERATIONS, moves_on))).call(operation)


async def test_the_nearer_of_both_deadlines_counts():
    """Both have passed when the connector gives in: then it is the client's."""

    async def slow(self, **kwargs):
        time.sleep(0.03)
        await anyio.sleep_forever()

    service = Service(connector(get=slow), get_limit=0.01)
    with anyio.move_on_after(0.01) as scope:
        await service.get()
    assert scope.cancelled_caught


async def test_a_client_that_is_gone_while_logs_are_sent():
    async def send(response):
        raise ConnectionResetError("RST_STREAM")

    closed = []

    async def get_logs(self, resource_meta, **kwargs):
        try:
            while True:
                yield log_lines("x")
        finally:
            closed.append(True)

    service = Service(connector(get_logs=get_logs))
    with capture_logs() as logs, pytest.raises(ConnectionResetError):
        await service.get_logs(send=send)
    assert closed == [True]
    assert service.count("get_logs", "499") == 1
    assert [line["event"] for line in logs] == ["call cancelled"]


async def test_a_client_that_is_gone_while_a_line_from_a_thread_is_sent():
    """The call is cancelled while sending fails. On trio, a task group would raise a group of both."""

    async def send(response):
        scope.cancel()
        raise ConnectionResetError("RST_STREAM")

    def get_logs(self, resource_meta, **kwargs):
        while True:
            yield log_lines("x")

    service = Service(connector(get_logs=get_logs))
    with anyio.CancelScope() as scope, suppress(ConnectionResetError):
        await service.get_logs(send=send)
    assert service.count("get_logs", "499") == 1
    await service.workers.wait_idle()


async def test_a_response_that_cannot_be_encoded_is_the_connectors_fault():
    async def send(response):
        raise TypeError("no such field")

    service = Service()
    with pytest.raises(GRPCError, match="no such field") as caught:
        await service.get_logs(send=send)
    assert caught.value.status is Status.INTERNAL


async def test_a_failing_connector_in_a_shielded_scope():
    """A scope of the caller's that shields hides the cancellation from the connector, and its errors are its own."""
    service = Service(failing(lambda: ValueError("boom")))
    with anyio.CancelScope() as outer:
        outer.cancel()
        with anyio.CancelScope(shield=True), pytest.raises(GRPCError, match="boom"):
            await service.get()
