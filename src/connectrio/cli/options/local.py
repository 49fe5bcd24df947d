"""Running commands against a host in this process, which listens nowhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from cyclopts import Parameter

from connectrio.cli import event_loop
from connectrio.cli.errors import CommandError
from connectrio.host.settings import Backend, HostSettings
from connectrio.rpc import Channel

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

    def run(
        self, command: Callable[[Channel], Awaitable[T]], backend: Backend | None, interrupts: event_loop.Interrupts
    ) -> T:
        """Run `command` with a channel to a host in memory, whose connectors are open meanwhile.

        :raises CommandError: a module cannot be loaded; what the command raises
        """
        from connectrio.logs import configure_logging

        configure_logging("error")  # with the tracebacks of what a connector raises
        return event_loop.run(lambda: self._with_host(command), backend, interrupts)

    async def _with_host(self, command: Callable[[Channel], Awaitable[T]]) -> T:
        from connectrio.host.host import HostError
        from connectrio.testing import serving_in_memory

        settings = HostSettings(modules=self.modules or [], entry_points=self.local)
        try:
            async with serving_in_memory(settings) as host:
                return await command(host.channel)
        except HostError as error:
            raise CommandError(str(error)) from error
