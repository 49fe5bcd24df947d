"""What a process has used: processor time and memory, its children's included (Linux: /proc)."""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_INTERVAL = 0.02


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for member in found:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in children.read_text().split()]
    return found


class Used(NamedTuple):
    """What the threads of a process had of the processors, in seconds.

    :ivar ran: for how long they ran
    :ivar waited: for how long they could have run, but others did
    """

    ran: float
    waited: float


def used(pid: int) -> Used:
    """Of the threads that live, to the nanosecond, as the scheduler has it."""
    ran = waited = 0
    for member in family(pid):
        for statistics in Path(f"/proc/{member}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                words = statistics.read_text().split()
                ran += int(words[0])
                waited += int(words[1])
    return Used(ran / 1e9, waited / 1e9)


def resident_bytes(pid: int) -> int:
    """What the process and its descendants have in memory: RSS, which counts shared pages for each."""
    return sum(_resident(member) for member in family(pid))


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


class CpuClock:
    """What a process had used at which time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._times: list[float] = []
        self._used: list[Used] = []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record while the block runs."""
        ended = threading.Event()

        def record() -> None:
            while not ended.wait(_INTERVAL):
                self._sample()

        thread = threading.Thread(target=record)
        self._sample()
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._sample()

    def _sample(self) -> None:
        self._used.append(used(self._pid))
        self._times.append(time.time())

    def window(self, since: float, until: float) -> tuple[float, float, Used]:
        """The widest window of samples within; when it begins and ends, and what was used between."""
        first = min(bisect_left(self._times, since), len(self._times) - 2)
        last = max(bisect_left(self._times, until) - 1, first + 1)
        before, after = self._used[first], self._used[last]
        return self._times[first], self._times[last], Used(after.ran - before.ran, after.waited - before.waited)
