"""The outermost line of our own processes: the only code that ends a process under its threads.

Everything below it returns or raises, so that a program which calls it goes on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

__all__ = ["end_process", "script"]

# seconds for threads that end by themselves, such as anyio's idle worker threads
_JOIN_TIMEOUT = 0.5

_is_script = False


def script(run: Callable[[], int]) -> NoReturn:
    """Run a command as the whole life of this process, and end the process with the exit code that it returns.

    Threads that end by themselves are joined. A worker thread that is stuck in a connector's code is not waited for:
    the interpreter would wait for it without end.
    """
    global _is_script  # noqa: PLW0603 - it is a fact about the process
    _is_script = True
    _leave(run())


def end_process() -> Callable[[int], None] | None:
    """Return what ends this process at once with an exit code; None if the process belongs to another program."""
    return os._exit if _is_script else None


def _leave(code: int) -> NoReturn:
    deadline = time.monotonic() + _JOIN_TIMEOUT
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    busy = [thread.name for thread in others if thread.is_alive()]
    if busy:
        from connectrio.logs import get_logger

        get_logger("connectrio.host").warning("worker threads still run; the process ends without them", threads=busy)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
