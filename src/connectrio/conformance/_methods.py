"""Tries single methods: where they can be cancelled, and whether they block the event loop.

A method is run step by step, from one suspension to the next, while a `Watch` looks on.
"""

from __future__ import annotations

import inspect
import sys
import threading
import time
import types
from collections.abc import AsyncIterable, Callable, Coroutine, Generator
from pathlib import Path
from types import FrameType
from typing import Any, Self

import anyio

from connectrio.conformance._answers import create_arguments
from connectrio.conformance._report import Report
from connectrio.connector.base import AsyncConnector
from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.service.methods import ConnectorMethod
from connectrio.service.operations import Operation

__all__ = ["check_methods"]

# each method is cancelled at its first waits, at most so many; each one for `create` is a job
_MOST_WAITS = 12
# seconds that a step may keep the event loop from other tasks, such as health checks and other polls
_THRESHOLD = 0.1
# seconds between two looks at a step
_SAMPLE = 0.01
_STDLIB = Path(threading.__file__).parent

Call = Callable[[], Coroutine[Any, Any, Any]]


async def check_methods(
    connector: AsyncConnector[Any],
    request: Callable[[], CreateTaskRequest],
    meta: Any,
    created: Callable[[Any], None],
    report: Report,
) -> None:
    """Try each method that is `async def`.

    :param request: makes a new request for a job
    :param meta: the resource meta of a job that exists
    :param created: called with the resource meta of each job that was created here
    """
    for operation in (Operation.CREATE, Operation.GET, Operation.GET_LOGS, Operation.GET_METRICS, Operation.DELETE):
        method = ConnectorMethod.of(connector, operation)
        if not method.overridden or method.blocking:
            continue
        call = _call(connector, method, operation, request, meta, created)
        if await _check_blocking(method, call, report):
            await _check_cancellation(method, call, report)


def _call(
    connector: AsyncConnector[Any],
    method: ConnectorMethod,
    operation: Operation,
    request: Callable[[], CreateTaskRequest],
    meta: Any,
    created: Callable[[Any], None],
) -> Call:
    async def call() -> None:
        wanted = request()
        if operation is Operation.CREATE:
            arguments = create_arguments(connector, wanted)
        else:
            offered = {"token": "", "lines": 0, "queries": [], "output_prefix": wanted.output_prefix}
            offered |= {"start_time": None, "end_time": None, "step": None}
            arguments = {"resource_meta": meta, **method.named(offered)}
        has_connection = operation in (Operation.CREATE, Operation.GET, Operation.DELETE)
        connection = wanted.connection if has_connection else None
        result = method.function(**method.with_connection(arguments, connection))
        if isinstance(result, AsyncIterable):
            async for _ in result:
                pass
        elif inspect.isawaitable(result):
            result = await result
            if operation is Operation.CREATE:
                created(result)

    return call


async def _check_blocking(method: ConnectorMethod, call: Call, report: Report) -> bool:
    """Report a method that blocks the event loop. Return False if the method fails.

    Only a method that blocks three times counts: the first call may import something, and the machine may be busy.
    """
    for _ in range(3):
        with Blocked() as watch:
            try:
                await driven(call(), watch)
            except Exception:  # noqa: BLE001 - other rules report that the method fails
                return False
        if watch.seconds <= _THRESHOLD:
            return True
    where = f", last seen at {watch.line}" if watch.line else ""
    report.found("blocking", method.label, f"it kept the event loop busy for {watch.seconds:.2f} s{where}")
    return True


async def _check_cancellation(method: ConnectorMethod, call: Call, report: Report) -> None:
    for number in range(1, _MOST_WAITS + 1):
        with anyio.CancelScope() as scope:
            watch = CancelAt(scope, number)
            try:
                await driven(call(), watch)
            except Exception as error:  # noqa: BLE001 - this is what the rule looks for
                problem = f"it raised {type(error).__name__} instead of the cancellation"
            else:
                problem = "it went on, and returned"
            if watch.delivered:
                report.found("cancellation", method.label, f"cancelled at its wait no. {number}, {problem}")
        if not watch.reached:
            return


class Watch:
    """Is called before and after each step of a coroutine. This one does nothing."""

    def begin(self) -> None:
        """A step begins."""

    def suspended(self) -> None:
        """The step has ended with a wait."""

    def resumed(self, error: BaseException | None) -> None:
        """The wait has ended, with `error` if it failed."""


@types.coroutine
def driven(coroutine: Coroutine[Any, Any, Any], watch: Watch) -> Generator[Any, Any, Any]:
    """Await `coroutine`, tell `watch` about each step, and return the result."""
    value: Any = None
    error: BaseException | None = None
    while True:
        watch.begin()
        try:
            waits_for = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as end:
            return end.value
        watch.suspended()
        value = error = None
        try:
            value = yield waits_for
        except BaseException as raised:  # noqa: BLE001 - passed on to the coroutine at once
            error = raised
        # trio passes an error as a value, an `outcome.Error`, which trio's code inside the coroutine raises
        watch.resumed(error or getattr(value, "error", None))


class CancelAt(Watch):
    """Cancels a scope at the n-th suspension.

    :ivar reached: whether the coroutine got to its n-th suspension
    :ivar delivered: whether the cancellation was raised in the coroutine
    """

    def __init__(self, scope: anyio.CancelScope, number: int) -> None:
        self.reached = False
        self.delivered = False
        self._scope = scope
        self._left = number

    def suspended(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.reached = True
            self._scope.cancel()

    def resumed(self, error: BaseException | None) -> None:
        if self.reached and isinstance(error, anyio.get_cancelled_exc_class()):
            self.delivered = True


class Blocked(Watch):
    """Measures how long steps take. A thread looks where the longest of them spends its time.

    :ivar seconds: how long the longest step took
    :ivar line: where it was last seen, such as "reports.py:17"
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.line = ""
        self._began: float | None = None
        self._thread_id = threading.get_ident()
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._sampler.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.suspended()
        self._ended.set()
        self._sampler.join()

    def begin(self) -> None:
        self._began = time.perf_counter()

    def suspended(self) -> None:
        if self._began is not None:
            self.seconds = max(self.seconds, time.perf_counter() - self._began)
            self._began = None

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE):
            began = self._began
            if began is not None and time.perf_counter() - began > max(_THRESHOLD, self.seconds):
                frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - it is documented
                self.line = _line(frame) or self.line


def _line(frame: FrameType | None) -> str:
    """Return file name and number of the innermost line outside of the standard library and the event loop."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.exists() and not {"site-packages", "asyncio"} & {*path.parts} and path.parent != _STDLIB:
            return f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
