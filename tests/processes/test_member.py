"""One process of several: what its supervisor does when it ends. No process is started."""

from __future__ import annotations

import pytest

from connectrio.host.settings import HostSettings
from connectrio.processes._member import Member, _End, restart_backoff
from connectrio.processes.control import Order, ServeOptions
from rpc.kit.virtual_time import in_virtual_time

ORDER = Order(0, ServeOptions(HostSettings(), 2, "asyncio", "info", "json"), [])


def test_pauses_before_restarts_grow_up_to_a_bound():
    backoff = restart_backoff()
    assert [backoff.next() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


class Scripted(Member):
    """A process that has served, and then lives as its script says.

    :param lives: for how many seconds it serves, each time it is started
    """

    def __init__(self, lives: list[float]) -> None:
        super().__init__(ORDER, lambda: None)
        self.serving.set()
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
