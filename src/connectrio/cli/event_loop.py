"""Runs commands on an event loop. Signals cancel them, so that they clean up."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio.abc import TaskStatus

from connectrio.cli.errors import INTERRUPTED, CommandError
from connectrio.rpc.exceptions import leaves

if TYPE_CHECKING:
    from connectrio.host.settings import Backend

__all__ = ["Interrupts", "event_loop", "run", "unwrapped"]

T = TypeVar("T")


class Interrupts:
    """Lets SIGINT and SIGTERM cancel a command, which then ends as "interrupted".

    :param graceful: the first signal cancels only the command's `cancellable` block, running or still to come. The
        command goes on behind it, to clean up. The second signal cancels the whole command
    :ivar notify: called if the first signal comes before the command has entered its `cancellable` block
    """

    def __init__(self, *, graceful: bool = False) -> None:
        self.notify: Callable[[], object] = lambda: None
        self._graceful = graceful
        self._count = 0
        self._block: anyio.CancelScope | None = None

    def cancellable(self) -> anyio.CancelScope:
        """Return the scope of the block that the first signal cancels."""
        self._block = anyio.CancelScope()
        if self._count:
            self._block.cancel()
        return self._block

    async def watch(self, everything: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        """Wait for signals until cancelled.

        :param everything: the scope of the whole command
        """
        from connectrio.host.signals import receive_signals  # imports structlog

        with receive_signals(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._count += 1
                if not self._graceful or self._count > 1:
                    everything.cancel()
                elif self._block is not None:
                    self._block.cancel()
                else:
                    self.notify()


def run(command: Callable[[], Awaitable[T]], backend: Backend | None = None, interrupts: Interrupts | None = None) -> T:
    """Run `command` to its end and return its result.

    :param backend: by default uvloop where it is installed, else asyncio
    :param interrupts: for a command that cleans up when it is interrupted
    :raises CommandError: the command raised it, a signal ended the command, or the backend is not installed
    """
    name, options = event_loop(backend)
    return anyio.run(_run, command, interrupts or Interrupts(), backend=name, backend_options=options)


def event_loop(backend: Backend | None) -> tuple[str, dict[str, bool]]:
    """Return the `backend` and `backend_options` for `anyio.run`.

    :raises CommandError: the backend is not installed
    """
    from connectrio.host.settings import anyio_backend, default_backend

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
    """Raise one error of a task group's tasks instead of the group, and prefer one that is not a `CommandError`."""
    try:
        yield
    except ExceptionGroup as group:
        errors = list(leaves(group))
        raise next((error for error in errors if not isinstance(error, CommandError)), errors[0]) from group
