"""Running a command on an event loop, so that a signal ends it in order."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio.abc import TaskStatus

from connectrio.cli.errors import INTERRUPTED, CommandError

if TYPE_CHECKING:
    from connectrio.settings import Backend

__all__ = ["Interrupts", "event_loop", "run", "unwrapped"]

T = TypeVar("T")


class Interrupts:
    """What SIGINT and SIGTERM do to a command: the first cancels it, the second what it still does about that.

    :ivar notify: called at the first signal
    """

    def __init__(self) -> None:
        self.notify: Callable[[], None] = _nothing
        self._cleanups: list[anyio.CancelScope] = []
        self._count = 0

    @contextmanager
    def cleanup(self) -> Iterator[None]:
        """A block that the first signal does not cancel, but the second does, and then leaves quietly."""
        with anyio.CancelScope(shield=True) as scope:
            self._cleanups.append(scope)
            if self._count > 1:
                scope.cancel()
            try:
                yield
            finally:
                self._cleanups.remove(scope)

    async def watch(self, command: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        """Cancel `command` at the first signal, its clean-up at the second."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._count += 1
                command.cancel()
                if self._count == 1:
                    self.notify()
                else:
                    for scope in self._cleanups:
                        scope.cancel()


def _nothing() -> None:
    """Nobody asked to be told."""


def run(command: Callable[[], Awaitable[T]], backend: Backend | None = None, interrupts: Interrupts | None = None) -> T:
    """Run `command` to its end.

    :param backend: uvloop where it is installed, else asyncio
    :param interrupts: for a command that has something to do when it is interrupted
    :raises CommandError: what the command raises; also when a signal ended it, or the backend is not installed
    """
    name, options = event_loop(backend)
    return anyio.run(_run, command, interrupts or Interrupts(), backend=name, backend_options=options)


def event_loop(backend: Backend | None) -> tuple[str, dict[str, bool]]:
    """What `anyio.run` takes as `backend` and `backend_options`.

    :raises CommandError: the backend is not installed
    """
    from connectrio.settings import anyio_backend, default_backend

    try:
        return anyio_backend(backend or default_backend())
    except ValueError as error:
        raise CommandError(str(error)) from error


async def _run(command: Callable[[], Awaitable[T]], interrupts: Interrupts) -> T:
    results: list[T] = []
    failure: Exception | None = None
    async with anyio.create_task_group() as watcher:
        with anyio.CancelScope() as scope:
            await watcher.start(interrupts.watch, scope)
            try:
                with unwrapped():
                    results.append(await command())
            except Exception as error:  # noqa: BLE001 - raised below, outside of the group that would wrap it
                failure = error
        watcher.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results:
        raise CommandError("interrupted", code=INTERRUPTED)
    return results[0]


@contextmanager
def unwrapped() -> Iterator[None]:
    """Around a task group: what its tasks raise comes out as it is. Of several errors, an unexpected one counts."""
    try:
        yield
    except ExceptionGroup as group:
        leaves = list(_leaves(group))
        raise next((error for error in leaves if not isinstance(error, CommandError)), leaves[0]) from group


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
