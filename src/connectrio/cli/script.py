"""The start and the end of our own processes. Programs that call a command or embed a host are left as they are.

A process that hosts starts sooner, needs less memory and pauses less. Only this module ends a process while threads
still run: all other code returns or raises.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import NoReturn

from connectrio.rpc.garbage import without_collections
from connectrio.terminal import open_standard_descriptors

__all__ = ["end_process", "is_script", "load_structlog", "run_script", "starting"]

# anyio's name for the threads that plain `def` methods run in; one that is left at the end is stuck
_WORKER_THREAD = "AnyIO worker thread"
# Seconds between two looks at the threads that are left, and how many looks worker threads and others get. It counts
# looks and not seconds, so that no thread is given up because the machine stalls.
_PAUSE = 0.05
_LOOKS_AT_WORKERS = 10
_LOOKS_AT_OTHERS = 200
# what asks the process to end; Windows has no SIGHUP
_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

# Python's default from 3.13 on; it was 700. More would be rarer still, but cycles may hold sockets and much memory
_OBJECTS_BETWEEN_COLLECTIONS = 2_000

# seconds for output that waits, when the process ends at once
_FLUSH_TIMEOUT = 0.25

_is_script = False


@contextmanager
def starting() -> Iterator[Callable[[], None]]:
    """Surround the life of a host. Yield a function to call when it serves.

    Until that call there are no garbage collections. After it they leave out all objects made before, which stay until
    the process ends: to visit them takes some 50 ms, during which no call is served. And they are as rare as from
    Python 3.13 on, because a large request makes a hundred thousand objects, and no garbage.
    """
    with ExitStack() as start:
        start.enter_context(without_collections())

        def started() -> None:
            gc.freeze()
            threshold, *others = gc.get_threshold()
            gc.set_threshold(max(threshold, _OBJECTS_BETWEEN_COLLECTIONS), *others)
            start.close()

        yield started


@contextmanager
def prints_to_stderr() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Send what others print on standard output to standard error in this block: connectors that run in a command.

    Yield a function that returns the context in which the command prints its own results, on standard output. In our
    own process, this is so from here to its end, and for the processes that connectors start as well, because standard
    output itself is redirected; in another program, only `sys.stdout` is.
    """
    if sys.stdout is None:  # the process was started without it
        yield nullcontext
        return
    before = own = sys.stdout
    before.flush()
    if _is_script:
        own = os.fdopen(os.dup(1), "w", encoding=before.encoding, errors=before.errors)
        os.dup2(2, 1)

    @contextmanager
    def own_output() -> Iterator[None]:
        sys.stdout = own
        yield
        own.flush()
        sys.stdout = sys.stderr

    sys.stdout = sys.stderr
    try:
        yield own_output
    finally:
        if not _is_script:
            sys.stdout = before


def load_structlog() -> None:
    """Import structlog as if rich were not installed.

    structlog imports rich for tracebacks with local variables. That takes 50 ms and 3 MB, and a host writes no such
    tracebacks, see `connectrio.logs`. If structlog or rich is imported already, nothing changes.
    """
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # the import system reads None as: no such module
    try:
        import structlog  # noqa: F401 - for later imports
    finally:
        del sys.modules["rich"]


def run_script(run: Callable[[], int]) -> NoReturn:
    """Run a command as the whole life of this process, and end the process with the exit code that it returns.

    At its exit, Python waits for all threads that are not daemons. Worker threads that are stuck in a connector's code
    get half a second, other threads ten; then the process ends without them. SIGTERM ends process 1 of a container as
    it ends any other process, until the command has a handler of its own.
    """
    global _is_script  # noqa: PLW0603 - true of the whole process
    _is_script = True
    if os.getpid() == 1:
        # the kernel drops a signal for process 1 that has no handler: a container that is told to end while it starts
        # would serve until it is killed
        signal.signal(signal.SIGTERM, lambda signum, _: os._exit(128 + signum))
    open_standard_descriptors()
    code = 1
    try:
        code = run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        _limit_the_end(code)
    sys.exit(code)


def is_script() -> bool:
    """Return whether this process runs a command of ours, and not a program that calls one."""
    return _is_script


def end_process() -> Callable[[int], None] | None:
    """Return the function that ends this process at once; None if the process belongs to another program."""
    return _end_at_once if _is_script else None


def _end_at_once(code: int) -> NoReturn:
    _flush()
    os._exit(code)


def _limit_the_end(code: int) -> None:
    """Let the interpreter end as it always does, but limit how long it waits for threads.

    Functions that others have registered with `atexit` run after all threads have ended, without a limit.
    """
    threads_ended = threading.Event()
    handled = [signum for signum in _SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]

    def ended() -> None:
        threads_ended.set()
        for signum in handled:
            signal.signal(signum, signal.SIG_DFL)

    atexit.register(ended)
    for signum in handled:
        signal.signal(signum, signal.SIG_IGN)  # the process is ending already
    threading.Thread(target=_watch_the_end, args=(code, threads_ended), daemon=True).start()


def _watch_the_end(code: int, threads_ended: threading.Event) -> None:
    looks = 0
    while not threads_ended.wait(_PAUSE):
        left = [thread for thread in threading.enumerate() if not thread.daemon]
        left.remove(threading.main_thread())
        looks += bool(left)
        are_workers = all(thread.name == _WORKER_THREAD for thread in left)
        if looks > (_LOOKS_AT_WORKERS if are_workers else _LOOKS_AT_OTHERS):
            _log_and_flush([thread.name for thread in left], "warning" if are_workers else "error")
            os._exit(code)


def _log_and_flush(names: list[str], level: str) -> None:
    with suppress(Exception):  # nothing may keep the process from ending
        from connectrio.logs import get_logger

        log = getattr(get_logger("connectrio.host.host"), level)
        log("threads still run; the process ends without them", threads=names)
    _flush()


def _flush() -> None:
    """Write what waits to be written, but for a fraction of a second at most."""
    with suppress(Exception):  # as above
        from connectrio.logs import flush_output

        flush_output(_FLUSH_TIMEOUT)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # it may be closed, or its reader may have gone
            stream.flush()
