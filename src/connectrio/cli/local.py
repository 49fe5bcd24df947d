"""Running commands against a host in this process, which listens nowhere."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from cyclopts import Parameter

from connectrio.cli import aio
from connectrio.cli.errors import INTERRUPTED, CommandError
from connectrio.rpc import Channel
from connectrio.settings import Backend, HostSettings
from connectrio.terminal import print_error

__all__ = ["Local"]

T = TypeVar("T")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Local:
    """Whether to run the job in this process, and with which connectors.

    :param local: run the job in this process, without a server, with the installed connectors
    :param modules: run the job in this process, with the connectors of this module or .py file; repeatable
    """

    local: Annotated[bool, Parameter(negative=())] = False
    modules: Annotated[list[str] | None, Parameter(show_default=False)] = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is to be a host in this process."""
        return self.local or bool(self.modules)

    def run(self, command: Callable[[Channel], Awaitable[T]], backend: Backend | None, interrupts: aio.Interrupts) -> T:
        """Run `command` with a channel to a host in memory, whose connectors are open meanwhile.

        A connector's thread that nobody can stop does not keep the command from ending when it fails.

        :raises CommandError: a module cannot be loaded; what the command raises
        """
        from connectrio.logs import configure_logging
        from connectrio.runner import exit_despite_busy_threads

        configure_logging("error")  # with the tracebacks of what a connector raises
        others = threading.enumerate()
        try:
            result = aio.run(lambda: self._with_host(command), backend, interrupts)
        except CommandError as error:
            if any(not thread.daemon for thread in {*threading.enumerate()} - {*others}):
                print_error(str(error), error.hint, failed=error.code != INTERRUPTED)
                exit_despite_busy_threads(error.code, others)
                raise SystemExit(error.code) from error  # they have ended just now
            raise
        return result

    async def _with_host(self, command: Callable[[Channel], Awaitable[T]]) -> T:
        from connectrio.host import HostError
        from connectrio.testing import serving_in_memory

        settings = HostSettings(modules=self.modules or [], entry_points=self.local)
        try:
            async with serving_in_memory(settings) as host:
                return await command(host.channel)
        except HostError as error:
            raise CommandError(str(error)) from error
