"""A pytest plugin: a test that hangs fails alone, with all stacks; a worker process that dies ends the run."""

from __future__ import annotations

import gc
import inspect
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio

from connectrio.cli.script import without_collections
from connectrio.telemetry.stacks import all_stacks

# Seconds for each of a test's set-up, call and tear-down. It is long, because it only ends tests that would never end.
# pytest's own `faulthandler_timeout` is longer still, and ends a process that no signal interrupts.
TIME_LIMIT = 180
# seconds until a test that goes on nevertheless is interrupted once more
AGAIN = 5


def begin_again() -> None:
    """Give the running test its whole time again, after a step that was limited by itself.

    For tests that share something that takes long to make: a process that waits for another one is not hanging.
    """
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT, AGAIN)


class OutOfTime(KeyboardInterrupt):
    """Raised in whatever the main thread does. All event loops let a KeyboardInterrupt end them."""


class _TimeLimit:
    """Ends what runs too long: cancels a test on an event loop, and interrupts anything else with `OutOfTime`.

    :ivar cancel: cancels the test that runs now on an event loop
    """

    def __init__(self) -> None:
        self.cancel: Callable[[], object] | None = None
        self._is_over = False

    @contextmanager
    def around(self) -> Iterator[None]:
        """Fail what runs too long."""
        self._is_over = False
        before = signal.signal(signal.SIGALRM, self._interrupt)
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT, AGAIN)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            # anyio raises what has ended a test once more while the test's fixtures are torn down
            if not self._is_over and not isinstance(raised, OutOfTime):
                raise
            self._is_over, error = True, raised
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if self._is_over:
            gc.collect()  # what the interrupt left open warns now, not in a later test
            raise pytest.fail.Exception(
                f"took more than {TIME_LIMIT} seconds; standard error has all stacks"
            ) from error

    def _interrupt(self, *_: object) -> None:
        if self._is_over:
            raise OutOfTime
        self._is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)  # showing all stacks may take its time
        for stack in all_stacks():
            print(f"{stack.kind} {stack.name}:", *stack.frames, sep="\n  ", file=sys.stderr)
        signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        if self.cancel is None:
            raise OutOfTime
        self.cancel()


_limit = _TimeLimit()


def _cancellable(test: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(test)
    async def run(**arguments: Any) -> None:
        with anyio.CancelScope() as scope:
            _limit.cancel = partial(_soon(), scope.cancel)
            try:
                await test(**arguments)
            finally:
                _limit.cancel = None
        if scope.cancelled_caught:
            pytest.skip("out of time")  # it fails all the same; Hypothesis would look for a simpler failure first

    return run


def _soon() -> Callable[..., object]:
    """Return a function that schedules a call in this event loop, and that is safe in a signal handler."""
    if sniffio.current_async_library() == "trio":
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
    import asyncio

    return asyncio.get_running_loop().call_soon_threadsafe


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function):
    if hypothesis := getattr(pyfuncitem.obj, "hypothesis", None):
        if inspect.iscoroutinefunction(hypothesis.inner_test):
            hypothesis.inner_test = _cancellable(hypothesis.inner_test)
    elif inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = _cancellable(pyfuncitem.obj)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    with _limit.around():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    with _limit.around():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown():
    with _limit.around():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """pytest parses the source of what failed: see `syntax.parsed`."""
    with without_collections():
        return (yield)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_handlecrashitem(report: pytest.TestReport) -> None:
    """Without this, pytest-xdist would go on with the tests of the worker that died, or wait for them without end."""
    pytest.exit(str(report.longrepr), returncode=1)


_died: list[str] = []


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_testnodedown(node: Any, error: object | None) -> None:
    if error:
        _died.append(node.gateway.id)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session):
    """A worker that dies before or after its tests fails the run as well."""
    result = yield
    if _died and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
    return result
