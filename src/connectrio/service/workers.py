"""The worker threads for methods of connectors that are plain functions; and those for work of the host that may hang.

A thread cannot be stopped. When its call is cancelled it is *stuck*: it goes on, and counts as busy. After a minute it
is *lost*, and another thread takes its place, but for each owner not more often than there are workers. After that, the
calls of an owner that has nothing but lost threads fail at once.
"""

from __future__ import annotations

import inspect
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from enum import Enum, auto
from types import FrameType
from typing import Any, Generic, TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import current_token
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from connectrio.connector.context import begin_work, pending_start
from connectrio.connector.failures import TransientError
from connectrio.diagnostics import format_stack
from connectrio.logs import get_logger, line_fields
from connectrio.service.slots import Slots

__all__ = ["Workers", "call_soon_from_threads"]

logger = get_logger("connectrio.service")

T = TypeVar("T")

# seconds that a thread may go on after its call, until another one takes its place
_LOST_AFTER = 60.0


def call_soon_from_threads() -> Callable[..., object]:
    """Return the function of this event loop that threads give a function, and its arguments, to be called soon.

    It raises RuntimeError once the event loop is gone. It does not wait, unlike anyio's `from_thread`, which waits for
    ever if the event loop ends before it comes to the call.
    """
    loop: Any = current_token().native_token
    call_soon: Callable[..., object] = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
    return call_soon  # asyncio's, or trio's


class Workers(Collector):
    """Runs functions in threads, at most `limit` at once.

    Each owner has an equal share of them. If others have taken an owner's share, it gets threads beyond the limit, of
    which there can be as many again.

    A cancelled `run` returns at once. Its thread is stuck until it ends, see above. The function can ask
    `anyio.from_thread.check_cancelled` whether anybody still waits for it.

    In a registry of metrics, it is asked at each scrape how many threads are busy and how many are stuck.

    :param purpose: what the threads are for, in the error of an owner that has lost all of them
    :param remedy: what may be done against that, beside a restart
    :ivar limit: how many functions may run at once
    :raises ValueError: `limit` is less than 1
    """

    def __init__(
        self,
        limit: int,
        *,
        purpose: str = "the connector",
        remedy: str = "give the connector's client a time-out",
    ) -> None:
        if limit < 1:
            raise ValueError(f"there must be at least one worker thread, not {limit}")
        self.limit = limit
        self._purpose = purpose
        self._remedy = remedy
        self._further: list[Workers] = []
        self._slots = Slots(limit, elastic=True)
        # never the bound: on asyncio, anyio releases its limiter as soon as a thread is abandoned
        self._unbounded = anyio.CapacityLimiter(math.inf)
        self._freed: anyio.Event | None = None
        self._runs: dict[_Run[Any], None] = {}
        self._stuck: dict[_Run[Any], None] = {}

    def further(self, limit: int, *, purpose: str, remedy: str) -> Workers:
        """Return threads of their own for something else; `stuck` and `collect` of this one tell of them too."""
        workers = Workers(limit, purpose=purpose, remedy=remedy)
        self._further.append(workers)
        return workers

    @property
    def busy(self) -> int:
        """How many workers are taken now, stuck ones included."""
        return self._slots.active

    async def run(self, function: Callable[[], T], *, name: str, owner: str = "") -> T:
        """Wait for a free worker and call `function` in it, with the caller's context variables.

        :param name: what runs, for people: "DuckDBConnector.get"
        :param owner: whose share of the workers it takes: a connector's task type
        :raises TransientError: all workers of the owner are lost, or it creates a job and it is too late for that
        :raises BaseException: whatever `function` raises, `SystemExit` included
        """
        run = _Run(function, name, owner, self._free)
        if self._slots.try_enter(owner) is None:
            self._replace_lost(owner)
            await self._slots.enter(owner)
        try:
            if (start := pending_start()) is not None:
                start.check()
                if start.record is not None:
                    await start.record()
            begin_work()
            self._runs[run] = None
            await to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._unbounded)
        except BaseException:
            if run.abandon():
                self._stuck[run] = None
            else:
                self._runs.pop(run, None)
            raise
        self._free(run)
        return run.result()

    async def wait_idle(self) -> None:
        """Wait until no thread runs."""
        while self.busy:
            if self._freed is None:
                self._freed = anyio.Event()
            await self._freed.wait()

    def why_busy(self) -> str:
        """Return what may be done if all workers are taken; "" if they are not."""
        if self.busy < self.limit:
            return ""
        methods = Counter(run.name for run in self._stuck)
        if not methods:
            return f"all {self.limit} worker threads were busy: the host may need more of them (`worker`)"
        most = ", ".join(f"{count} in {name}" for name, count in methods.most_common(3))
        return (
            f"worker threads are stuck in calls that nobody waits for any more ({most}): give the connector's client a"
            " time-out below the executor's ten seconds"
        )

    @property
    def stuck_runs(self) -> list[_Run[Any]]:
        """What goes on although nobody waits for it any more, in threads of this one and of `further` ones."""
        return [*self._stuck, *(run for each in self._further for run in each.stuck_runs)]

    @property
    def runs(self) -> list[_Run[Any]]:
        """What runs in threads now, of this one and of `further` ones, the oldest first."""
        return [*self._runs, *(run for each in self._further for run in each.runs)]

    def stuck(self) -> Iterator[tuple[str, float, str]]:
        """Yield what each stuck thread runs, since how many seconds nobody waits for it, and its stack."""
        for run in self.stuck_runs:
            yield run.name, anyio.current_time() - run.abandoned_at, run.stack()

    def collect(self) -> Iterator[Metric]:
        """Yield how many threads are busy and how many may be, what waits for one, and how many are stuck."""
        labels = ["task_type", "purpose"]
        busy = GaugeMetricFamily(
            "connectrio_busy_threads", "Worker threads that are taken, stuck ones included", labels=labels
        )
        most = GaugeMetricFamily(
            "connectrio_busy_threads_limit", "Worker threads for all connectors together", labels=["purpose"]
        )
        waiting = GaugeMetricFamily(
            "connectrio_waiting_for_threads", "Calls that wait for a worker thread", labels=labels
        )
        for workers in (self, *self._further):
            purpose = workers._purpose.removeprefix("the ")  # noqa: SLF001 - of this class
            for owner, entered, queued in workers._slots.usage():  # noqa: SLF001 - as above
                busy.add_metric([owner, purpose], entered)
                waiting.add_metric([owner, purpose], queued)
            most.add_metric([purpose], workers.limit)
        stuck = GaugeMetricFamily(
            "connectrio_stuck_threads",
            "Worker threads that go on although nobody waits for them any more",
            labels=["task_type", "method"],
        )
        for (owner, name), count in Counter((run.owner, run.name) for run in self.stuck_runs).items():
            stuck.add_metric([owner, name], count)
        yield from (busy, most, waiting, stuck)

    def _replace_lost(self, owner: str) -> None:
        """Give the workers that `owner` has lost back, up to a limit.

        :raises TransientError: it has lost them all, beyond that limit
        """
        oldest = anyio.current_time() - _LOST_AFTER
        lost = [run for run in self._stuck if run.owner == owner and run.abandoned_at <= oldest]
        for run in lost[: self.limit]:
            if not run.is_replaced:
                run.is_replaced = True
                self._slots.leave(owner)
                run.context.run(_log_lost, run)  # the line is about its call, not about this one
        if 0 < self._slots.taken_by(owner) <= len(lost) - self.limit:
            methods = ", ".join(sorted({run.name for run in lost}))
            raise TransientError(
                f"all threads that this host has for {self._purpose} are stuck in {methods}, {len(lost)} of them;"
                f" {self._remedy}, and restart the host"
            )

    def _free(self, run: _Run[T]) -> None:
        self._runs.pop(run, None)
        self._stuck.pop(run, None)
        if not run.is_replaced:
            self._slots.leave(run.owner)
        if self._freed is not None:
            self._freed.set()
            self._freed = None


def _log_lost(run: _Run[Any]) -> None:
    logger.error(
        "a worker thread does not come back; another one takes its place",
        method=run.name,
        seconds=round(anyio.current_time() - run.abandoned_at),
        stack=run.stack(),
    )


class _State(Enum):
    PENDING = auto()
    RUNNING = auto()
    ENDED = auto()
    ABANDONED = auto()


class _Run(Generic[T]):
    """One function that runs in a thread. The last of the two, the task or the thread, frees the worker.

    :ivar abandoned_at: since when nobody waits for it, on the event loop's clock
    :ivar began: when the function was called, as `time.monotonic` counts; 0 before
    :ivar is_replaced: whether another thread has taken its place
    :ivar context: of the call that has left it
    """

    def __init__(self, function: Callable[[], T], name: str, owner: str, free: Callable[[_Run[T]], None]) -> None:
        self._function = function
        self.name = name
        self.owner = owner
        self.abandoned_at = math.inf
        self.began = 0.0
        self.is_replaced = False
        self.context = Context()
        self._free = free
        self._thread: int | None = None
        self._lock = threading.Lock()
        self._state = _State.PENDING
        self._value: T
        self._error: BaseException | None = None
        self._call_soon: Callable[..., object]

    def __call__(self) -> None:
        """Run the function in the thread. Raises nothing: anyio's own code in the thread does not expect it."""
        if not self._move(_State.PENDING, _State.RUNNING):
            return
        self.began = time.monotonic()
        self._thread = threading.get_ident()
        try:
            self._value = self._function()
        except BaseException as error:  # noqa: BLE001 - raised again by `result`, in the task that waits for it
            self._error = error
        if not self._move(_State.RUNNING, _State.ENDED):
            self._end_late(time.monotonic() - self.began)

    def result(self) -> T:
        """Return what the function returned, or raise what it raised; only once the thread has ended."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # breaks the cycle of the error and this frame
        return self._value

    def abandon(self) -> bool:
        """Tell the thread that the task was cancelled and will not look at the result.

        :returns: whether the thread goes on
        """
        self._call_soon = call_soon_from_threads()
        self.abandoned_at = anyio.current_time()
        self.context = copy_context()
        if self._move(_State.RUNNING, _State.ABANDONED):
            return True
        if not self._move(_State.PENDING, _State.ABANDONED):
            self._discard()
        self._free(self)
        return False

    @property
    def identity(self) -> Callable[[], Mapping[str, Any]] | None:
        """Returns what log lines say of the call that has left it; None before."""
        return self.context.get(line_fields)

    def frames(self) -> Iterator[FrameType]:
        """Yield the frames of the thread, the innermost first; none if it has ended."""
        frame = sys._current_frames().get(self._thread or 0)  # noqa: SLF001 - documented, for debuggers
        while frame is not None and frame.f_code is not _Run.__call__.__code__:
            yield frame
            frame = frame.f_back

    def stack(self) -> str:
        """Return where the thread is; "" if it has ended."""
        innermost = next(self.frames(), None)
        return "" if innermost is None else format_stack(innermost)

    def _move(self, before: _State, after: _State) -> bool:
        with self._lock:
            if self._state is not before:
                return False
            self._state = after
            return True

    def _end_late(self, seconds: float) -> None:
        raised = None if self._error is None else type(self._error).__name__
        logger.warning(
            "a worker thread ended after its call, and kept a worker busy until then",
            method=self.name,
            seconds=round(seconds, 3),
            raised=raised,
        )
        self._discard()
        with suppress(RuntimeError):  # the event loop is gone, and with it all who waited for a worker
            self._call_soon(self._free, self)

    def _discard(self) -> None:
        """Close the coroutine that was returned, if any: nobody will await it."""
        if self._error is None and inspect.iscoroutine(self._value):
            self._value.close()
        self._error = None
