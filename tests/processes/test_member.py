"""One process of several: what its supervisor does when it ends. No process is started."""

from __future__ import annotations

import socket

import anyio
import anyio.lowlevel
import pytest

from connectrio.host.settings import HostSettings
from connectrio.processes import _member
from connectrio.processes._member import Member, _End, restart_backoff
from connectrio.processes.control import Control, Order, Request, ServeOptions
from rpc.kit.virtual_time import in_virtual_time

ORDER = Order(0, ServeOptions(HostSettings(), 2, "asyncio", ["info"], "json"), [])


def test_pauses_before_restarts_grow_up_to_a_bound():
    backoff = restart_backoff()
    assert [backoff.next() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


class Scripted(Member):
    """A process that has served, and then lives as its script says.

    :param lives: for how many seconds it serves, each time it is started
    """

    def __init__(self, lives: list[float]) -> None:
        super().__init__(ORDER, lambda member: None)
        self.settled.set()
        self.lives = lives

    async def _live(self) -> _End:
        served = self.lives.pop(0)
        if not self.lives:
            self.stop()
        return _End(1, served, None)


@in_virtual_time
async def test_a_process_may_fail_for_ever():
    member = Scripted([0.0] * 2000)
    await member.run()
    assert member.restarts == 1999


@in_virtual_time
@pytest.mark.parametrize("served", [10.0, 3600.0])
async def test_a_process_that_has_served_for_long_starts_again_at_once(served: float, captured_delays: list[float]):
    await Scripted([0, 0, served, 0, 0]).run()
    assert captured_delays == [0.5, 1, 0, 0.5]


@pytest.fixture
def captured_delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    delays: list[float] = []
    monkeypatch.setattr(
        "connectrio.processes._member.log.error", lambda _, *, delay_seconds, **more: delays.append(delay_seconds)
    )
    return delays


class Process:
    """A process that lives until it is killed."""

    def __init__(self) -> None:
        self.killed_at: float | None = None

    def kill(self) -> None:
        self.killed_at = anyio.current_time()


class Silent:
    """The way to a process that answers only from one time to another, on the event loop's clock.

    :param member: who hears the answers
    """

    def __init__(self, member: Member, loaded_at: float, frozen_at: float) -> None:
        self.member = member
        self.loaded_at = loaded_at
        self.frozen_at = frozen_at

    async def send(self, message: Request) -> None:
        assert message == Request("live")
        if self.loaded_at <= anyio.current_time() < self.frozen_at:
            self.member._heard_at = anyio.current_time()


async def watched(
    frozen_at: float, *, loaded_at: float = 0.0, stopped_at: float = 1e6, hang_limit: float = 30.0
) -> tuple[Member, float]:
    """Return a member whose process was watched for an hour at most, and after how many seconds it was killed.

    :param loaded_at: seconds from its start until it serves; it says nothing before
    """
    order = Order(0, ServeOptions(HostSettings(hang_limit=hang_limit), 2, "asyncio", ["info"], "json"), [])
    member, process, began = Member(order, lambda member: None), Process(), anyio.current_time()

    async def serve() -> None:
        await anyio.sleep(loaded_at)
        member._served_since = member._heard_at = anyio.current_time()

    with anyio.move_on_after(3600):
        async with anyio.create_task_group() as tasks:
            control = Silent(member, began + loaded_at, began + frozen_at)
            tasks.start_soon(serve)
            tasks.start_soon(member._watch, process, control)
            await anyio.sleep(stopped_at)
            member.stop()
    return member, -1.0 if process.killed_at is None else process.killed_at - began


class Lasting:
    """A process that lives until it is told to end."""

    pid = 1

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.ended = anyio.Event()

    def terminate(self) -> None:
        self.returncode = 0
        self.ended.set()

    async def wait(self) -> int:
        await self.ended.wait()
        return 0


@pytest.mark.parametrize("waits", [False, True])
async def test_a_process_gets_its_order_before_all_requests(waits: bool, monkeypatch: pytest.MonkeyPatch):
    """A scrape or a probe may come at any moment, also while a process is started again."""
    ends: list[socket.socket] = []

    async def start(end: socket.socket, held: list[int]) -> Lasting:
        ends.append(end.dup())
        return Lasting()

    monkeypatch.setattr(_member, "_start", start)
    member = Member(ORDER, lambda member: None, waits=waits)

    async def scrape() -> None:
        while True:
            await member.ask("report")
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(member.run)
        tasks.start_soon(scrape)
        while not ends:
            await anyio.lowlevel.checkpoint()
        process = await Control.over(ends[0])
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        if waits:
            member.begin(ORDER)
        assert await process.receive() == ORDER
        assert isinstance(await process.receive(), Request)
        await process.aclose()
        tasks.cancel_scope.cancel()


@in_virtual_time
@pytest.mark.parametrize("loaded_at", [0.0, 590.0])
async def test_a_frozen_process_is_killed_after_the_limit(loaded_at):
    member, after = await watched(1000.0, loaded_at=loaded_at)
    assert 1000 + 30 <= after <= 1000 + 37.5
    assert member._failure.error == "process 0 gave no sign of life for 30 s (hang_limit), and was killed"


@in_virtual_time
@pytest.mark.parametrize("loaded_at", [0.0, 590.0])
async def test_one_that_answers_is_not(loaded_at):
    assert (await watched(1e6, loaded_at=loaded_at))[1] == -1.0


@in_virtual_time
@pytest.mark.parametrize(("hang_limit", "limit"), [(30.0, 600), (1.0, 600), (1000.0, 1000)])
async def test_one_that_freezes_while_it_starts_is_killed_too(hang_limit, limit):
    member, after = await watched(0.0, loaded_at=1e6, hang_limit=hang_limit)
    assert limit <= after <= limit + hang_limit / 4
    error = member._failure.error
    assert error.startswith(f"process 0 gave no sign of life for {limit} s while it started, and was killed")


@in_virtual_time
@pytest.mark.parametrize("frozen_at", [0.0, 1e6])
async def test_one_that_does_not_end_when_it_is_told_to_is_killed(frozen_at):
    member, after = await watched(frozen_at, stopped_at=10.0)
    assert after == pytest.approx(10 + 25 + 20)
    assert member._failure.error == "process 0 did not end after it was told to, and was killed"
