"""Python's garbage collector, which stops all threads while it visits the objects that there are."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collections"]


@contextmanager
def without_collections() -> Iterator[None]:
    """Stop garbage collection in the whole process while the block runs.

    For blocks that make a hundred thousand objects and almost no garbage, such as imports and large messages.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
