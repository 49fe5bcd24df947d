"""Python's garbage collector, which stops all threads while it visits objects."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collections"]

_lock = threading.Lock()
_blocks = 0
_was_enabled = False


@contextmanager
def without_collections() -> Iterator[None]:
    """Stop garbage collection in the whole process while the block runs, or another thread's block.

    For blocks that make a hundred thousand objects and almost no garbage, such as imports and large messages.
    """
    global _blocks, _was_enabled  # noqa: PLW0603 - the garbage collector is the process's as well
    with _lock:
        if not _blocks:
            _was_enabled = gc.isenabled()
            gc.disable()
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _was_enabled and not _blocks:
                gc.enable()
