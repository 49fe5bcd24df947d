"""An event loop of asyncio's kind that only its host ends.

On asyncio and uvloop, SystemExit in any task or callback ends the event loop, and so does `loop.stop()`. A connector's
code, or a library that it uses, may do either in a task of its own. On trio it can do neither.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - this is about its event loops
from collections.abc import Callable
from typing import Any

from connectrio.host.settings import Backend
from connectrio.logs import get_logger
from connectrio.masking.credentials import format_traceback

__all__ = ["HostStopped", "loop_factory"]

log = get_logger("connectrio.host.host")


class HostStopped(SystemExit):
    """The host is to stop at once: what ends the event loop."""


def loop_factory(backend: Backend) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes an event loop that goes on until what it runs is done, or raises `HostStopped`.

    :param backend: asyncio or uvloop
    """
    base: type[asyncio.AbstractEventLoop] = _default_loop() if backend == "asyncio" else _uvloop()

    class LastingLoop(base):  # type: ignore[valid-type, misc]  # a class that is known when this runs
        _main: asyncio.Future[Any] | None = None

        def run_until_complete(self, future: Any) -> Any:
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
                except SystemExit as error:
                    if self._main is None or self._main.done():
                        raise
                    log.warning(
                        "code of a connector tried to end the process: only its task ends",
                        exception=format_traceback(error),
                    )
                else:
                    if self._main is None or self._main.done():
                        return
                    log.warning("code of a connector has stopped the event loop, which goes on")

    return LastingLoop


def _default_loop() -> type[asyncio.AbstractEventLoop]:
    # Windows has its own; asyncio names it since Python 3.13 only
    return getattr(asyncio, "ProactorEventLoop", asyncio.SelectorEventLoop)


def _uvloop() -> type[asyncio.AbstractEventLoop]:
    import uvloop

    return uvloop.Loop
