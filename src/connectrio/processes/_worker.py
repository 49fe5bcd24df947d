"""One of several processes: a host that a supervisor has started."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import anyio
from anyio.abc import TaskGroup

from connectrio.host.announce import announce
from connectrio.host.host import Host
from connectrio.host.lifecycle import Addresses, HostError, ProcessOfSeveral, what_to_act_on
from connectrio.host.settings import anyio_backend
from connectrio.host.signals import watch_signals
from connectrio.logs import configure_logging, get_logger
from connectrio.processes.control import Control, Failed, Order, Report, Request, Serving, encode, receive_order
from connectrio.processes.exposition import snapshot

log = get_logger("connectrio.processes")


class _Worker:
    """A host, and its talk with the supervisor.

    :param is_serving: called when it answers calls
    :param end_process: see `watch_signals`
    """

    def __init__(self, order: Order, is_serving: Callable[[], None], end_process: Callable[[int], None] | None) -> None:
        self._order = order
        self._is_serving = is_serving
        self._end_process = end_process
        self._host = Host(order.settings, one_of=ProcessOfSeveral(order.processes, tuple(order.http)))
        self._addresses: Addresses | None = None
        self._tasks: TaskGroup | None = None
        self._control: Control | None = None

    async def run(self, end: socket.socket) -> None:
        """Host until told to stop by a signal, or left alone."""
        self._control = await Control.over(end)
        async with anyio.create_task_group() as self._tasks:
            await self._tasks.start(watch_signals, self._host.shutdown, self._end_process)
            self._tasks.start_soon(self._listen_to, self._control)
            await self._host.serve(task_status=self)
            self._tasks.cancel_scope.cancel()
        await self._control.aclose()

    def started(self, value: Addresses | None = None) -> None:
        """What the host calls when it serves, as of any `anyio.abc.TaskStatus`."""
        if value is not None and self._tasks is not None and self._control is not None:
            self._addresses = value
            self._is_serving()
            self._tasks.start_soon(self._control.send, Serving(list(value.grpc)))

    async def _listen_to(self, control: Control) -> None:
        while (message := await control.receive()) is not None:
            match message:
                case Request(what="report"):
                    await control.send(self._report())
                case Request(what="announce") if self._addresses is not None:
                    announce(self._host, self._addresses)
                    sys.stdout.flush()
        log.warning("the supervisor is gone; shutting down")
        await self._host.shutdown()

    def _report(self) -> Report:
        host = self._host
        failures = [(failure.source, failure.error) for failure in host.failures]
        return Report(str(host.state), host.is_ready, host.connectors, failures, snapshot(host.collectors))


def main(descriptor: int, is_serving: Callable[[], None], end_process: Callable[[int], None] | None) -> int:
    """Host as the supervisor orders over that socket; the exit code.

    :param is_serving: called when this process answers calls
    :param end_process: see `watch_signals`
    """
    end = socket.socket(fileno=descriptor)
    os.set_inheritable(end.fileno(), False)  # what connectors start would keep the supervisor from seeing our end
    order = receive_order(end)
    configure_logging(order.log_level, order.log_format, process=order.number)
    with end.dup() as last_words:
        backend, options = anyio_backend(order.backend)
        return _run(_Worker(order, is_serving, end_process), end, last_words, backend, options)


def _run(worker: _Worker, end: socket.socket, last_words: socket.socket, backend: str, options: dict[str, bool]) -> int:
    try:
        anyio.run(worker.run, end, backend=backend, backend_options=options)
    except BaseExceptionGroup as group:
        reason = what_to_act_on(group)
        if isinstance(reason, SystemExit):
            return reason.code if isinstance(reason.code, int) else 1
        if not isinstance(reason, HostError):
            raise reason from None
        last_words.setblocking(True)
        with suppress(OSError):
            last_words.sendall(encode(Failed(str(reason))))
        return 1
    return 0
