"""What lets a process that is a host serve sooner, need less memory, and pause less.

Only for processes of our own, from their first lines on: a program that embeds a host keeps its garbage collector and
its structlog as they are.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["load_structlog", "starting", "without_collections"]


@contextmanager
def without_collections() -> Iterator[None]:
    """No garbage collection while the block runs: imports make a hundred thousand objects, and next to no garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def starting() -> Iterator[Callable[[], None]]:
    """Around the life of a process that serves; to call what this yields tells that it now does.

    Until then there are no garbage collections. From then on they leave out what was loaded by then, which stays until
    the process ends: to visit all of that takes some 50 ms, in which no call is served.
    """

    def started() -> None:
        gc.freeze()
        gc.enable()

    with without_collections():
        yield started


def load_structlog() -> None:
    """Import structlog as if rich was not installed.

    It would import rich for tracebacks that show local variables, which a host does not write, see `connectrio.logs`.
    That takes 50 ms and 3 MB. Where structlog is imported already, or rich, this changes nothing.
    """
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # how the import system is told that there is no such module
    try:
        import structlog  # noqa: F401 - for those who import it later
    finally:
        del sys.modules["rich"]
