"""Shutting down in order at the first SIGTERM or SIGINT, and at once at the second."""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import anyio
from anyio.abc import TaskStatus

from connectrio.logs import get_logger

log = get_logger("connectrio.host.host")

__all__ = ["receive_signals", "watch_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# seconds that a process that was told to stop at once gets to unwind, before it is ended under its tasks
_UNWIND_TIMEOUT = 1.0


@contextmanager
def receive_signals(*signums: signal.Signals) -> Iterator[AsyncIterator[signal.Signals]]:
    """Yield signals as they come. Afterwards their handlers are those of before.

    anyio (4.16) leaves Python's defaults on asyncio.
    """
    before = {signum: signal.getsignal(signum) for signum in signums}
    try:
        with anyio.open_signal_receiver(*signums) as signals:
            yield signals
    finally:
        for signum, handler in before.items():
            if handler is not None:  # None: it was not set by Python, which cannot set it again
                signal.signal(signum, handler)


async def watch_signals(
    shutdown: Callable[[], Coroutine[Any, Any, None]],
    end_process: Callable[[int], None] | None = None,
    *,
    unwind: float = _UNWIND_TIMEOUT,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Call `shutdown` at the first signal; runs until cancelled.

    :param end_process: ends the process with an exit code, whatever its tasks and threads do. Called `unwind` seconds
        after the second signal, from another thread. Without it, only `SystemExit` is raised, and the process goes on
        for as long as a connector blocks the event loop
    :param unwind: seconds from the second signal to the call of `end_process`
    :raises SystemExit: at the second signal; the code is 128 + the signal's number
    """
    with receive_signals(*_SIGNALS) as signals:
        if end_process is not None:
            _end_at_second_signal(end_process, unwind)
        task_status.started()
        async with anyio.create_task_group() as tasks:
            first = True
            async for signum in signals:
                if not first:
                    raise SystemExit(128 + signum)
                first = False
                log.info("shutting down; send the signal again to stop at once", signal=signum.name)
                tasks.start_soon(shutdown)


def _end_at_second_signal(end_process: Callable[[int], None], unwind: float) -> None:
    """Let the second signal end the process, even while something does not let itself be cancelled.

    Python calls these handlers between any two instructions of the main thread: also while a module that is being
    loaded, or a connector that blocks the event loop, keeps the receiver of signals from its turn.
    """
    receivers = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    count = 0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 2:
            timer = threading.Timer(unwind, end_process, [128 + signum])
            timer.daemon = True
            timer.start()
        receiver = receivers[signal.Signals(signum)]
        if callable(receiver):
            receiver(signum, frame)

    for signum in _SIGNALS:
        signal.signal(signum, handle)
