"""An event loop of asyncio's kind that only its host ends.

On asyncio and uvloop, SystemExit or KeyboardInterrupt in any task or callback ends the event loop, and so does
`loop.stop()`. A connector's code, or a library that it uses, may do either in a task of its own. On trio it can do
neither. Ctrl-C is no KeyboardInterrupt here: the host receives the signal.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - this is about its event loops
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from connectrio.diagnostics import raised_in, type_name
from connectrio.host.settings import Backend
from connectrio.logs import get_logger
from connectrio.masking.credentials import format_traceback

__all__ = ["HostStopped", "loop_factory"]

log = get_logger("connectrio.host.host")


_MOST_LOGGED = 20


class HostStopped(SystemExit):
    """The host is to stop at once: what ends the event loop."""


class _Lasting(asyncio.AbstractEventLoop):
    """The part that is added to an event loop."""

    _main: asyncio.Future[Any] | None = None
    # the last errors that would have ended it: their tasks would tell of them once more
    _logged: Sequence[BaseException] = ()

    def run_until_complete(self, future: Any) -> Any:
        if self.is_running():  # a mistake, which asyncio refuses
            return super().run_until_complete(future)
        self._main = asyncio.ensure_future(future, loop=self)
        try:
            return super().run_until_complete(self._main)
        finally:
            self._main = None

    def run_forever(self) -> None:
        while True:
            try:
                super().run_forever()
            except HostStopped:
                raise
            except (SystemExit, KeyboardInterrupt) as error:
                is_known = type(error) is KeyboardInterrupt or isinstance(error, SystemExit)
                if not is_known or self._main is None or _has_raised(self._main, error):
                    raise
                self._logged = [*self._logged, error][-_MOST_LOGGED:]
                where, module = raised_in(error)
                log.warning(
                    "code of a connector tried to end the process, outside of a call; the host goes on",
                    raised=type_name(error),
                    where=where,
                    module=module,
                    exception=format_traceback(error),
                )
            else:
                if self._main is not None and not self._main.done():
                    log.warning("code of a connector has stopped the event loop; the host goes on")
            if self._main is None or self._main.done():
                return
            self.call_soon(_receive_signals)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Handle an error that nobody has caught, as any event loop does, unless the log has it already."""
        error = context.get("exception")
        if not any(error is each for each in self._logged):
            super().call_exception_handler(context)


def loop_factory(backend: Backend) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a factory of event loops that run until their main task ends, or `HostStopped` is raised.

    :param backend: asyncio or uvloop
    """
    base = _default_loop() if backend == "asyncio" else _uvloop()
    return type("LastingLoop", (_Lasting, base), {})


def _has_raised(task: asyncio.Future[Any], error: BaseException) -> bool:
    return task.done() and not task.cancelled() and task.exception() is error


def _receive_signals() -> None:
    """Let the event loop look for signals that came while it did not run: uvloop would wait for one more."""
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    if wakeup >= 0:
        os.write(wakeup, b"\0")


def _default_loop() -> type[asyncio.AbstractEventLoop]:
    # Windows has its own; asyncio names it since Python 3.13 only
    return getattr(asyncio, "ProactorEventLoop", asyncio.SelectorEventLoop)


def _uvloop() -> type[asyncio.AbstractEventLoop]:
    import uvloop

    return uvloop.Loop
