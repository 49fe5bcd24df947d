"""Many calls, of which many go wrong in every way that calls can; afterwards everything is where it was."""

from __future__ import annotations

import gc
import random
from collections import Counter
from contextlib import aclosing, suppress

import anyio
import pytest
from anyio.abc import AnyByteStream, TaskGroup
from anyio.lowlevel import checkpoint
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from connectrio.rpc import Channel, ChannelOptions, Server, ServerOptions
from connectrio.rpc.testing import memory_channel, memory_transport_pair
from rpc.kit.core import check_windows
from rpc.kit.raw import raw_client
from rpc.kit.script import BIDI, Note, Script, ScriptStub
from rpc.kit.serving import eventually, leaving_nothing, turns

# calls in one round; a round takes about a second on a machine that has nothing else to do
ROUND = 200
AT_ONCE = 10
EXPECTED = {"DEADLINE_EXCEEDED", "ABORTED", "UNAVAILABLE"}


class Troubled(Script):
    """Echoes, fails, or never answers, as it is told."""

    def __init__(self) -> None:
        super().__init__(self._obey, self._obey, self._obey, self._obey)

    async def _obey(self, stream) -> None:
        note = await stream.recv_message()
        if note is None or note.text == "fail":
            raise GRPCError(Status.ABORTED, "as it should")
        if note.text == "wait":
            await anyio.Event().wait()  # sleeping for ever, asyncio would keep a timer for a while
        await stream.send_message(note)


class Soak:
    """A server, and clients whose connections are lost now and then.

    :ivar outcomes: how calls have ended
    """

    def __init__(self, server: Server, tasks: TaskGroup) -> None:
        self.server = server
        self.outcomes: Counter[str] = Counter()
        self._tasks = tasks
        self._random = random.Random(2574)
        self._transports: list[AnyByteStream] = []

    async def connect(self) -> AnyByteStream:
        ours, theirs = memory_transport_pair()
        self._transports = [*self._transports[-3:], theirs]
        self._tasks.start_soon(self.server.serve_connection, theirs)
        return ours

    async def round(self, channel: Channel) -> None:
        """So many calls, some at a time."""
        for _ in range(ROUND // AT_ONCE):
            if self._transports and self._random.random() < 0.1:
                await self._transports[-1].aclose()  # while nobody calls
            async with anyio.create_task_group() as tasks:
                for _ in range(AT_ONCE):
                    tasks.start_soon(self._call, channel)

    async def _call(self, channel: Channel) -> None:
        kinds = [self._good, self._cancelled, self._reset, self._late, self._failing, self._left]
        kind = self._random.choice(kinds if self._random.random() > 0.01 else [self._losing])
        try:
            await kind(ScriptStub(channel))
            self.outcomes[kind.__name__] += 1
        except GRPCError as error:
            self.outcomes[error.status.name] += 1

    async def _good(self, stub: ScriptStub) -> None:
        assert await stub.unary(Note("x" * 3000)) == Note("x" * 3000)

    async def _cancelled(self, stub: ScriptStub) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._suppressed, stub)
            await turns(self._random.randrange(20))
            tasks.cancel_scope.cancel()

    async def _suppressed(self, stub: ScriptStub) -> None:
        with suppress(GRPCError):
            await stub.client_streaming([Note("wait"), Note("x" * 100_000)])

    async def _reset(self, stub: ScriptStub) -> None:
        async with stub.channel.request(BIDI, Cardinality.STREAM_STREAM, Note, Note) as stream:
            await stream.send_message(Note("wait"))
            await stream.cancel()

    async def _late(self, stub: ScriptStub) -> None:
        await stub.unary(Note("wait"), timeout=0.001)

    async def _failing(self, stub: ScriptStub) -> None:
        await stub.unary(Note("fail"))

    async def _left(self, stub: ScriptStub) -> None:
        async with aclosing(stub.server_streaming(Note("x" * 3000))) as answers:
            await anext(answers)

    async def _losing(self, stub: ScriptStub) -> None:
        await self._transports[-1].aclose()
        await stub.unary(Note("on another connection"))

    async def settle(self) -> None:
        """Wait until every call is over on both sides."""
        await eventually(lambda: self.server.active_calls == 0 and len(self.server._connections) == 1)
        await turns()


def census() -> Counter[str]:
    """How many objects there are of each of our types, of HTTP/2's, and of tasks and scopes.

    Not timers: asyncio throws away those that were cancelled when there are more than a hundred, and trio the scopes
    whose deadlines are over when there are a thousand. anyio's scopes, around trio's, are counted.
    """
    gc.collect()
    ours = ("connectrio.", "h2.", "grpclib.", "anyio.", "trio.", "asyncio", "_asyncio", "uvloop")
    names = (f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    ours_alone = (name for name in names if name.startswith(ours) and name != "trio.CancelScope")
    return Counter(name for name in ours_alone if not name.endswith(".TimerHandle"))


async def test_after_hundreds_of_calls_that_went_wrong_everything_is_where_it_was():
    server = Server([Troubled()], options=ServerOptions(reset_budget=10**6))
    options = ChannelOptions(initial_backoff=0.001, backoff_multiplier=1, close_timeout=0.01, wait_for_ready=True)
    async with leaving_nothing(120) as log, anyio.create_task_group() as tasks:
        soak = Soak(server, tasks)
        async with Channel(soak.connect, options=options) as channel:
            censuses = []
            for _ in range(3):
                await soak.round(channel)
                assert await ScriptStub(channel).unary(Note("still here")) == Note("still here")
                await soak.settle()
                [connection] = server._connections
                check_windows(connection.core)
                assert not connection.core.h2.streams
                assert not channel._policy.is_busy
                assert not channel._queue
                log.clear()
                idle = len(connection._tasks._idle_tasks)  # of the tasks that answer, one or two are kept
                assert idle <= 2
                censuses.append((len(anyio.get_running_tasks()) - idle, census()))
        tasks.cancel_scope.cancel()
    # the first round fills caches
    (_, _), (tasks_before, before), (tasks_after, after) = censuses
    assert tasks_after == tasks_before
    assert {name: count for name, count in (after - before).items() if count > 5} == {}
    assert soak.outcomes.keys() >= {"_good", "_cancelled", "_reset", "_left", "DEADLINE_EXCEEDED", "ABORTED"}
    assert soak.outcomes.keys() & Status.__members__.keys() <= EXPECTED


@pytest.mark.parametrize("how", ["reset at once", "reset when it has begun", "data after the end"])
async def test_after_hundreds_of_resets_on_one_connection_nothing_is_held(how: str):
    began = 0

    async def method(stream) -> None:
        nonlocal began
        began += 1
        await anyio.sleep_forever()

    server = Server([Script(method)], options=ServerOptions(reset_budget=10**6, max_concurrent_streams=20))
    async with leaving_nothing(120), raw_client(server) as client:
        make = client.make
        for stream_id in range(1, 600, 2):
            await client.send(make.request(stream_id, end_stream=how == "data after the end"))
            if how == "reset when it has begun":
                expected = began + 1 if stream_id == 1 else stream_id // 2 + 1
                await eventually(lambda: began >= expected)  # noqa: B023 - before the next one
            if how == "data after the end":
                await client.send(make.data(stream_id, b"x"))
            else:
                await client.send(make.reset(stream_id, ErrorCodes.CANCEL))
            if stream_id % 20 == 1:
                await eventually(lambda: server.active_calls == 0)
            await checkpoint()
        await eventually(lambda: server.active_calls == 0)
        [connection] = server._connections
        check_windows(connection.core)
        assert not connection.core.h2.streams
        assert not connection._calls


async def test_after_a_hundred_connections_nothing_is_left_of_them():
    server = Server([Script()])
    async with leaving_nothing(120):
        counts = []
        for _ in range(3):
            for _ in range(30):
                async with memory_channel(server) as channel:
                    await ScriptStub(channel).unary(Note())
                assert not server._connections
            counts.append(census())
    assert {name: count for name, count in (counts[2] - counts[1]).items() if count > 5} == {}
