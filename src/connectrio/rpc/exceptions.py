"""What to do with an exception that may be a group, or a cancellation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import anyio

# as the interpreter keeps it: a class of a group can hide it behind a property of its own
_members: Callable[[BaseException], tuple[BaseException, ...]] = vars(BaseExceptionGroup)["exceptions"].__get__


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in a group, and in the groups inside it. An error that is no group yields only itself.

    A group or an error that is there several times counts once. Groups may be nested as deeply as memory allows.
    """
    pending, seen = [error], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if issubclass(type(current), BaseExceptionGroup):
            pending.extend(reversed(_members(current)))
        else:
            yield current


def only_leaf(error: BaseException) -> BaseException:
    """Return the only error in a group, or `error`.

    A task group wraps what its tasks raise; the author of the tasks means the error itself.
    """
    while issubclass(type(error), ExceptionGroup) and len(_members(error)) == 1:
        error = _members(error)[0]
    return error


def is_cancelled_from_outside() -> bool:
    """Return whether a scope around the current task is cancelled, so that the exception at hand may be that.

    Code can raise `asyncio.CancelledError` of its own accord. Nobody outside waits for that one to pass through, and a
    client whose call it ended would wait for ever.
    """
    return anyio.current_effective_deadline() == -math.inf


def is_cancellation(error: BaseException) -> bool:
    """Return whether `error` carries a cancellation from outside, alone or in a group, so that it must pass through."""
    cancelled = anyio.get_cancelled_exc_class()
    return is_cancelled_from_outside() and any(issubclass(type(leaf), cancelled) for leaf in leaves(error))
