"""What code leaves in its task when it returns: open cancel scopes and task groups, and requests to cancel the task.

The scopes of a task are a stack. If code returns while a scope of its own is on it, each scope further out fails to
exit, and at last the task fails, and with it the task group that it is in: all other calls of a connection, or a host.
So whoever runs code of others in a scope calls `close_left_open` when that scope fails to exit.

anyio (4.16) and trio (0.35) have no interface for this. It uses attributes of theirs, none while all is well.

And the reverse: `run_without_waiting` leaves nothing, where nobody can wait for code that may.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint

__all__ = [
    "CannotWaitError", "LeftOpenError", "close_left_open", "count_left_in_task", "discard_left_in_task",
    "leaving_nothing_open", "run_without_waiting", "trio_has_closed",
]  # fmt: skip

# how often code that is closed may wait again, before it is left as it is
_MOST_WAITS = 10


class LeftOpenError(RuntimeError):
    """Code has returned or raised without leaving a cancel scope or a task group that it had entered."""

    def __init__(self) -> None:
        super().__init__(
            "a cancel scope or task group that was entered here is still open: leave it in the call that has entered"
            " it, best with a `with` or `async with` block. An async generator that was not closed can hold one too"
        )


class CannotWaitError(BaseException):
    """Code would wait where nobody can. It is no `Exception`, as a cancellation is none."""


@contextmanager
def leaving_nothing_open() -> Iterator[None]:
    """Run code of others for the length of the block, and close what it leaves open.

    :raises LeftOpenError: there was something
    """
    scope = anyio.CancelScope()
    nurseries = _nurseries()
    outside = len(nurseries)
    try:
        with scope:
            yield
    except RuntimeError as error:
        if close_left_open(scope, error):
            raise LeftOpenError from error
        raise
    finally:
        _abandon(nurseries, outside)


def close_left_open(scope: anyio.CancelScope, error: BaseException) -> bool:
    """Close what is open inside `scope`, if its exit has failed because of that. Tasks that were started in there end.

    :param scope: the current task has entered it, and tried to exit it
    :param error: what has come out of the scope's `with` block
    :returns: whether anything was open; then all is closed, `scope` too, and the task can go on
    """
    entered: Any = scope
    host = getattr(entered, "_host_task", None)
    if host is None:  # the scope was exited, as trio does in any case
        return trio_has_closed(error)
    scopes = []
    inside: Any = scope
    while inside is not None:
        scopes.append(inside)
        inside = next((each for each in inside._child_scopes if each._host_task is host), None)  # noqa: SLF001
    for each in reversed(scopes):
        if each is not scope:
            each.cancel()
        each.__exit__(None, None, None)
    return True


def trio_has_closed(error: BaseException) -> bool:
    """Return whether trio has raised `error` because something was open inside a scope, which it has closed."""
    return isinstance(error, RuntimeError) and str(error).startswith("Cancel scope stack corrupted")


def count_left_in_task() -> Callable[[], int]:
    """Return a function that counts what was left in the current task, and may be asked after every call.

    Nothing else tells of it: task groups on trio, where the scopes around them are exited nevertheless; and on asyncio,
    a `cancel` of the task that nothing has waited for yet.
    """
    if _is_trio():
        return _nurseries().__len__
    cancelling: Callable[[], int] = sys.modules["asyncio"].current_task().cancelling
    return cancelling


async def discard_left_in_task() -> None:
    """Discard what `count_left_in_task` has counted. The task must end soon."""
    if _is_trio():
        _abandon(_nurseries(), 0)
    else:
        with suppress(anyio.get_cancelled_exc_class()):
            await cancel_shielded_checkpoint()


def run_without_waiting(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run `coroutine` in the current task, now. Wherever it would wait, `CannotWaitError` is raised instead.

    :raises Exception: what it raises
    """
    step: Callable[[], Any] = partial(coroutine.send, None)
    try:
        for _ in range(_MOST_WAITS):
            try:
                waits_for = step()
            except (StopIteration, GeneratorExit, CannotWaitError):
                return
            except BaseExceptionGroup as group:  # of a task group
                _, rest = group.split((GeneratorExit, CannotWaitError))
                if rest is None:
                    return
                raise rest from None
            # on trio, what it waits for knows of this task, and would wake it later
            abort = getattr(waits_for, "abort_func", None)
            if abort is not None:
                abort(_raise_cannot_wait)
            step = partial(coroutine.throw, CannotWaitError("the caller has left the call, and cannot wait"))
    finally:
        _leave_waiting_nurseries()


def _raise_cannot_wait() -> NoReturn:
    raise CannotWaitError("the caller has left the call, and cannot wait")


def _leave_waiting_nurseries() -> None:
    """Leave the task groups in which the current task waits, on trio, although it runs: their tasks end by themselves.

    The last of these tasks would wake the current task, wherever that is by then, and trio would fail.
    """
    nurseries = _nurseries()
    while nurseries and nurseries[-1]._parent_waiting_in_aexit:  # noqa: SLF001
        nursery = nurseries.pop()
        nursery._parent_waiting_in_aexit = False  # noqa: SLF001
        nursery.cancel_scope.cancel()
        nursery.cancel_scope._close(None)  # noqa: SLF001


def _nurseries() -> list[Any]:
    """Return the task groups that the current task is in, as they are at any time. On asyncio a task knows of none."""
    if not _is_trio():
        return []
    nurseries: list[Any] = sys.modules["trio"].lowlevel.current_task()._child_nurseries  # noqa: SLF001
    return nurseries


def _abandon(nurseries: list[Any], outside: int) -> None:
    """Cancel all but the first of the task groups, and let the task forget them: it would fail as it ends."""
    for nursery in nurseries[outside:]:
        nursery.cancel_scope.cancel()
    del nurseries[outside:]


def _is_trio() -> bool:
    return anyio.get_cancelled_exc_class().__module__.partition(".")[0] == "trio"
