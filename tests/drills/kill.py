"""The drill of clients that are killed during calls: when the calls are cancelled, and what the host still holds."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from drills.hosting import HERE, PATIENCE, Control, DrillHost
from drills.orders import GET, attack
from drills.process import MIB, resident
from e2e.programs import Program, eventually
from rpc.kit.frames import FrameFactory, request_headers

# seconds for the host to free the resources of closed connections
_SETTLING = 60.0


@dataclass(frozen=True)
class Held:
    """The resources that a host holds at one moment.

    :ivar calls: how many were cancelled so far
    :ivar tasks: of the event loop
    :ivar descriptors: sockets and files
    :ivar objects: that Python's garbage collector knows
    :ivar memory_mib: resident
    """

    calls: int
    tasks: int
    descriptors: int
    objects: int
    memory_mib: float

    def holds_no_more_than(self, other: Held) -> bool:
        """Return whether there are no more tasks and descriptors than at another moment."""
        return self.tasks <= other.tasks and self.descriptors <= other.descriptors


@dataclass(frozen=True)
class Report:
    """The result of killing clients.

    :ivar kills: clients that were killed
    :ivar shape: their connections, and the calls on each
    :ivar delays_ms: from the kill to each call's cancellation, in order
    :ivar held: what the host held, from a warm beginning to the end
    """

    backend: str
    kills: int
    shape: tuple[int, int]
    delays_ms: list[float]
    held: list[Held]

    def percentile(self, percent: float) -> float:
        """Return the delay that this percentage of calls does not exceed."""
        return self.delays_ms[min(len(self.delays_ms) - 1, int(len(self.delays_ms) * percent / 100))]

    @property
    def passed(self) -> bool:
        """Whether every call was cancelled, and the host holds no more tasks and descriptors than before."""
        calls = self.kills * self.shape[0] * self.shape[1]
        return len(self.delays_ms) == calls and self.held[-1].holds_no_more_than(self.held[0])


class Killer:
    """Starts clients of a host, and kills them.

    :param shape: connections of each client, and calls on each
    :ivar delays_ms: see `Report`
    """

    def __init__(self, host: DrillHost, control: Control, shape: tuple[int, int], directory: Path) -> None:
        self._host = host
        self._control = control
        self._connections, self._streams = shape
        self._file = directory / "calls"
        self._file.write_bytes(held_calls(self._streams))
        self._begun = int(control.report()["begun"])
        self.delays_ms: list[float] = []

    def kill_one(self) -> None:
        """Start a client, and kill it when all its calls have begun."""
        self._begun += self._connections * self._streams
        address, _, port = self._host.target.rpartition(":")
        command = [sys.executable, "-I", "-S", HERE / "victim.py", address, port, str(self._connections), self._file]
        with Program(command, cwd=HERE) as victim:
            eventually(lambda: self._control.report()["begun"] == self._begun, PATIENCE)
            killed = time.monotonic()
            victim.kill()
            self._collect(killed)

    def _collect(self, killed: float) -> None:
        def all_were_cancelled() -> bool:
            report = self._control.report()
            self.delays_ms += [1000 * (at - killed) for at in report["cancelled"]]
            return bool(report["total_cancelled"] == self._begun)

        eventually(all_were_cancelled, PATIENCE)

    def what_is_held(self, idle: Held | None = None) -> Held:
        """Return the resources of the host after it has closed all connections.

        :param idle: what it held earlier: it is waited for until there are no more tasks and descriptors than then,
            as long as patience lasts
        """
        looks = [self._look()]

        def is_settled() -> bool:
            time.sleep(0.1)
            looks.append(self._look())
            if idle is not None:
                return looks[-1].holds_no_more_than(idle)
            return len({(look.tasks, look.descriptors) for look in looks[-5:]}) == 1 and len(looks) >= 5

        with suppress(TimeoutError):  # then report the resources that are left
            eventually(is_settled, _SETTLING)
        return looks[-1]

    def _look(self) -> Held:
        report = self._control.report("all")
        return Held(
            report["total_cancelled"],
            report["tasks"],
            report["descriptors"],
            report["objects"],
            resident(self._host.pid) / MIB,
        )


def held_calls(streams: int) -> bytes:
    """Return the bytes of a connection: the handshake, and calls that wait to be cancelled."""
    make = FrameFactory()
    calls = [
        make.headers(stream_id, request_headers({":path": GET}))
        + make.message(stream_id, attack("hold"), end_stream=True)
        for stream_id in range(1, 2 * streams, 2)
    ]
    return make.preface() + make.settings_ack() + b"".join(calls)


@contextmanager
def killer(backend: str, shape: tuple[int, int]) -> Iterator[Killer]:
    """Yield a host, and the object that kills its clients."""
    with (
        tempfile.TemporaryDirectory() as directory,
        DrillHost(backend, get_limit=3600) as host,  # only the end of its client cancels a call
        Control(host.ready().target) as control,
    ):
        yield Killer(host, control, shape, Path(directory))


def drill(backend: str, kills: int, shape: tuple[int, int], *, looks: int = 4) -> Report:
    """Kill clients of a new host.

    :param looks: how often to look at what the host holds
    """
    with killer(backend, shape) as killing:
        warm = max(1, kills // 10)
        for _ in range(warm):
            killing.kill_one()
        killing.delays_ms.clear()
        held = [killing.what_is_held()]
        for number in range(1, kills + 1):
            killing.kill_one()
            if number % max(1, kills // looks) == 0:
                held.append(killing.what_is_held(held[0]))
        return Report(backend, kills, shape, sorted(killing.delays_ms), held)
