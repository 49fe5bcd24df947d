"""Plain methods run in worker threads."""

from __future__ import annotations

import gc
import json
import threading
import time
from contextvars import ContextVar
from functools import partial
from operator import attrgetter

import anyio
import pytest
from anyio.lowlevel import checkpoint
from grpclib import GRPCError
from structlog.testing import capture_logs

from connectrio import TransientError
from connectrio.logs import configure_logging, line_fields
from connectrio.service import workers as workers_module
from connectrio.service.workers import Workers, _Run
from rpc.kit.virtual_time import in_virtual_time
from service.harness import LIMITS, OPERATIONS, PATIENCE, Gate, Service, connector, log_lines

variable: ContextVar[str] = ContextVar("variable")


async def abandon(workers: Workers, gate: Gate, function=None) -> None:
    """Start a job, wait until its thread runs, and cancel whoever waits for it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(workers.run, function or gate.pass_through, name="job"))
        await gate.wait_entered()
        tasks.cancel_scope.cancel()


def test_there_is_at_least_one():
    with pytest.raises(ValueError, match="at least one worker thread, not 0"):
        Workers(0)


async def test_result_and_error():
    workers = Workers(1)
    assert await workers.run(threading.current_thread, name="job") is not threading.current_thread()
    with pytest.raises(SystemExit):
        await workers.run(partial(exec, "raise SystemExit"), name="job")
    assert workers.busy == 0


async def test_a_limiter_made_outside_of_an_event_loop():
    workers = await anyio.to_thread.run_sync(Workers, 1)
    assert await workers.run(lambda: 5, name="job") == 5


async def test_no_more_than_the_limit_at_once(gate):
    workers = Workers(2)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(partial(workers.run, gate.pass_through, name="job"))
        await gate.wait_entered(2)
        await anyio.wait_all_tasks_blocked()
        assert workers.busy == 2
        assert not gate.entered.acquire(blocking=False)
        gate.open()
    assert workers.busy == 0


async def test_an_abandoned_thread_is_busy_until_it_ends(gate):
    workers = Workers(1)
    with capture_logs() as logs:
        await abandon(workers, gate)
        assert workers.busy == 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(workers.run, lambda: 5, name="next"))
            await anyio.wait_all_tasks_blocked()
            assert workers.busy == 1
            gate.open()
        await workers.wait_idle()
    [line] = logs
    assert line["event"] == "a worker thread ended after its call, and kept a worker busy until then"
    assert (line["method"], line["raised"]) == ("job", None)


async def test_what_an_abandoned_thread_raises_is_logged(gate):
    def fails():
        gate.pass_through()
        raise SystemExit("hunter2")

    workers = Workers(1)
    with capture_logs() as logs:
        await abandon(workers, gate, fails)
        gate.open()
        await workers.wait_idle()
    assert logs[0]["raised"] == "SystemExit"
    assert "hunter2" not in str(logs)


async def test_a_coroutine_that_nobody_waits_for_any_more(gate):
    """It is closed: no warning about one that was never awaited."""

    async def coroutine():
        pass

    def returns_coroutine():
        return gate.pass_through(coroutine())

    workers = Workers(1)
    await abandon(workers, gate, returns_coroutine)
    gate.open()
    await workers.wait_idle()
    gc.collect()


async def test_cancelled_while_waiting_for_a_worker(gate):
    workers = Workers(1)
    ran = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(workers.run, gate.pass_through, name="job"))
        await gate.wait_entered()
        with anyio.move_on_after(0.01) as scope:
            await workers.run(partial(ran.append, 1), name="never")
        assert scope.cancelled_caught
        gate.open()
    await workers.wait_idle()
    assert not ran


async def test_cancelled_before_the_thread_starts():
    workers = Workers(1)
    ran = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await workers.run(partial(ran.append, 1), name="never")
    assert workers.busy == 0
    assert not ran


async def test_a_run_that_is_abandoned_before_its_thread_comes_to_it_never_runs():
    ran, freed = [], []
    run = _Run(partial(ran.append, 1), "job", "", freed.append)
    run.abandon()
    run()
    assert (ran, freed) == ([], [run])


async def test_a_run_that_is_abandoned_after_its_thread_has_ended_is_freed_once():
    async def coroutine():
        pass

    freed = []
    run = _Run(coroutine, "job", "", freed.append)
    run()
    run.abandon()
    assert freed == [run]
    gc.collect()


async def test_an_abandoned_thread_does_not_wait_for_the_event_loop(gate):
    """The event loop may be about to end: Python would wait for the thread, and the thread for the event loop."""
    freed = []
    run = _Run(gate.pass_through, "job", "", freed.append)
    thread = threading.Thread(target=run)
    thread.start()
    await gate.wait_entered()
    run.abandon()
    gate.open()
    thread.join(PATIENCE)  # blocks the event loop
    assert not thread.is_alive()
    assert not freed
    while not freed:
        await checkpoint()
    assert freed == [run]


@pytest.fixture
def lost_at_once(monkeypatch):
    """A stuck thread counts as lost without a minute's wait."""
    monkeypatch.setattr(workers_module, "_LOST_AFTER", 0.0)


async def test_another_thread_takes_the_place_of_one_that_does_not_come_back(gate, lost_at_once):
    workers = Workers(1)
    await abandon(workers, gate)
    with capture_logs() as logs:
        assert await workers.run(lambda: 5, name="next") == 5
    [line] = logs
    assert line["event"] == "a worker thread does not come back; another one takes its place"
    assert line["method"] == "job"
    assert "in pass_through" in line["stack"]
    [(name, _, stack)] = workers.stuck()
    assert name == "job"
    assert "in pass_through" in stack
    gate.open()
    while list(workers.stuck()):  # noqa: ASYNC110 - it happens in a thread
        await anyio.sleep(0.01)
    assert workers.busy == 0


async def test_the_line_of_a_lost_thread_has_the_fields_of_its_call(gate, lost_at_once, capsys):
    configure_logging("info", "json")
    workers = Workers(1)
    token = line_fields.set(lambda: {"execution": "lost"})
    await abandon(workers, gate)
    line_fields.reset(token)
    token = line_fields.set(lambda: {"execution": "next", "attempt": 1})
    await workers.run(lambda: 5, name="next")
    line_fields.reset(token)
    lines = map(json.loads, capsys.readouterr().err.splitlines())
    [line] = [line for line in lines if line["event"].startswith("a worker thread does not come back")]
    assert (line["execution"], "attempt" in line) == ("lost", False)


async def test_a_connector_that_has_lost_all_its_threads_is_unavailable(gate, lost_at_once):
    workers = Workers(2)
    for _ in range(4):
        await abandon(workers, gate)
    with pytest.raises(TransientError, match="stuck in job, 4 of them; give the connector's client a time-out"):
        await workers.run(lambda: 5, name="next")
    assert await workers.run(lambda: 5, name="another's", owner="another") == 5
    gate.open()
    await workers.wait_idle()
    assert await workers.run(lambda: 5, name="next") == 5
    assert workers.busy == 0


HOST_WORK = {
    "reading stored inputs": "_inputs._readers",
    "converting large inputs": "_inputs._converters",
    "writing outputs": "_outputs._writers",
}


@pytest.mark.parametrize("name", HOST_WORK)
async def test_threads_of_the_hosts_own_are_shown_and_their_loss_blames_no_connector(name, gate, lost_at_once):
    service = Service()
    workers = attrgetter(HOST_WORK[name])(service.servicer)
    for _ in range(2 * workers.limit):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(workers.run, gate.pass_through, name=name))
            await gate.wait_entered()
            tasks.cancel_scope.cancel()
    assert service.sample("stuck_threads", task_type="", method=name) == 2 * workers.limit
    assert [(ran, "in pass_through" in stack) for ran, _, stack in service.workers.stuck()] == (
        [(name, True)] * 2 * workers.limit
    )
    with pytest.raises(TransientError, match=f"stuck in {name}, .* of them; (find out|report) ") as caught:
        await workers.run(lambda: 5, name=name)
    assert "connector's" not in str(caught.value)
    gate.open()
    while service.sample("stuck_threads", task_type="", method=name):  # noqa: ASYNC110 - it happens in a thread
        await anyio.sleep(0.01)


async def test_a_thread_that_was_stuck_for_less_than_a_minute_is_waited_for(gate):
    workers = Workers(1)
    await abandon(workers, gate)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(workers.run, lambda: 5, name="next"))
        await anyio.wait_all_tasks_blocked()
        assert workers.busy == 1
        gate.open()
    assert workers.busy == 0


async def test_wait_idle_of_the_idle():
    await Workers(1).wait_idle()


async def test_the_thread_can_ask_whether_anybody_waits(gate):
    answers = []

    def asks():
        anyio.from_thread.check_cancelled()
        gate.pass_through()
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - each backend has a class of its own
            anyio.from_thread.check_cancelled()
        answers.append(type(caught.value).__name__)

    workers = Workers(1)
    await abandon(workers, gate, asks)
    gate.open()
    await workers.wait_idle()
    assert len(answers) == 1
    assert "Cancelled" in answers[0]


def test_a_thread_that_outlives_the_event_loop(anyio_backend, gate):
    threads = []

    def outlives():
        threads.append(threading.current_thread())
        gate.pass_through()

    async def main():
        await abandon(Workers(1), gate, outlives)

    name, options = anyio_backend
    with capture_logs() as logs:
        anyio.run(main, backend=name, backend_options=options)
        gate.open()
        [thread] = threads
        end = time.monotonic() + PATIENCE
        while not logs and time.monotonic() < end:
            time.sleep(0.001)
        if name == "asyncio":  # trio keeps its threads for the next job
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert [line["raised"] for line in logs] == [None]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_plain_methods_run_in_a_thread(operation):
    seen = []

    def method(self, **kwargs):
        seen.append((threading.current_thread(), variable.get()))
        raise LookupError("done")

    variable.set("mine")
    service = Service(connector(**{operation: method}))
    with pytest.raises(GRPCError, match="done"):
        await service.call(operation)
    [(thread, value)] = seen
    assert thread is not threading.current_thread()
    assert value == "mine"


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_plain_method_may_return_an_awaitable(operation):
    threads = []

    def method(self, **kwargs):
        async def work():
            threads.append(threading.current_thread())
            raise LookupError("done")

        return work()

    service = Service(connector(**{operation: method}))
    with pytest.raises(GRPCError, match="done"):
        await service.call(operation)
    assert threads == [threading.current_thread()]
    assert service.workers.busy == 0


@in_virtual_time
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_cancelled_call_is_answered_while_its_thread_goes_on(operation, gate):
    """The limit passes once nobody on the event loop has anything to do, so once the method runs."""

    def method(self, **kwargs):
        gate.pass_through()

    async def call():
        with pytest.raises(GRPCError, match="this host's own limit"):
            await service.call(operation)

    service = Service(connector(**{operation: method}), **dict.fromkeys(LIMITS, 60), worker=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        while not gate.entered.acquire(blocking=False):
            await checkpoint()
    assert service.workers.busy == 1
    gate.open()
    while service.workers.busy:
        await checkpoint()


async def test_coroutines_take_no_worker(gate):
    def get(self, **kwargs):
        gate.pass_through()

    service = Service(connector(get=get), worker=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.get)
        await gate.wait_entered()
        await service.create()
        await service.get_logs()
        tasks.cancel_scope.cancel()
    gate.open()
    await service.workers.wait_idle()


async def test_a_plain_generator_holds_one_worker_to_its_end():
    threads = []

    def get_logs(self, **kwargs):
        for number in range(3):
            threads.append(threading.current_thread())
            yield log_lines(str(number))
        threads.append(threading.current_thread())

    service = Service(connector(get_logs=get_logs), worker=1)
    sent = await service.get_logs()
    assert [response.body.results for response in sent] == [["0"], ["1"], ["2"]]
    assert len(threads) == 4
    assert set(threads).isdisjoint({threading.current_thread()})
    assert len(set(threads)) == 1
    assert service.workers.busy == 0
