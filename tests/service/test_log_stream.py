"""GetTaskLogs: one response or a stream, from whatever kind of method."""

from __future__ import annotations

import threading

import anyio
import pytest
from grpclib import GRPCError
from grpclib.const import Status

from connectrio.idl.flyteidl2.connector import GetTaskLogsRequest
from service.harness import META, FakeStream, Service, connector, log_lines

# seconds; only ends a test that fails
PATIENCE = 30


async def agenerator(self, resource_meta, **kwargs):
    for number in range(3):
        await anyio.lowlevel.checkpoint()
        yield log_lines(str(number))


def generator(self, resource_meta, **kwargs):
    for number in range(3):
        yield log_lines(str(number))


async def coroutine(self, resource_meta, **kwargs):
    return log_lines("0")


def function(self, resource_meta, **kwargs):
    return log_lines("0")


def returns_agenerator(self, resource_meta, **kwargs):
    return agenerator(self, resource_meta)


def returns_generator(self, resource_meta, **kwargs):
    return generator(self, resource_meta)


async def awaits_agenerator(self, resource_meta, **kwargs):
    return agenerator(self, resource_meta)


class Iterates:
    """An asynchronous iterator that has no aclose."""

    def __init__(self, *_args, **_kwargs) -> None:
        self._left = 3

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return log_lines(str(2 - self._left))


async def awaits_iterator(self, resource_meta, **kwargs):
    return Iterates()


async def nothing(self, resource_meta, **kwargs):
    for response in ():
        yield response


@pytest.mark.parametrize(
    ("get_logs", "count"),
    [
        (agenerator, 3),
        (generator, 3),
        (coroutine, 1),
        (function, 1),
        (returns_agenerator, 3),
        (returns_generator, 3),
        (awaits_agenerator, 3),
        (awaits_iterator, 3),
        (nothing, 0),
    ],
)
async def test_kinds_of_methods(get_logs, count):
    service = Service(connector(get_logs=get_logs))
    sent = await service.get_logs()
    assert [response.body.results for response in sent] == [[str(number)] for number in range(count)]
    assert service.count("get_logs") == 1


@pytest.mark.parametrize("plain", [False, True])
async def test_no_response_is_fetched_before_the_last_one_is_sent(plain):
    fetched: list[int] = []
    sent_when_fetched: list[int] = []

    async def get_logs(self, **kwargs):
        for number in range(4):
            fetched.append(number)
            yield log_lines(str(number))

    def get_logs_plain(self, **kwargs):
        for number in range(4):
            fetched.append(number)
            yield log_lines(str(number))

    async def send(response):
        sent_when_fetched.append(len(fetched))
        await anyio.wait_all_tasks_blocked()

    service = Service(connector(get_logs=get_logs_plain if plain else get_logs))
    await service.get_logs(send=send)
    # a thread may have fetched the one that it offers next
    assert all(fetched <= sent + 1 + plain for sent, fetched in enumerate(sent_when_fetched))


class Closes:
    """A generator method that says when it was closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.waiting = anyio.Event()

    async def agenerator(self, _connector, **kwargs):
        try:
            yield log_lines("0")
            self.waiting.set()
            await anyio.sleep_forever()
        finally:
            self.closed.set()

    def generator(self, _connector, **kwargs):
        try:
            while True:
                yield log_lines("0")
        finally:
            self.closed.set()


async def fail(response):
    raise ValueError("cannot be encoded")


@pytest.mark.parametrize("kind", ["agenerator", "generator"])
async def test_closed_when_sending_fails(kind):
    closes = Closes()
    method = getattr(closes, kind)
    service = Service(connector(get_logs=lambda self, **kwargs: method(self)))
    with pytest.raises(GRPCError, match="cannot be encoded"):
        await service.get_logs(send=fail)
    await service.workers.wait_idle()
    assert closes.closed.is_set()


@pytest.mark.parametrize("kind", ["agenerator", "generator"])
async def test_closed_when_cancelled_while_sending(kind):
    closes = Closes()
    method = getattr(closes, kind)
    service = Service(connector(get_logs=lambda self, **kwargs: method(self)))

    async def block(response):
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await service.get_logs(send=block)
    assert scope.cancelled_caught
    assert service.count("get_logs", "499") == 1
    await service.workers.wait_idle()
    assert closes.closed.is_set()


async def test_closed_when_cancelled_while_waiting_for_a_line():
    closes = Closes()
    service = Service(connector(get_logs=lambda self, **kwargs: closes.agenerator(self)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.get_logs)
        await closes.waiting.wait()
        tasks.cancel_scope.cancel()
    assert service.count("get_logs", "499") == 1
    assert closes.closed.is_set()


async def test_a_thread_that_waits_for_a_line_is_left_behind():
    waiting = threading.Event()
    line = threading.Event()
    closed = threading.Event()

    def get_logs(self, **kwargs):
        try:
            yield log_lines("0")
            waiting.set()
            line.wait(PATIENCE)
            yield log_lines("1")
        finally:
            closed.set()

    service = Service(connector(get_logs=get_logs), worker=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.get_logs)
        assert await anyio.to_thread.run_sync(waiting.wait, PATIENCE)
        tasks.cancel_scope.cancel()
    assert service.count("get_logs", "499") == 1
    assert service.workers.busy == 1
    assert not closed.is_set()
    line.set()
    await service.workers.wait_idle()
    assert closed.is_set()


async def test_a_thread_that_was_left_behind_does_not_wait_for_the_event_loop():
    """The event loop may be about to end: Python would wait for the thread, and the thread for the event loop."""
    waiting = threading.Event()
    line = threading.Event()
    closed = threading.Event()

    def get_logs(self, **kwargs):
        try:
            waiting.set()
            line.wait(PATIENCE)
            yield log_lines("0")
        finally:
            closed.set()

    service = Service(connector(get_logs=get_logs), worker=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.get_logs)
        assert await anyio.to_thread.run_sync(waiting.wait, PATIENCE)
        tasks.cancel_scope.cancel()
    line.set()
    assert closed.wait(PATIENCE)  # blocks the event loop
    await service.workers.wait_idle()


async def test_the_hosts_limit_covers_the_whole_stream():
    async def get_logs(self, **kwargs):
        while True:
            yield log_lines("x")

    async def send(response):
        await anyio.sleep(0.005)

    service = Service(connector(get_logs=get_logs), logs_limit=0.03)
    with pytest.raises(GRPCError) as caught:
        await service.get_logs(send=send)
    assert caught.value.status is Status.DEADLINE_EXCEEDED


async def test_a_generator_may_hold_scopes_across_its_yields():
    """Its code never runs in another scope than it started in, which a scope around each step would do to it."""

    async def get_logs(self, **kwargs):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            with anyio.fail_after(PATIENCE):
                yield log_lines("0")
                await anyio.lowlevel.checkpoint()
                yield log_lines("1")
            tasks.cancel_scope.cancel()

    service = Service(connector(get_logs=get_logs), logs_limit=PATIENCE)
    assert len(await service.get_logs()) == 2


@pytest.mark.parametrize("kind", ["agenerator", "generator"])
async def test_an_error_after_some_responses(kind):
    async def agen(self, **kwargs):
        yield log_lines("0")
        raise ValueError("the log is gone")

    def gen(self, **kwargs):
        yield log_lines("0")
        raise ValueError("the log is gone")

    service = Service(connector(get_logs=agen if kind == "agenerator" else gen))
    sent = []

    async def send(response):
        sent.append(response)

    with pytest.raises(GRPCError, match="the log is gone"):
        await service.get_logs(send=send)
    assert len(sent) == 1
    assert service.count("get_logs", "500") == 1


async def test_system_exit_in_a_plain_generator_ends_the_call_alone():
    def get_logs(self, **kwargs):
        yield log_lines("0")
        raise SystemExit(3)

    service = Service(connector(get_logs=get_logs))
    with pytest.raises(GRPCError, match="SystemExit: 3"):
        await service.get_logs()
    assert service.workers.busy == 0


async def test_a_stream_that_ends_without_a_request():
    class Empty(FakeStream):
        async def recv_message(self):
            return None

    service = Service()
    stream = Empty(GetTaskLogsRequest(resource_meta=META))
    await service.servicer.__mapping__()["/flyteidl2.connector.AsyncConnectorService/GetTaskLogs"].func(stream)
    assert stream.sent == []
