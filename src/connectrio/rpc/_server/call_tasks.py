"""The tasks that answer a connection's calls. A call that never waits leaves its task to the next call.

To begin a task costs half as much as all else that a call costs here. Many calls never wait for anything; one task can
answer them one after the other.

Rules:
1. A call that waits has its task to itself, and the task ends with it. So nothing that a call leaves with its task can
   reach another call: not code that keeps the task and cancels it later, and not a scope that was left open.
2. A task in whose context a call has changed a variable, or in which it has left something, ends with that call.
3. No call waits for another: while a task answers one, the next goes to another task. Where calls have waited, several
   tasks begin in one turn of the event loop, so that the calls get on together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from connectrio.rpc._http2.wakeup import Wakeup
from connectrio.rpc.exceptions import is_cancelled_from_outside
from connectrio.rpc.left_open import count_left_in_task, discard_left_in_task

# Many calls can be read at once. The writer, the reader and other connections get a turn after so many of them, so that
# the first answers are sent while the others are worked on.
_CALLS_PER_TURN = 16
# tasks that wait for calls. One task answers most calls that never wait, and each other call needs a new one anyway
_MOST_IDLE = 2

Answer = Callable[[], Coroutine[Any, Any, None]]


class CallTasks:
    """Runs calls in tasks of `tasks`.

    :param tasks: of the connection; what a call raises is raised there
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._waiting: deque[Answer] = deque()
        self._idle_tasks: list[Wakeup] = []
        # the tasks that have begun or been woken for calls that wait here, and how many there may be
        self._tasks_coming = 0
        self._most_coming = 1
        self._is_closed = False

    def start(self, answer: Answer) -> None:
        """Run `answer` soon; calls begin in the order in which they were started."""
        self._waiting.append(answer)
        self._wake_or_start_tasks()

    def close(self) -> None:
        """Let the tasks end with the calls that were started: there will be no more."""
        self._is_closed = True
        idle, self._idle_tasks = self._idle_tasks, []
        for wakeup in idle:
            wakeup.wake()

    def _wake_or_start_tasks(self) -> None:
        while self._tasks_coming < min(len(self._waiting), self._most_coming):
            self._tasks_coming += 1
            if self._idle_tasks:
                self._idle_tasks.pop().wake()
            else:
                self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        """Answer calls one after the other, and wait for more while this task is as good as a new one."""
        wakeup = Wakeup()
        before = copy_context()
        count_left = count_left_in_task()
        while True:
            self._tasks_coming -= 1
            for _ in range(_CALLS_PER_TURN):
                if not self._waiting:
                    break
                answer = self._waiting.popleft()
                self._wake_or_start_tasks()  # for the calls behind this one, should it wait
                call = Watched(answer())
                await call
                self._most_coming = _CALLS_PER_TURN if call.has_waited else 1
                if count_left():
                    await discard_left_in_task()
                    return
                if call.has_waited or not _is_same(before, copy_context()):
                    return
            if self._is_closed or len(self._idle_tasks) >= _MOST_IDLE:
                return
            self._idle_tasks.append(wakeup)  # if calls are left, another task is coming for them, in the next turn
            try:
                await wakeup.wait()
            except anyio.get_cancelled_exc_class():
                if is_cancelled_from_outside():
                    raise
                # by code of a call that this task has answered. If the task is still idle, it ends; else it has work
                if wakeup in self._idle_tasks:
                    self._idle_tasks.remove(wakeup)
                    return


def _is_same(before: Context, now: Context) -> bool:
    if len(before) != len(now):
        return False
    for variable, value in before.items():  # noqa: SIM110 - quicker than a generator, and this is on every call's way
        if now.get(variable) is not value:  # `==` would ask the values, which may be anything
            return False
    return True


class Watched:
    """A coroutine to be awaited.

    :ivar has_waited: it has suspended, so that the event loop had a turn
    """

    __slots__ = ("_coroutine", "has_waited")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self.has_waited = False

    @property
    def cr_await(self) -> Coroutine[Any, Any, None]:
        """For tools that show where a task waits."""
        return self._coroutine

    def __await__(self) -> Self:
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:  # `await` begins here, before any `send` or `throw`
        yielded = self._coroutine.send(None)
        self.has_waited = True
        return yielded

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()
