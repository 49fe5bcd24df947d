"""Backends whose clock jumps to the next deadline when nobody has anything to do: hours pass in no time.

uvloop's clock cannot be moved; what needs this runs on asyncio and trio.
"""

from __future__ import annotations

import asyncio
import math
import selectors

import pytest
import trio.testing

# seconds of patience where time costs nothing
LONG = 1e6


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: moves the clock instead.

    :ivar now: seconds; stands still while anybody has something to do, however slow the machine is
    """

    now = 0.0

    def select(self, timeout: float | None = None):
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen again")
        if not ready and timeout is not None:
            # a hair further: what is due exactly now, asyncio leaves for the next turn
            self.now = math.nextafter(self.now + timeout, math.inf)
        return ready


class JumpingEventLoop(asyncio.SelectorEventLoop):
    """An event loop for tests without sockets, threads and signals."""

    def __init__(self) -> None:
        self._jumping_selector = _JumpingSelector()
        super().__init__(self._jumping_selector)

    def time(self) -> float:
        return self._jumping_selector.now


in_virtual_time = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {"loop_factory": JumpingEventLoop}), id="asyncio"),
        pytest.param(("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}), id="trio"),
    ],
)
