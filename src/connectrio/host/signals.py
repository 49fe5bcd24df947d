"""Run until a signal: SIGTERM, SIGINT or SIGHUP shuts down gracefully, a second SIGTERM or SIGINT stops at once.

SIGHUP says that the terminal is gone. Shells and session managers send it several times, and SIGTERM with it, so it
never counts as the second signal. There is nothing that it could reload: the files for TLS are read again when they
change. A process that was started to ignore it, as `nohup` does, ignores it.

SIGUSR1 shows which threads are stuck.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import anyio
from anyio.abc import TaskStatus

from connectrio.diagnostics import raised_in
from connectrio.host.event_loop import HostStopped, loop_factory
from connectrio.host.lifecycle import HostError
from connectrio.host.settings import Backend, anyio_backend
from connectrio.logs import get_logger
from connectrio.masking.credentials import format_traceback
from connectrio.rpc.exceptions import leaves

log = get_logger("connectrio.host.host")

__all__ = ["receive_signals", "run_until_signalled"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Windows has neither
_HANG_UP = getattr(signal, "SIGHUP", None)
_SHOW = getattr(signal, "SIGUSR1", None)


def run_until_signalled(
    serve: Callable[[], Awaitable[None]],
    shutdown: Callable[[], Coroutine[Any, Any, None]],
    *,
    backend: Backend,
    show_stuck: Callable[[], None] = lambda: None,
    end_process: Callable[[int], None] | None = None,
    unwind: float = 1.0,
) -> None:
    """Run `serve` in an event loop until it returns; call `shutdown` at the first SIGTERM, SIGINT or SIGHUP.

    :param show_stuck: called at SIGUSR1
    :param end_process: ends the process with an exit code, whatever its tasks and threads do. It is called from
        another thread after the second SIGTERM or SIGINT. Without it, only `SystemExit` is raised, and the process
        goes on for as long as a connector blocks the event loop
    :param unwind: seconds from the second signal to the call of `end_process`
    :raises SystemExit: at the second SIGTERM or SIGINT; the code is 128 + the signal's number
    :raises HostError: `serve` has raised it, or code of a connector has raised KeyboardInterrupt in there
    :raises ValueError: the backend is unknown or not installed
    """
    name, _ = anyio_backend(backend)
    options = {} if backend == "trio" else {"loop_factory": loop_factory(backend)}

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            # before anything is loaded: process 1 ignores a signal that has no handler
            await tasks.start(_watch_signals, shutdown, show_stuck, end_process, unwind)
            await serve()
            tasks.cancel_scope.cancel()

    try:
        anyio.run(run, backend=name, backend_options=options)
    except BaseExceptionGroup as group:
        found = list(leaves(group))
        for error in found:
            if isinstance(error, HostError | SystemExit):
                raise error from None
        for error in found:
            if type(error) is KeyboardInterrupt:  # signals are received above, so this is no Ctrl-C
                where, module = raised_in(error)
                log.error(  # noqa: TRY400 - the traceback is that of the one error, masked
                    "code of a connector has ended the host",
                    raised="KeyboardInterrupt",
                    where=where,
                    module=module,
                    exception=format_traceback(error),
                )
                raise HostError(f"code of a connector has ended the host: KeyboardInterrupt, at {where}") from None
        raise


@contextmanager
def receive_signals(*signums: signal.Signals) -> Iterator[AsyncIterator[signal.Signals]]:
    """Yield an iterator of the signals that arrive. Afterwards, restore the handlers of before.

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


async def _watch_signals(
    shutdown: Callable[[], Coroutine[Any, Any, None]],
    show_stuck: Callable[[], None],
    end_process: Callable[[int], None] | None,
    unwind: float,
    *,
    task_status: TaskStatus[None],
) -> None:
    hang_up = [] if _HANG_UP is None or signal.getsignal(_HANG_UP) is signal.SIG_IGN else [_HANG_UP]
    show = [] if _SHOW is None else [_SHOW]
    with receive_signals(*_SIGNALS, *hang_up, *show) as signals:
        if end_process is not None:
            _end_at_second_signal(end_process, unwind)
        task_status.started()
        async with anyio.create_task_group() as tasks:
            is_first, is_draining = True, False
            async for signum in signals:
                if signum in show:
                    show_stuck()
                    continue
                if signum in _SIGNALS:
                    if not is_first:
                        stopping = f"stopping at once: a second {signum.name}"
                        log.warning(stopping, signal=signum.name)
                        raise HostStopped(128 + signum)
                    is_first = False
                    log.info("shutting down; send the signal again to stop at once", signal=signum.name)
                elif not is_draining:
                    log.info("shutting down, because the terminal has hung up", signal=signum.name)
                if not is_draining:
                    is_draining = True
                    tasks.start_soon(shutdown)


def _end_at_second_signal(end_process: Callable[[int], None], unwind: float) -> None:
    """Let the second signal end the process, even while something cannot be cancelled.

    Python calls these handlers between any two instructions of the main thread: also while a module is loading, or a
    connector blocks the event loop, and the receiver of signals cannot run.
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
