"""Room for calls and threads: whoever takes much takes it from nobody."""

from __future__ import annotations

import threading
from functools import partial

import anyio
import pytest
from grpclib import GRPCError
from grpclib.const import Status
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict
from prometheus_client import CollectorRegistry

from connectrio import Phase, Resource
from connectrio.rpc.call import Call, reset_current_call, set_current_call
from connectrio.service.slots import NoRoomError, Slots
from connectrio.service.workers import Workers
from service.harness import Base, Service, connector


async def fill(slots: Slots, name: str, count: int = 1000) -> int:
    """Go in until there is no more room; how often that was."""
    return next((index for index in range(count) if not slots.try_enter(name)), count)


async def test_one_alone_has_all_the_room():
    slots = Slots(10)
    assert await fill(slots, "a") == 10
    assert slots.active == 10


async def test_no_connector_has_more_than_each():
    slots = Slots(10, each=4)
    assert await fill(slots, "a") == 4
    assert await fill(slots, "b") == 4


async def test_room_that_nobody_is_expected_in_yet():
    for slots in (Slots(4, waiting=2), Slots(4, waiting=2, elastic=True)):
        slots.divide_among([])
        assert await fill(slots, "a") == 4


async def test_the_share_of_another_is_left():
    slots = Slots(12)
    slots.divide_among(["a", "b", "c"])
    assert await fill(slots, "a") == 8
    assert await fill(slots, "b") == 2
    assert await fill(slots, "c") == 2
    assert slots.active == 12


async def test_elastic_room_has_an_equal_share_for_who_comes_late():
    slots = Slots(10, elastic=True)
    assert await fill(slots, "a") == 10
    assert await fill(slots, "b") == 5
    assert await fill(slots, "c") == 3


async def test_a_share_is_never_less_than_one_slot_where_room_is_elastic():
    slots = Slots(2, elastic=True)
    slots.divide_among(["a", "b", "c"])
    assert [await fill(slots, name) for name in ("a", "b", "c")] == [2, 1, 1]


async def test_what_is_left_can_be_taken_again():
    slots = Slots(2)
    for _ in range(5):
        assert await fill(slots, "a") == 2
        slots.leave("a")
        slots.leave("a")
    assert slots.active == 0


@pytest.fixture
def order():
    return []


async def take(slots: Slots, name: str, order: list[str]) -> None:
    await slots.enter(name)
    order.append(name)


async def test_they_wait_in_order(order):
    slots = Slots(1)
    await slots.enter("a")
    async with anyio.create_task_group() as tasks:
        for index in range(3):
            tasks.start_soon(take_numbered, slots, index, order)
            await anyio.wait_all_tasks_blocked()
        slots.leave("a")
    assert order == [0, 1, 2]
    assert slots.active == 0


async def take_numbered(slots: Slots, index: int, order: list[int]) -> None:
    await slots.enter("a")
    order.append(index)
    slots.leave("a")


async def test_what_becomes_free_goes_to_who_has_least(order):
    slots = Slots(4, elastic=True)
    slots.divide_among(["a", "b"])
    assert await fill(slots, "a") == 4
    assert await fill(slots, "b") == 2
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, slots, "a", order)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(take, slots, "b", order)
        await anyio.wait_all_tasks_blocked()
        slots.leave("a")
        await anyio.wait_all_tasks_blocked()
        assert order == ["b"]
        tasks.cancel_scope.cancel()


async def test_the_queue_is_bounded(order):
    slots = Slots(1, waiting=4)
    slots.divide_among(["a", "b"])
    await slots.enter("a")
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(take, slots, "a", order)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(NoRoomError):
            await slots.enter("a")
        # the other's part of the queue is its own
        tasks.start_soon(take, slots, "b", order)
        await anyio.wait_all_tasks_blocked()
        assert list(slots.usage()) == [("a", 1, 2), ("b", 0, 1)]
        tasks.cancel_scope.cancel()
    assert list(slots.usage()) == [("a", 1, 0), ("b", 0, 0)]


async def test_none_waits_where_none_may():
    slots = Slots(1, waiting=0)
    await slots.enter("a")
    with pytest.raises(NoRoomError):
        await slots.enter("a")


async def test_cancelled_while_waiting(order):
    slots = Slots(1)
    await slots.enter("a")
    with anyio.move_on_after(0.01):
        await slots.enter("a")
    slots.leave("a")
    assert slots.active == 0
    assert slots.try_enter("a")


async def test_cancelled_just_when_there_is_room():
    slots = Slots(1)
    await slots.enter("a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slots.enter, "a")
        await anyio.wait_all_tasks_blocked()
        slots.leave("a")
        tasks.cancel_scope.cancel()
    assert slots.active in (0, 1)  # whichever was first
    assert sum(active for _, active, _ in slots.usage()) == slots.active


@given(
    limit=st.integers(1, 20),
    elastic=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=200),
)
def test_the_limits_hold(limit, elastic, steps):
    slots = Slots(limit, elastic=elastic)
    slots.divide_among("abcd")
    inside = dict.fromkeys("abcd", 0)
    for name, enters in steps:
        if enters:
            share = max(1, limit // 4) if elastic else limit // 8
            entered = slots.try_enter(name) is not None
            assert entered or inside[name] >= share
            inside[name] += entered
        elif inside[name]:
            slots.leave(name)
            inside[name] -= 1
        assert slots.active == sum(inside.values())
        assert slots.active <= (2 * limit + 4 if elastic else limit)


# calls


class Held(Base):
    """Calls that wait for an event."""

    def __init__(self, name: str = "tiny") -> None:
        self.task_type_name = name
        self.release = anyio.Event()
        self.inside = 0

    async def get(self, resource_meta, **kwargs):
        self.inside += 1
        await self.release.wait()
        return Resource(Phase.RUNNING)


async def test_a_slow_connector_takes_no_other_ones_room():
    slow, quick = Held("slow"), connector()
    service = Service(slow, quick, max_calls=8, max_waiting_calls=4)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(service.get, "slow")
        await anyio.wait_all_tasks_blocked()
        assert slow.inside == 6
        assert service.sample("active_calls", task_type="slow", kind="calls") == 6
        for _ in range(3):
            await service.get("tiny")
        with pytest.raises(GRPCError) as no:
            await service.get("slow")
        assert no.value.status is Status.RESOURCE_EXHAUSTED
        assert no.value.message == (
            "get slow task: this host is busy with as many calls to this connector as max_calls and"
            " max_calls_per_connector allow, and the queue (max_waiting_calls) is full; try again later, or raise these"
            " settings"
        )
        assert service.count("get", "429", "slow") == 1
        slow.release.set()
    assert slow.inside == 8
    assert service.count("get", task_type="slow") == 8


async def test_streams_of_logs_have_room_of_their_own():
    async def get_logs(self, resource_meta, **kwargs):
        await release.wait()
        return
        yield

    release = anyio.Event()
    service = Service(connector(get_logs=get_logs), max_calls=1, max_log_streams=2)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(service.get_logs)
        await anyio.wait_all_tasks_blocked()
        await service.get()
        with pytest.raises(GRPCError) as caught:
            await service.get_logs()
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        assert caught.value.message == (
            "get logs of tiny task: this host sends as many streams of logs as max_log_streams allows, or half of them"
            " to this address; try again later, or raise it"
        )
        release.set()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"], "10.0.0.2:1"),
        (["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::ffff:3]:1"], "[2001:db8:0:1::1]:1"),
        (["10.0.0.1:1", "[::ffff:10.0.0.1]:1", "10.0.0.1:2"], "[::ffff:10.0.0.2]:1"),
    ],
)
async def test_one_address_gets_half_of_the_streams_of_logs(one, other):
    async def get_logs(self, resource_meta, **kwargs):
        await release.wait()
        return
        yield

    async def stream(peer):
        token = set_current_call(Call("", MultiDict(), peer=peer))
        try:
            await service.get_logs()
        finally:
            reset_current_call(token)

    release = anyio.Event()
    service = Service(connector(get_logs=get_logs), max_log_streams=4)
    async with anyio.create_task_group() as tasks:
        for peer in one[:2]:
            tasks.start_soon(stream, peer)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(GRPCError, match="half of them to this address"):
            await stream(one[2])
        tasks.start_soon(stream, other)
        await anyio.wait_all_tasks_blocked()
        assert service.sample("active_calls", kind="log_streams") == 3
        release.set()
    await stream(one[2])
    assert service.sample("active_calls", kind="log_streams") == 0


async def test_how_the_room_is_used_is_shown():
    held = Held()
    service = Service(held, max_calls=1, max_waiting_calls=5)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(service.get)
        await anyio.wait_all_tasks_blocked()
        assert service.sample("active_calls", kind="calls") == 1
        assert service.sample("waiting_calls", kind="calls") == 2
        held.release.set()
    assert service.sample("active_calls", kind="calls") == 0


def test_how_much_room_there_is_is_shown():
    metrics = Service(max_calls=7, max_waiting_calls=5, max_log_streams=3).metrics
    shown = [
        (metrics.registry.get_sample_value(f"connectrio_{name}_calls_limit", {"kind": kind}))
        for name in ("active", "waiting")
        for kind in ("calls", "log_streams")
    ]
    assert shown == [7, 3, 5, 0]


# threads

# seconds; what is waited for is an event, and this only ends a test that fails
PATIENCE = 30


def threads(workers, name, **labels):
    registry = CollectorRegistry()
    registry.register(workers)
    return registry.get_sample_value(f"connectrio_{name}", labels)


def test_how_many_threads_there_are_is_shown():
    workers = Workers(2)
    workers.further(3, purpose="outputs", remedy="")
    assert threads(workers, "busy_threads_limit", purpose="connector") == 2
    assert threads(workers, "busy_threads_limit", purpose="outputs") == 3


async def test_one_owner_never_has_all_the_threads():
    workers = Workers(2)
    gate = threading.Event()
    began = threading.Semaphore(0)

    def hold():
        began.release()
        assert gate.wait(PATIENCE)

    async with anyio.create_task_group() as tasks:
        try:
            for _ in range(10):
                tasks.start_soon(partial(workers.run, hold, name="slow", owner="slow"))
            for _ in range(2):
                assert await anyio.to_thread.run_sync(partial(began.acquire, timeout=PATIENCE))
            assert await workers.run(lambda: 5, name="quick", owner="quick") == 5
            assert workers.busy == 2
            assert threads(workers, "busy_threads", task_type="slow", purpose="connector") == 2
            assert threads(workers, "waiting_for_threads", task_type="slow", purpose="connector") == 8
        finally:
            gate.set()  # also where the test fails: its threads must end
    assert workers.busy == 0
