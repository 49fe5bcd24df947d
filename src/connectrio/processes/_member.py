"""One of the supervisor's processes: start it, ask it, start it again when it ends, and stop it."""

from __future__ import annotations

import enum
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from anyio.abc import Process

from connectrio.host.lifecycle import HostError
from connectrio.logs import get_logger
from connectrio.processes.control import (
    Announced,
    Control,
    Described,
    Failed,
    Order,
    Request,
    Serving,
    Stacks,
    StateReport,
    StatusReport,
    process_command,
)
from connectrio.rpc.backoff import Backoff

log = get_logger("connectrio.processes")

__all__ = ["Member", "MemberState", "restart_backoff"]

Answer = TypeVar("Answer", StateReport, StatusReport, Stacks, Described)

# seconds for a process to answer: probes wait one second by default, and a host answers within milliseconds
_REPORT_TIMEOUT = 0.5
# the same for what people ask for, who wait longer than probes
_STATUS_TIMEOUT = 2.0
# seconds between two looks whether a process has left the port
_LOOK = 0.01
# seconds from the order to stop at once until the process is killed; by itself it takes at most one
_KILL_AFTER = 1.5
# seconds, beyond `drain_delay` and `grace`, from the order to stop to the end: lifespans have ten to close
_END_AFTER = 20.0
# seconds without an answer while it starts: importing the modules of connectors may block its event loop
_START_LIMIT = 600.0
# the parts of `hang_limit`, each of which must pass without an answer
_PERIODS = 4
# seconds; after a process has served this long, it is started again without delay
_LONG_ENOUGH = 10.0


class MemberState(enum.StrEnum):
    """The state of one of the processes."""

    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting to start again"
    STOPPED = "stopped"


@dataclass(frozen=True)
class _End:
    """How a process has ended.

    :ivar served: the seconds for which it has answered calls
    :ivar failure: why it could not start, if it has reported that
    """

    code: int
    served: float
    failure: Failed | None


@dataclass
class _Expected:
    """The next answer of a kind, for all who wait for it."""

    arrived: anyio.Event = field(default_factory=anyio.Event)
    answer: object = None


def restart_backoff() -> Backoff:
    """Return the pauses before a process that has failed is started again."""
    return Backoff(0.5, factor=2, maximum=30)


class Member:
    """One of the processes. `run` keeps it alive.

    :param order: sent to the process when it starts
    :param on_end: called with this when the process has ended, before it is started again
    :param waits: start the process, which imports the host, and send the order when `begin` is called

    :ivar settled: set once the process answers calls for the first time, or cannot
    :ivar failure: why it cannot
    :ivar restarts: the number of times it was started again
    :ivar report: the last report; None before the first
    """

    def __init__(self, order: Order, on_end: Callable[[Member], None], *, waits: bool = False) -> None:
        self._order = order
        self._on_end = on_end
        self._process: Process | None = None
        self._control: Control | None = None
        self._expected: dict[type, _Expected] = {}
        self._stopping = anyio.Event()
        self._failure: Failed | None = None
        self._life = anyio.CancelScope()
        self._ordered = anyio.Event()
        if not waits:
            self._ordered.set()
        self._served_since: float | None = None
        self._heard_at = 0.0
        self._state = MemberState.STARTING
        self._answers = True
        self.number = order.number
        self.settled = anyio.Event()
        self.failure: HostError | None = None
        self.restarts = 0
        self.report: StateReport | None = None

    @property
    def answers(self) -> bool:
        """Whether the process has answered the last request for its state, if there was one."""
        return self._answers

    @property
    def is_ready(self) -> bool:
        """Whether the process answers calls and accepts more."""
        return self._state is MemberState.SERVING and self._answers and (self.report is None or self.report.is_ready)

    @property
    def state(self) -> str:
        """The state of the process, for people."""
        if self._state is not MemberState.SERVING:
            return str(self._state)
        if not self._answers:
            return "not answering"
        return self.report.state if self.report else str(self._state)

    @property
    def pid(self) -> int | None:
        """The id of the process that runs now."""
        return None if self._process is None else self._process.pid

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def begin(self, order: Order) -> None:
        """Let a process that waits host as `order` says."""
        self._order = order
        self._ordered.set()

    async def run(self) -> None:
        """Keep a process running until `stop`, then wait until it has ended. When this is cancelled, stop it at once.

        If the first process ends before it serves, it is not started again, and `failure` says why.
        """
        try:
            with self._life:
                await self._keep_running()
        finally:
            self._state = MemberState.STOPPED
            self.settled.set()

    async def _keep_running(self) -> None:
        backoff = restart_backoff()
        while not self._stopping.is_set():
            self._state = MemberState.STARTING
            end = await self._live()
            if self._stopping.is_set():
                break
            if not self.settled.is_set():
                why = end.failure or Failed(f"process {self.number} ended with {_code(end.code)} before it served")
                self.failure = HostError(why.error)
                self.failure.picture = why.picture
                return
            if end.served >= _LONG_ENOUGH:
                backoff.reset()
                delay = 0.0
            else:
                delay = backoff.next()
            self._state = MemberState.WAITING
            self.restarts += 1
            log.error(
                "a process ended; it is started again",
                about_process=self.number,
                reason=end.failure.error if end.failure else _code(end.code),
                delay_seconds=delay,
                **({"exception": end.failure.picture} if end.failure and end.failure.picture else {}),
            )
            with anyio.move_on_after(delay):
                await self._stopping.wait()

    def stop(self) -> None:
        """Let the process drain, as SIGTERM does; called again, let it stop at once. If it does not end, kill it."""
        self._stopping.set()
        self._ordered.set()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    async def has_left_the_port(self) -> None:
        """Wait until a process that was told to stop takes no more connections, or does not answer."""
        while self._control is not None and self._answers and (self.report is None or self.report.is_listening):
            await self.refresh()
            await anyio.sleep(_LOOK)

    def give_up(self) -> None:
        """End the process and `run`, without waiting. A process that does not follow SIGTERM in time is killed."""
        self._stopping.set()
        self._life.cancel()

    def show_stuck(self) -> None:
        """Let the process log which of its worker threads are stuck, if it serves."""
        if self._process is not None and self._state is MemberState.SERVING:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGUSR1)

    async def ask(self, what: str) -> None:
        """Send a request to the process that runs now, if there is one."""
        if self._control is not None:
            await self._control.send(Request(what))

    async def refresh(self) -> None:
        """Get a new `report`; a process that does not answer in time is not ready."""
        report = await self._ask_for("report", StateReport, _REPORT_TIMEOUT)
        if self._control is not None:
            self._answers = report is not None

    async def status(self) -> StatusReport | None:
        """Return what the process tells of itself; None if it does not answer in time."""
        return await self._ask_for("status", StatusReport, _STATUS_TIMEOUT)

    async def stacks(self) -> Stacks | None:
        """Return where the tasks and threads of the process are; None if it does not answer in time."""
        return await self._ask_for("stacks", Stacks, _STATUS_TIMEOUT)

    async def describe(self) -> Described | None:
        """Return what the process serves, for its author; None if it does not answer in time."""
        return await self._ask_for("describe", Described, _STATUS_TIMEOUT)

    async def _ask_for(self, what: str, kind: type[Answer], timeout: float) -> Answer | None:  # noqa: ASYNC109 - of the answer
        if self._control is None:
            return None
        expected = self._expected.setdefault(kind, _Expected())
        with anyio.move_on_after(timeout):
            await self.ask(what)
            await expected.arrived.wait()
        return expected.answer if isinstance(expected.answer, kind) else None

    async def _live(self) -> _End:
        """Run a process from its start to its end."""
        self._failure, self._served_since, self._answers = None, None, True
        ours, theirs = socket.socketpair()
        control = await Control.over(ours)
        with theirs:
            process = self._process = await _start(theirs, self._order.held)
        try:
            if self._stopping.is_set():  # `stop` was called while the process was starting, and could not signal it
                self.stop()
            await self._ordered.wait()
            async with anyio.create_task_group() as watching:
                watching.start_soon(self._watch, process, control)
                await control.send(self._order)
                self._control = control  # not before: the process takes the first message for its order
                await self._listen_to(control)
                code = await process.wait()
                watching.cancel_scope.cancel()
        finally:
            await self._end(process, control)
        return _End(code, self._seconds_served(), self._failure)

    def _seconds_served(self) -> float:
        return 0.0 if self._served_since is None else anyio.current_time() - self._served_since

    async def _listen_to(self, control: Control) -> None:
        while (message := await control.receive()) is not None:
            self._heard_at = anyio.current_time()
            match message:
                case Serving():
                    self._served_since = anyio.current_time()
                    self._state = MemberState.SERVING
                    self.settled.set()
                case Announced(fields=fields):
                    processes = self._order.options.processes
                    log.info("serving", **{**fields, "pid": os.getpid(), "processes": processes})
                case Failed():
                    self._failure = message
                case StateReport() | StatusReport() | Stacks() | Described():
                    if isinstance(message, StateReport):
                        self.report = message
                    expected = self._expected.pop(type(message), None)
                    if expected is not None:
                        expected.answer = message
                        expected.arrived.set()

    async def _watch(self, process: Process, control: Control) -> None:
        """Kill the process when it gives no sign of life for too long, or does not end when it was told to.

        Only whole periods without an answer count, so that a machine that was suspended is no reason.
        """
        settings = self._order.options.settings
        period = settings.hang_limit / _PERIODS
        silent, limit = 0, settings.hang_limit
        while silent * period < limit and not self._stopping.is_set():
            asked_at = anyio.current_time()
            with anyio.move_on_after(period):
                await control.send(Request("live"))
                await self._stopping.wait()
            silent = 0 if self._heard_at >= asked_at else silent + 1
            limit = settings.hang_limit if self._served_since is not None else max(settings.hang_limit, _START_LIMIT)
        name = f"process {self.number}"
        if self._stopping.is_set():
            await anyio.sleep(settings.drain_delay + settings.grace + _END_AFTER)
            reason = f"{name} did not end after it was told to, and was killed"
        elif self._served_since is not None:
            reason = f"{name} gave no sign of life for {limit:g} s (hang_limit), and was killed"
        else:
            reason = (
                f"{name} gave no sign of life for {limit:g} s while it started, and was killed; look at what the"
                " modules of its connectors do when they are imported"
            )
        self._failure = Failed(reason)
        log.error("a process is killed", about_process=self.number, reason=reason)
        with suppress(ProcessLookupError):
            process.kill()

    async def _end(self, process: Process, control: Control) -> None:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
                with anyio.move_on_after(_KILL_AFTER):
                    await process.wait()
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                with anyio.move_on_after(_KILL_AFTER):  # the kernel may hold it, as while a file system is away
                    await process.wait()
            await control.aclose()
        self._process = self._control = self.report = None
        self._on_end(self)


async def _start(end: socket.socket, held: Sequence[int]) -> Process:
    # a session of its own: otherwise each process would get Ctrl-C from the terminal and again from the supervisor
    return await anyio.open_process(
        process_command("host", end.fileno()),
        stdin=subprocess.DEVNULL,
        stdout=None,
        stderr=None,
        pass_fds=[end.fileno(), *held],
        start_new_session=True,
    )


def _code(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
