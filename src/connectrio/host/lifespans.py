"""The lifespans of connectors: opened before the first call, tried again when they fail, closed after the last call.

A lifespan that cannot be opened, or ends while the host serves, is an outage of that connector: its calls are answered
UNAVAILABLE with the reason, the others are served, and it is opened again after a pause that grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from connectrio.connector.context import process_count, unsafe_sql, worker_limit
from connectrio.connector.failures import LoadFailure
from connectrio.connector.registry import RegisteredConnector, Registry
from connectrio.host.settings import HostSettings
from connectrio.logs import get_logger, line_fields
from connectrio.masking.credentials import describe_error, format_traceback
from connectrio.rpc.backoff import Backoff
from connectrio.rpc.exceptions import is_cancelled_from_outside, leaves, only_leaf
from connectrio.rpc.left_open import leaving_nothing_open
from connectrio.service.metrics import Metrics

log = get_logger("connectrio.host.host")

__all__ = ["Lifespans"]

# seconds; a lifespan that hangs while it closes must not keep a drained host from stopping
_CLOSE_TIMEOUT = 10.0
# seconds for a lifespan that took too long to open to end, before the host starts without waiting for it
_CANCEL_TIMEOUT = 1.0
# seconds of the pauses before a lifespan is opened again
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0


class Lifespans:
    """The lifespans of all connectors of a registry. `Registry.outages` has those that are not open, and why.

    :param processes: the number of processes that share the machine
    :param changed: called when a lifespan has opened, or has failed
    """

    def __init__(
        self,
        registry: Registry,
        settings: HostSettings,
        metrics: Metrics,
        *,
        processes: int,
        changed: Callable[[], None],
    ) -> None:
        self.registry = registry
        self.settings = settings
        self.metrics = metrics
        self.processes = processes
        self.changed = changed
        self.draining = anyio.Event()
        self.closing = anyio.Event()
        self._lifespans: list[_Lifespan] = []
        self._tasks: TaskGroup | None = None

    async def open(self, tasks: TaskGroup) -> None:
        """Open all of them at once, and return when each is open or has failed for the first time.

        :param tasks: runs a task for each of them; after `close`, it ends within `_CLOSE_TIMEOUT`
        """
        self._tasks = tasks
        self._lifespans = [_Lifespan(registered, self) for registered in self.registry.registered()]
        for each in self._lifespans:
            tasks.start_soon(each.run)
        # the limit is for those that do not even end when they are cancelled
        with anyio.move_on_after(self.settings.lifespan_timeout + _CANCEL_TIMEOUT):
            for each in self._lifespans:
                await each.tried.wait()

    def drain(self) -> None:
        """Open none any more; those that are open stay open."""
        self.draining.set()
        for each in self._lifespans:
            each.stop_opening()

    def close(self) -> None:
        """Let those that are open close, within `_CLOSE_TIMEOUT`."""
        self.drain()
        self.closing.set()
        if self._tasks is not None:
            self._tasks.cancel_scope.deadline = anyio.current_time() + _CLOSE_TIMEOUT

    def report_unclosed(self) -> None:
        """Log which of them were cancelled while they closed."""
        for each in self._lifespans:
            if each.is_cut_short:
                log.warning(
                    "a connector's lifespan did not close in time",
                    connector=each.name,
                    timeout_seconds=_CLOSE_TIMEOUT,
                )


class _Lifespan:
    """The lifespan of one connector.

    :ivar tried: set once it has been opened, or has failed, for the first time
    :ivar is_cut_short: whether it was cancelled while it was open
    """

    def __init__(self, registered: RegisteredConnector, all_of_them: Lifespans) -> None:
        connector = registered.connector
        self.name = connector.name
        self.tried = anyio.Event()
        self.is_cut_short = False
        self._registered = registered
        self._all = all_of_them
        self._key = (connector.task_type_name, connector.task_type_version)
        self._up = all_of_them.metrics.connector_up.labels(self._key[0], str(self._key[1]))
        self._was_opened = False
        self._was_ever_opened = False
        self._opened_at = 0.0
        self._opening = anyio.CancelScope()
        self._set_down("lifespan not open yet", "its lifespan is not open yet")

    async def run(self) -> None:
        """Keep the lifespan open until the host closes. Open it again when it fails, until the host drains."""
        worker_limit.set(self._all.settings.worker)
        process_count.set(self._all.processes)
        unsafe_sql.set(self._all.settings.unsafe_sql)
        line_fields.set(self._identity)
        draining = self._all.draining
        backoff = Backoff(_FIRST_PAUSE, factor=2, maximum=_LONGEST_PAUSE, jitter=0.2)
        while not draining.is_set():
            error = await self._hold()
            if error is None:
                return
            if self._was_opened and anyio.current_time() - self._opened_at > _LONGEST_PAUSE:
                backoff.reset()
            pause = None if draining.is_set() else backoff.next()
            self._report(error, pause)
            self.tried.set()
            if pause is not None:
                with anyio.move_on_after(pause):
                    await draining.wait()

    def _identity(self) -> dict[str, str | int]:
        """Return what the lines of the lifespan, and of tasks that it starts, say of it."""
        return {"connector": self.name, "task_type": self._key[0], "task_type_version": self._key[1]}

    def stop_opening(self) -> None:
        """Cancel the lifespan if it is not open yet."""
        if not self._was_opened:
            self._opening.cancel()

    async def _hold(self) -> BaseException | None:
        """Open the lifespan, and close it when the host closes. Return why it failed, or ended before."""
        timeout = self._all.settings.lifespan_timeout
        self._was_opened = False
        self._opening = anyio.CancelScope(deadline=anyio.current_time() + timeout)
        failure: BaseException | None = None
        try:
            # around the whole lifespan: one around the opening alone could not end before the scopes opened in there
            with self._opening, leaving_nothing_open():
                async with self._registered.connector.lifespan():
                    self._opening.deadline = math.inf
                    self._set_up()
                    await self._all.closing.wait()
        except BaseException as error:
            self.is_cut_short = self._was_opened and is_cancelled_from_outside()
            if _must_pass(error):
                raise
            failure = error
        if not self._was_opened and self._all.draining.is_set():
            self._all.registry.outages.pop(self._key, None)
            return None
        if not self._was_opened and self._opening.cancel_called:
            late = TimeoutError(f"it took longer than lifespan_timeout, {timeout:g} s")
            late.__cause__ = failure
            return late
        if failure is None and not self._all.closing.is_set():
            return RuntimeError("it ended by itself, while the host serves")
        return failure

    def _set_up(self) -> None:
        if self._all.registry.outages.pop(self._key, None) is not None and self.tried.is_set():
            if self._was_ever_opened:
                log.info("a connector's lifespan is open again", connector=self.name)
            else:
                log.info("a connector's lifespan is open now, after it had failed", connector=self.name)
        self._was_opened = self._was_ever_opened = True
        self._opened_at = anyio.current_time()
        self._up.set(1)
        self.tried.set()
        self._all.changed()

    def _set_down(self, kind: str, text: str) -> None:
        self._all.registry.outages[self._key] = LoadFailure(self._registered.source, kind, f"{self.name}: {text}")
        self._up.set(0)

    def _report(self, error: BaseException, pause: float | None) -> None:
        error = only_leaf(error)
        what = "its lifespan failed" if self._was_opened else "its lifespan could not be opened"
        text = f"{what}: {describe_error(error)}"
        log.error(
            "a connector's lifespan failed",
            connector=self.name,
            opened=self._was_opened,
            error=text,
            exception=format_traceback(error),
            **({} if pause is None else {"delay_seconds": round(pause, 1)}),
        )
        kind = f"lifespan failed ({type(error).__name__})"
        if pause is None:
            self._all.registry.failures.append(LoadFailure(self._registered.source, kind, f"{self.name}: {text}"))
            return
        self._set_down(kind, text)
        self._all.changed()


def _must_pass(error: BaseException) -> bool:
    """Return whether `error` is for the host: an interrupt, or nothing but a cancellation from outside."""
    found = list(leaves(error))
    if any(isinstance(each, KeyboardInterrupt) for each in found):
        return True
    cancelled = anyio.get_cancelled_exc_class()
    return is_cancelled_from_outside() and all(isinstance(each, cancelled) for each in found)
