"""The loops of hosted code: where calls run, how they end, and what is left."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest
import sniffio
from anyio import to_thread
from structlog.testing import capture_logs

from connectrio import TransientError
from connectrio.connector.context import Start, reset_current_call, set_creation, set_current_call
from connectrio.flyte import _loop_pool
from connectrio.flyte._loop_pool import LoopPool
from connectrio.flyte.affinity import ANY_LOOP, LoopPools, _says

# seconds; only ends a test that fails
PATIENCE = 30.0
LIMIT = 3
SHORT = 0.03


@asynccontextmanager
async def a_pool(limit=LIMIT, bound_state=lambda loops: None, says=True):
    """Yield an open pool, with so much patience that a busy machine does not look like a blocked loop.

    :param says: that its calls may leave home without a proof
    """
    pools = LoopPools()
    connector = object()
    with anyio.fail_after(PATIENCE):
        async with pools.open("no.such.package", limit, connector):
            pool = pools.get("no.such.package")
            pool._proof.bound_state = bound_state
            pool._proof._says = lambda: says
            pool._patience = PATIENCE
            yield pool


async def eventually(condition):
    while not condition():  # noqa: ASYNC110 - it happens in another thread
        await anyio.sleep(0.01)


class Gate:
    """Blocks threads until it is opened."""

    def __init__(self):
        self.inside = []
        self._opened = threading.Event()

    async def block(self):
        """A hosted coroutine with one long step. Return the loop it ran on."""
        loop = asyncio.get_running_loop()
        self.inside.append(loop)
        self._opened.wait(PATIENCE)
        return loop

    def open(self):
        self._opened.set()


@asynccontextmanager
async def blocked(pool, calls):
    """Run blocking calls on the pool during the block. Yield their gate and the loops they run on."""
    gate, loops = Gate(), []

    async def call():
        loops.append(await pool.run(gate.block, name="block"))

    async with anyio.create_task_group() as tasks:
        for _ in range(calls):
            tasks.start_soon(call)
        try:
            yield SimpleNamespace(gate=gate, loops=loops)
        finally:
            gate.open()


async def home_blocks(pool, calls):
    """Wait until the home loop is blocked, then make the pool's patience short."""
    await eventually(lambda: calls.gate.inside and pool._home.position().startswith("wait in "))
    pool._patience = SHORT


async def home_of(pool):
    return await pool.run(current_loop, name="home")


async def current_loop():
    return asyncio.get_running_loop()


# where calls run


async def test_results_and_errors():
    async def fail():
        raise ValueError("mine")

    async with a_pool() as pool:
        assert isinstance(await home_of(pool), asyncio.AbstractEventLoop)
        with pytest.raises(ValueError, match="mine"):
            await pool.run(fail, name="fail")


async def test_calls_that_do_not_block_share_one_loop():
    async def wait(event):
        await event.wait()
        return asyncio.get_running_loop()

    loops = []

    async def call():
        loops.append(await pool.run(lambda: wait(event), name="wait"))

    async with a_pool() as pool:
        event = asyncio.Event()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(call)
            await eventually(lambda: len(event._waiters) == 20)
            await pool.run(lambda: set_event(event), name="set")
        assert len(loops) == 20
        assert set(loops) == {await home_of(pool)}
        assert pool.loops == 1


async def set_event(event):
    event.set()


async def test_calls_that_wait_for_a_blocked_loop_go_to_others():
    async with a_pool() as pool:
        async with blocked(pool, 10) as calls:
            await home_blocks(pool, calls)
            await eventually(lambda: len(calls.gate.inside) == 1 + LIMIT)
            assert len(set(calls.gate.inside)) == 1 + LIMIT
        assert len(calls.loops) == 10
        assert pool.loops == 1 + LIMIT
        pool._patience = PATIENCE
        assert await home_of(pool) is calls.gate.inside[0]


async def test_the_loop_that_blocks_is_not_waited_for():
    """One call blocks; the others run one after the other and do not."""
    async with a_pool() as pool, blocked(pool, 1) as calls:
        await home_blocks(pool, calls)
        for _ in range(5):
            assert await home_of(pool) is not calls.gate.inside[0]
        assert pool.loops == 2


async def test_no_method_leaves_before_one_of_its_calls_has_succeeded_at_home():
    """Before a session is opened, there is none to be found."""
    searches = []
    async with a_pool(bound_state=searches.append, says=None) as pool:
        async with blocked(pool, 2) as calls:
            await home_blocks(pool, calls)
            await anyio.sleep(10 * SHORT)  # time in which the other one could go elsewhere
            assert len(calls.gate.inside) == 1
            assert not searches
        assert len(set(calls.loops)) == 1
        async with blocked(pool, 3) as calls:
            await eventually(lambda: len(calls.gate.inside) == 3)
            assert searches == [[pool._home.loop, pool._further[0].loop]]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(home_of, pool)  # of another name
                await anyio.sleep(10 * SHORT)
                assert [call.name for call in pool._pending] == ["home"]
                calls.gate.open()
        assert len(set(calls.loops)) == 3


async def test_calls_that_fail_prove_nothing():
    async def fail():
        raise ValueError("before it has opened a session")

    async with a_pool(says=None) as pool:
        await pool.run(current_loop, name="block")
        with pytest.raises(ValueError, match="session"):
            await pool.run(fail, name="another")  # it may have dropped the session that they share
        async with blocked(pool, 2) as calls:
            await home_blocks(pool, calls)
            await anyio.sleep(10 * SHORT)
            assert len(calls.gate.inside) == 1


async def test_the_search_is_made_again_as_calls_end():
    searches = []
    async with a_pool(bound_state=searches.append, says=None) as pool:
        for ended, wanted in [(1, 1), (2, 2), (1, 2), (1, 3)]:
            for _ in range(ended):
                await pool.run(current_loop, name="block")
            pool._patience = PATIENCE
            async with blocked(pool, 2) as calls:
                await home_blocks(pool, calls)
                await eventually(lambda calls=calls: len(calls.gate.inside) == 2)
            assert len(searches) == wanted


@pytest.mark.parametrize("found", ["package.lock", None], ids=["found", "the search fails"])
async def test_calls_stay_at_home_where_something_belongs_to_that_loop(found):
    def search(loops):
        return found or 1 / 0

    async with a_pool(bound_state=search, says=None) as pool:
        await pool.run(current_loop, name="block")
        with capture_logs() as logs:
            async with blocked(pool, 3) as calls:
                await home_blocks(pool, calls)
                await eventually(lambda: logs)
                await anyio.sleep(3 * SHORT)
                assert len(calls.gate.inside) == 1
        assert len(set(calls.loops)) == 1
        assert len(calls.loops) == 3
    (line,) = logs
    assert line["object"] == found or "division by zero" in line["object"]
    assert "wait" in line["where"]


async def test_what_a_package_says_of_itself_counts():
    async with a_pool(says=False) as pool:
        await pool.run(current_loop, name="block")
        async with blocked(pool, 2) as calls:
            await home_blocks(pool, calls)
            await anyio.sleep(10 * SHORT)
            assert len(calls.gate.inside) == 1
    flags = {True: type("Any", (), {ANY_LOOP: True})(), False: type("One", (), {ANY_LOOP: False})(), None: object()}
    for connectors, wanted in [
        ([True], True), ([True, True], True), ([True, None], None), ([True, False], False), ([None], None),
    ]:  # fmt: skip
        assert _says([flags[each] for each in connectors]) is wanted


@asynccontextmanager
async def elsewhere(pool):
    """Block the home loop, so that calls in the block run on further loops."""
    async with blocked(pool, 1) as calls:
        await home_blocks(pool, calls)
        yield calls.gate


WRAPPED = {
    "as it is": lambda error: error,
    "raised from it": lambda error: _with(ValueError("no answer"), "__cause__", error),
    "raised meanwhile": lambda error: _with(OSError("no answer"), "__context__", error),
    "in its text": lambda error: ConnectionError(f"vendor: {error}"),
    "in a group": lambda error: ExceptionGroup("all", [ValueError("one"), ExceptionGroup("inner", [error])]),
}


def _with(error, attribute, value):
    setattr(error, attribute, value)
    return error


@pytest.mark.parametrize("wrapped", WRAPPED)
async def test_what_fails_elsewhere_because_of_that_is_done_again_at_home(wrapped):
    async def use(lock):
        loops.append(asyncio.get_running_loop())
        try:
            async with lock:
                return "used"
        except RuntimeError as error:
            wrap = WRAPPED[wrapped](error)
        raise wrap

    loops = []
    async with a_pool() as pool:
        lock = await pool.run(make_a_contended_lock, name="lock")
        with capture_logs() as logs:
            async with elsewhere(pool) as gate, anyio.create_task_group() as tasks:
                results = []

                async def call():
                    results.append(await pool.run(lambda: use(lock), name="use"))

                tasks.start_soon(call)
                await eventually(lambda: pool._proof.is_refuted)
                tasks.start_soon(home_of, pool)
                await eventually(lambda: len(pool._pending) == 2)
                await anyio.sleep(3 * SHORT)  # time in which they could go elsewhere
                assert len(pool._pending) == 2
                gate.open()
                await pool.run(lambda: release(lock), name="release")
        assert results == ["used"]
        assert loops[1] is await home_of(pool)
        assert len(loops) == 2
        assert [line["log_level"] for line in logs] == ["warning"]
        assert pool.loops == 2


async def test_a_create_that_fails_elsewhere_because_of_that_is_not_done_again():
    """Perhaps the job exists already."""

    async def use(lock):
        made.append("a job")
        async with lock:
            pass

    made = []
    async with a_pool() as pool:
        lock = await pool.run(make_a_contended_lock, name="lock")
        async with elsewhere(pool):
            with pytest.raises(RuntimeError, match="different event loop"):
                await pool.run(lambda: use(lock), name="create", repeatable=False)
    assert made == ["a job"]


@pytest.mark.parametrize("sent", [0, 1])
async def test_a_stream_is_begun_again_only_before_its_first_item(sent):
    async def lines(emit):
        for number in range(sent):
            await emit(number)
        async with lock:
            await emit("under the lock")

    async with a_pool() as pool:
        lock = await pool.run(make_a_contended_lock, name="lock")
        async with elsewhere(pool) as gate, anyio.create_task_group() as tasks:
            found = []

            async def call():
                try:
                    found.append(await items_of(pool, lines))
                except RuntimeError as error:
                    found.append(type(error))

            tasks.start_soon(call)
            await eventually(lambda: pool._proof.is_refuted)
            gate.open()
            await pool.run(lambda: release(lock), name="release")
        assert found == [RuntimeError if sent else ["under the lock"]]


async def test_a_call_that_fails_at_the_end_of_the_pool_is_not_begun_again():
    async def fail():
        pool.stop()
        raise RuntimeError("it is bound to a different event loop")

    async with a_pool() as pool, elsewhere(pool):
        with pytest.raises(RuntimeError, match="different event loop"):
            await pool.run(fail, name="fail")


async def test_a_call_that_was_cancelled_is_not_begun_again():
    async def fail():
        raise RuntimeError("it is bound to a different event loop")

    function = Cancelled(fail)
    async with a_pool() as pool, elsewhere(pool):
        with pytest.raises(ExceptionGroup):
            await cancel_once_begun(pool, function)
    assert function.events == ["begun", "cancelled"]


async def test_a_call_is_cancelled_on_the_loop_that_it_runs_on_now():
    """Its cancellation may reach the further loop that it began on, when it has begun again at home."""

    async def cancel_here():
        call._cancel_task()

    function = Cancelled()
    async with a_pool() as pool:
        call = pool.start(lambda _: function(), name="call")
        await eventually(lambda: function.events)
        await to_thread.run_sync(asyncio.run, cancel_here())
        await home_of(pool)
        assert function.events == ["begun"]
        await call.cancel()
    assert function.events == ["begun", "cancelled"]


async def test_what_waits_on_a_further_loop_is_woken_from_home():
    """Setting a future does not wake a loop in another thread."""

    async def wait():
        waiting.append(asyncio.ensure_future(event.wait()))
        return await waiting[0]

    waiting = []
    async with a_pool() as pool, anyio.create_task_group() as tasks:
        event = asyncio.Event()
        async with elsewhere(pool):
            tasks.start_soon(lambda: pool.run(wait, name="wait"))
            await eventually(lambda: waiting and event._waiters)
        assert waiting[0].get_loop() is not pool._home.loop
        await pool.run(lambda: set_event(event), name="set")


async def test_what_waits_at_home_is_woken_from_a_further_loop():
    async def wait():
        waiting.append(asyncio.get_running_loop())
        await event.wait()
        done.set()

    async def set_and_stay():
        event.set()
        while not done.is_set():  # noqa: ASYNC110 - it happens in another thread
            await asyncio.sleep(0.01)

    waiting, done = [], threading.Event()
    async with a_pool() as pool, anyio.create_task_group() as tasks:
        event = asyncio.Event()
        tasks.start_soon(lambda: pool.run(wait, name="wait"))
        await eventually(lambda: event._waiters)
        async with elsewhere(pool) as gate:
            call = pool.start(lambda _: set_and_stay(), name="set")
            await call.wait_for_turn()
            gate.open()
        await call.wait()
        assert waiting == [pool._home.loop]


async def test_loops_sleep_when_no_call_is_elsewhere():
    async with a_pool() as pool:
        async with elsewhere(pool):
            call = pool.start(lambda _: asyncio.sleep(0.01), name="sleep")
            await call.wait()
        threads = [pool._home, *pool._further]
        await eventually(lambda: {thread.longest_sleep for thread in threads} == {None})
        assert len(threads) == 2


async def release(lock):
    lock.release()


async def make_a_contended_lock():
    """Return a held lock that is bound to its loop, as after a wait."""
    lock = asyncio.Lock()
    await lock.acquire()
    waiting = asyncio.ensure_future(lock.acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    return lock


# contexts


async def test_context_variables_come_along():
    variable = ContextVar("variable")
    variable.set("the caller's")

    async def read():
        value = variable.get()
        variable.set("the hosted code's")
        return value

    async with a_pool() as pool:
        assert await pool.run(read, name="read") == "the caller's"
        assert variable.get() == "the caller's"


async def test_hosted_code_finds_itself_on_asyncio():
    async def library():
        await anyio.lowlevel.checkpoint()
        return sniffio.current_async_library()

    async with a_pool() as pool:
        before = sniffio.current_async_library()
        assert await pool.run(library, name="library") == "asyncio"
        assert sniffio.current_async_library() == before


# cancellation


class Cancelled:
    """A hosted coroutine that waits, and records how it ended."""

    def __init__(self, then=None):
        self.events = []
        self._then = then

    async def __call__(self):
        self.events.append("begun")
        try:
            await asyncio.sleep(100 * PATIENCE)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            if self._then is not None:
                return await self._then()
            raise


async def cancel_once_begun(pool, function):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: pool.run(function, name="cancelled"))
        await eventually(lambda: function.events)
        tasks.cancel_scope.cancel()


async def test_a_cancelled_call_cancels_the_coroutine_and_waits_for_its_end():
    async def clean_up():
        await asyncio.sleep(0.01)
        function.events.append("clean")

    function = Cancelled(clean_up)
    async with a_pool() as pool:
        await cancel_once_begun(pool, function)
        assert function.events == ["begun", "cancelled", "clean"]


async def test_what_a_cancelled_coroutine_raises_instead_is_raised():
    async def fail():
        raise ValueError("while cleaning up")

    async with a_pool() as pool:
        with pytest.raises(ExceptionGroup) as caught:
            await cancel_once_begun(pool, Cancelled(fail))
    assert str(caught.value.exceptions[0]) == "while cleaning up"


async def test_a_call_that_was_not_begun_never_is():
    ran = []

    async def note():
        ran.append("ran")

    async with a_pool(limit=0) as pool, blocked(pool, 1) as calls:
        await eventually(lambda: calls.gate.inside)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: pool.run(note, name="note"))
            await eventually(lambda: pool._pending)
            tasks.cancel_scope.cancel()
        assert not pool._pending
        calls.gate.open()
        await home_of(pool)
    assert ran == []


async def test_a_call_that_is_cancelled_on_its_way_to_a_loop_never_runs():
    """A loop has taken the call, but the call does not know the loop yet."""
    function = Cancelled()
    async with a_pool() as pool:
        begin, reached = _loop_pool.Call.begin, threading.Event()

        def begin_late(self, *args):
            reached.set()
            while not self._is_cancelled:
                time.sleep(0.01)
            begin(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_loop_pool.Call, "begin", begin_late)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: pool.run(function, name="late"))
                await to_thread.run_sync(reached.wait, PATIENCE)
                tasks.cancel_scope.cancel()
        assert function.events == []


@contextmanager
def creating(usual=0.0):
    """Calls in the block create a job that was asked for an hour ago, and whose client waits another minute."""
    start = Start(anyio.CancelScope(), lambda: usual, arrived=time.monotonic() - 3600)
    current = set_current_call("", {}, time.monotonic() + 60)
    token = set_creation("key", start)
    try:
        with start.scope:
            yield start
    finally:
        reset_current_call(token)
        reset_current_call(current)


async def test_a_create_that_has_begun_goes_on_though_its_client_leaves():
    calls, made = Gate(), []

    async def create():
        await calls.block()
        made.append("a job")

    async def call():
        with creating():
            await pool.run(create, name="create")

    async with a_pool() as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await eventually(lambda: calls.inside)
            tasks.cancel_scope.cancel()
            calls.open()
        assert made == ["a job"]


async def test_a_create_that_waits_for_a_loop_is_dropped_with_its_client():
    made = []

    async def create():
        made.append("a job")

    async def call():
        with creating() as start:
            try:
                await pool.run(create, name="create")
            finally:
                assert start.began is None

    async with a_pool(limit=0) as pool:
        async with blocked(pool, 1) as calls:
            await eventually(lambda: calls.gate.inside)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await eventually(lambda: pool._pending)
                tasks.cancel_scope.cancel()
        await home_of(pool)
    assert made == []


async def test_a_create_for_which_it_is_too_late_is_refused_and_the_next_call_runs():
    made = []

    async def create():
        made.append("a job")

    async with a_pool() as pool:
        with creating(usual=61.0), pytest.raises(TransientError, match="nothing was created"):
            await pool.run(create, name="create")
        async with blocked(pool, 1) as calls:  # on a further loop too
            await home_blocks(pool, calls)
            with creating(usual=61.0), pytest.raises(TransientError, match="nothing was created"):
                await pool.run(create, name="create")
            assert await home_of(pool) is not calls.gate.inside[0]
    assert made == []


async def test_a_coroutine_that_does_not_end_is_left_alone(monkeypatch):
    monkeypatch.setattr(_loop_pool, "_CANCEL_TIMEOUT", 0.05)
    async with a_pool() as pool:
        gate = Gate()
        with capture_logs() as logs:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: pool.run(gate.block, name="Some.get"))
                await eventually(lambda: pool._home.position().startswith("wait in ") and gate.inside)
                tasks.cancel_scope.cancel()
        assert [(line["method"], line["log_level"]) for line in logs] == [("Some.get", "warning")]
        assert "wait in " in logs[0]["where"]
        gate.open()
        assert await home_of(pool) is gate.inside[0]


async def test_cancelled_errors_of_the_coroutines_own_are_errors():
    async def fail():
        raise asyncio.CancelledError("of my own")

    async with a_pool() as pool:
        with pytest.raises(asyncio.CancelledError, match="of my own"):
            await pool.run(fail, name="fail")


# faults of hosted code


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("boom"), GeneratorExit()], ids=repr)
async def test_what_would_end_a_loop_ends_its_call(error):
    async def fail():
        raise error

    async with a_pool() as pool:
        home = await home_of(pool)
        with pytest.raises(type(error)):
            await pool.run(fail, name="fail")
        assert await home_of(pool) is home


async def test_a_task_of_hosted_code_does_not_end_the_loop():
    async def fail():
        raise SystemExit(3)

    async def start_one():
        task = asyncio.ensure_future(fail())
        await asyncio.wait([task])
        return type(task.exception())

    async with a_pool() as pool:
        with capture_logs() as logs:
            assert await pool.run(start_one, name="start") is SystemExit
            assert await home_of(pool)
    assert [line["log_level"] for line in logs] == ["warning"]


# streams


async def items_of(pool, function, take=100):
    """Return the first items that `function` emits."""
    call = pool.start(function, name="stream")
    taken = []
    try:
        async with aclosing(call.items()) as items:
            async for item in items:
                taken.append(item)
                if len(taken) == take:
                    break
    finally:
        await call.cancel()
    return taken


async def test_items_are_made_as_they_are_taken():
    made = []

    async def stream(emit):
        for item in range(1000):
            made.append(item)
            await emit(item)

    async with a_pool() as pool:
        assert await items_of(pool, stream, take=3) == [0, 1, 2]
        assert made == [0, 1, 2]
        made.clear()
        assert await items_of(pool, stream, take=1000) == list(range(1000))


async def test_the_end_of_a_stream_and_its_errors():
    async def none(emit):
        pass

    async def fail(emit):
        await emit(1)
        raise ValueError("half-way")

    async with a_pool() as pool:
        assert await items_of(pool, none) == []
        with pytest.raises(ValueError, match="half-way"):
            await items_of(pool, fail)


# the end


async def test_nothing_is_left():
    before = set(threading.enumerate())

    async def use_the_executor():
        await asyncio.to_thread(lambda: None)

    async with a_pool() as pool:
        async with blocked(pool, 3) as calls:
            await home_blocks(pool, calls)
            await eventually(lambda: len(calls.gate.inside) == 3)
        await pool.run(use_the_executor, name="executor")
        loops = [pool._home.loop, *(thread.loop for thread in pool._further)]
        assert len(loops) == 3
    ours = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in ours if "package" in name}
    assert all(loop.is_closed() for loop in loops)


async def test_calls_that_were_not_begun_end_with_the_pool():
    pools, connector, gate = LoopPools(), object(), Gate()
    async with anyio.create_task_group() as tasks:
        async with pools.open("package", 0, connector):
            pool = pools.get("package")
            tasks.start_soon(lambda: pool.run(gate.block, name="block"))
            await eventually(lambda: gate.inside)
            call = pool.start(lambda _: gate.block(), name="late")
            assert pool.stop()
            gate.open()
        await call.wait()
        with pytest.raises(RuntimeError, match="the event loop of package has closed"):
            call.result()


async def test_tasks_that_calls_have_left_are_cancelled_at_the_end():
    function, tasks = Cancelled(), []

    async def leave_one():
        tasks.append(asyncio.ensure_future(function()))
        await asyncio.sleep(0)

    async with a_pool() as pool:
        await pool.run(leave_one, name="leave")
    assert function.events == ["begun", "cancelled"]


async def test_a_thread_that_does_not_end_is_reported_and_left_alone(monkeypatch):
    monkeypatch.setattr(_loop_pool, "_CANCEL_TIMEOUT", 0.05)
    monkeypatch.setattr("connectrio.flyte.affinity._CLOSE_TIMEOUT", 0.05)
    gate = Gate()
    with capture_logs() as logs:
        async with a_pool() as pool, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: pool.run(gate.block, name="Some.get"))
            await eventually(lambda: gate.inside)
            tasks.cancel_scope.cancel()
    assert [line["event"] for line in logs] == [
        "a hosted call was cancelled and goes on",
        "a hosted connector's thread did not end",
    ]
    gate.open()
    await to_thread.run_sync(pool._home.join)


async def test_a_pool_is_open_until_the_last_one_leaves():
    pools, one, other = LoopPools(), object(), object()
    async with pools.open("package", 1, one):
        pool = pools.get("package")
        async with pools.open("package", 1, other), pools.open("package", 1, one):
            assert pools.get("package") is pool
            assert isinstance(pool, LoopPool)
        await home_of(pool)
    with pytest.raises(RuntimeError, match=r"the hosted connectors of package have no event loop"):
        pools.get("package")


async def test_an_error_whose_text_raises_ends_its_call_alone():
    class HostileError(RuntimeError):
        def __str__(self):
            raise SystemExit(9)

    async def fail():
        raise HostileError

    async with a_pool() as pool, blocked(pool, 1) as calls:
        await home_blocks(pool, calls)
        with pytest.raises(HostileError):
            await pool.run(fail, name="fail")
        assert await home_of(pool) is not calls.gate.inside[0]
        calls.gate.open()
