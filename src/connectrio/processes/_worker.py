"""One of several processes: a host that a supervisor has started."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import anyio
from anyio.abc import TaskGroup

from connectrio.connector.registry import ConnectorRegistry
from connectrio.host.held import HeldSockets, adopt
from connectrio.host.host import Host
from connectrio.host.lifecycle import Addresses, HostError, ProcessOfSeveral
from connectrio.host.runner import announce, served, serving_fields
from connectrio.host.samples import samples_of
from connectrio.host.signals import run_until_signalled
from connectrio.logs import get_logger, host_logging, writes_json
from connectrio.processes.control import (
    MAX_SIZE,
    Alive,
    Announced,
    Control,
    Described,
    Failed,
    Order,
    Request,
    Serving,
    Stacks,
    StateReport,
    StatusReport,
    encode,
    receive_order,
)
from connectrio.processes.exposition import snapshot
from connectrio.processes.reports import shortened
from connectrio.rpc.sockets import close_in_children
from connectrio.telemetry.report import StackReport

log = get_logger("connectrio.processes")

# bytes; the supervisor joins the reports of all processes
_MAX_STATUS = MAX_SIZE // 2
# a task has some kilobytes of frames
_MOST_STACKS = 2000
# bytes, for the names of its fields
_STACK_OVERHEAD = 500


class _Worker:
    """A host that takes requests from the supervisor and reports to it.

    :param end: the socket to the supervisor
    :param is_serving: called when the host answers calls
    """

    def __init__(self, order: Order, end: socket.socket, is_serving: Callable[[], None]) -> None:
        self._end = end
        self._is_serving = is_serving
        self._addresses: Addresses | None = None
        self._tasks: TaskGroup | None = None
        self._control: Control | None = None
        if order.broken is not None:
            ConnectorRegistry.default.broken = order.broken
            ConnectorRegistry.default.failures.append(order.broken)
        self.host = Host(
            order.options.settings,
            one_of=ProcessOfSeveral(order.options.processes, tuple(order.http)),
            held=HeldSockets([adopt(each, f"descriptor {each}, from the supervisor,") for each in order.held]),
        )

    async def serve(self) -> None:
        """Host until told to shut down, or until the supervisor is gone."""
        self._control = await Control.over(self._end)
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._listen_to, self._control)
            await self.host.serve(task_status=self)
            self._tasks.cancel_scope.cancel()
        await self._control.aclose()

    def started(self, value: Addresses | None = None) -> None:
        """Called by the host when it serves, as the method of any `anyio.abc.TaskStatus`."""
        if value is not None and self._tasks is not None and self._control is not None:
            self._addresses = value
            self._is_serving()
            self._tasks.start_soon(self._tell_that_it_serves, self._control)

    async def _tell_that_it_serves(self, control: Control) -> None:
        """Send the state before that, so that the supervisor's first answer has it."""
        await control.send(self._report())
        await control.send(Serving())

    async def _listen_to(self, control: Control) -> None:
        while (message := await control.receive()) is not None:
            match message:
                case Request(what="live"):
                    await control.send(Alive())
                case Request(what="report" | "status" | "stacks" as what):
                    await self._tell(what, control)
                case Request(what="describe"):
                    await control.send(self._description())
                case Request(what="announce") if self._addresses is not None:
                    if writes_json():
                        await control.send(Announced(serving_fields(self.host, self._addresses)))
                    else:
                        announce(self.host, self._addresses)
                        sys.stdout.flush()
        log.warning("the supervisor is gone; shutting down")
        await self.host.shutdown()

    def _report(self) -> StateReport:
        host = self.host
        failures = list(host.failures)
        return StateReport(
            str(host.state),
            host.is_ready,
            host.connectors,
            failures,
            snapshot(host.collectors),
            list(host.not_ready),
            host.is_listening,
        )

    def _description(self) -> Described:
        registry = self.host.registry
        connectors = [(name, " ".join(types), source) for (name, source), types in served(registry).items()]
        failures = [f"{each.source}: {each.error}" for each in registry.all_failures() if each != registry.broken]
        return Described(connectors, samples_of(registry), failures)

    async def _tell(self, what: str, control: Control) -> None:
        """Send the state of this process, or what the status page shows of it; nothing if that fails."""
        try:
            if what == "report":
                await self.host.refresh()
                await control.send(self._report())
                return
            if what == "stacks":
                await control.send(Stacks(_fitting((await self.host.stacks())[:_MOST_STACKS])))
                return
            report = await self.host.report()
            # in a thread, so that calls are answered while a long report is encoded to see how long it is
            shorten = partial(shortened, report, _MAX_STATUS, lambda each: encode(StatusReport(each)))
            await control.send(StatusReport(await anyio.to_thread.run_sync(shorten, limiter=anyio.CapacityLimiter(1))))
        except Exception:
            log.exception("this process cannot tell what it does", what=what)


def _fitting(stacks: list[StackReport]) -> list[StackReport]:
    """Return the first of some stacks, as many as fit into a message."""
    left = _MAX_STATUS
    for number, stack in enumerate(stacks):
        left -= sum(map(len, stack.frames)) + len(stack.name) + len(stack.what) + _STACK_OVERHEAD
        if left < 0:
            return stacks[:number]
    return stacks


def main(descriptor: int, is_serving: Callable[[], None], end_process: Callable[[int], None] | None) -> int:
    """Host as the supervisor orders over the socket `descriptor`. Return the exit code.

    :param is_serving: called when this process answers calls
    :param end_process: see `run_until_signalled`
    :raises SystemExit: at the second signal
    """
    end = socket.socket(fileno=descriptor)
    # a child of a connector would keep the connection to the supervisor open
    os.set_inheritable(end.fileno(), False)
    close_in_children(end)
    try:
        order = receive_order(end)
    except EOFError:  # the supervisor has ended while this process waited for an order
        return 1
    options = order.options
    logging = host_logging(
        options.log_level, options.log_format, process=order.number, owns_process=end_process is not None
    )
    with logging, end.dup() as last_words:
        close_in_children(last_words)
        try:
            worker = _Worker(order, end, is_serving)
            run_until_signalled(
                worker.serve,
                worker.host.shutdown,
                backend=options.backend,
                show_stuck=worker.host.show_stuck,
                end_process=end_process,
            )
        except HostError as error:
            last_words.setblocking(True)
            with suppress(OSError):
                last_words.sendall(encode(Failed(str(error), error.picture)))
            return 1
    return 0
