"""Connectors that obey orders, for our host and for flyte-sdk's.

CONNECTOR_API is the package whose classes they use: "connectrio" unless it is set. What a call is to do is an order in
JSON: the `output_prefix` of a create, the `resource_meta` of everything else. What happens is reported on standard
output, a JSON line each, which the tests wait for.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio import from_thread

API = os.environ.get("CONNECTOR_API", "connectrio")
if API == "connectrio":
    from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta
    from connectrio.idl.flyteidl2.connector import (
        GetTaskLogsResponse,
        GetTaskLogsResponseBody,
        GetTaskMetricsResponse,
    )
else:
    from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
    from flyteidl2.connector.connector_pb2 import (
        GetTaskLogsResponse,
        GetTaskLogsResponseBody,
        GetTaskMetricsResponse,
    )
    from flyteidl2.core.execution_pb2 import TaskExecution as Phase

ERRORS = {
    "CancelledError": lambda: asyncio.CancelledError("of my own"),
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    "KeyboardInterrupt": lambda: KeyboardInterrupt("boom"),
    "NotImplementedError": NotImplementedError,
    "SystemExit": lambda: SystemExit(3),
    "ValueError": lambda: ValueError("boom"),
}


def report(event: str, **fields: Any) -> None:
    # one write, so that the lines of threads do not mix
    os.write(1, (json.dumps({"event": event, "at": time.monotonic(), **fields}) + "\n").encode())


def describe(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else repr(value)


@dataclass
class Order(ResourceMeta):
    """What to do: a verb and its argument.

    echo      report the arguments
    raise X   raise X, a key of ERRORS
    long N    raise an error whose text has N characters
    big N     return N bytes
    pid       return the number of the process
    fork      fork a child that does nothing and lasts until it is killed; return its number
    recurse   exceed the recursion limit
    sleep S   wait for S seconds
    block S   hold up whatever thread this is for S seconds
    until P   hold up whatever thread this is until there is a file P
    watch     in a thread: wait until nobody waits for the answer any more
    gate      wait for an order of the same id to open the gate, in a coroutine as well as in a thread
    open      open it
    junk      return something that no method may return
    """

    does: str = "echo"
    argument: str = ""
    id: str = ""


class Gate:
    """Holds calls until it is opened, and counts how many it held at once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.is_open = False
        self._now = 0
        self.most = 0

    def open(self) -> None:
        with self._changed:
            self.is_open = True
            self._changed.notify_all()

    def enter(self) -> None:
        with self._changed:
            self._now += 1
            self.most = max(self.most, self._now)

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.is_open)
            self._now -= 1


# by the id of the order
GATES: dict[str, Gate] = {}


def gate_of(order: Order) -> Gate:
    # in one step: several threads may need the same gate
    return GATES.setdefault(order.id, Gate())


def open_all(*_: object) -> None:
    for gate in list(GATES.values()):
        gate.open()


if API == "connectrio":  # flyte-sdk's host loads modules in a thread, which may not handle signals
    signal.signal(signal.SIGUSR1, open_all)


def act(order: Order, arguments: dict[str, Any]) -> str:
    """Carry out the orders that take no time."""
    match order.does:
        case "raise":
            error = ERRORS[order.argument]
            raise error()
        case "long":
            raise RuntimeError("é" * int(order.argument))
        case "recurse":
            return act(order, arguments)
        case "block":
            time.sleep(float(order.argument))
        case "until":
            while not Path(order.argument).exists():
                time.sleep(0.01)
        case "big":
            return "x" * int(order.argument)
        case "pid" | "fork":
            return json.dumps(fork() if order.does == "fork" else os.getpid())
        case "open":
            gate_of(order).open()
    return json.dumps({name: describe(value) for name, value in arguments.items()})


def fork() -> int:
    child = os.fork()
    if child == 0:
        for output in (1, 2):  # a test reads them to their end
            os.close(output)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            time.sleep(1)
    return child


async def end_the_process(how: str) -> None:
    """Do what ends an event loop of asyncio's, beside the call."""
    loop = asyncio.get_running_loop()

    async def leave() -> None:
        if how == "interrupt":
            raise KeyboardInterrupt
        sys.exit("a connector wants to leave")

    if how in ("task", "interrupt"):
        task = loop.create_task(leave())
        await asyncio.wait([task])
    else:
        loop.call_soon({"callback": sys.exit, "stop": loop.stop}[how])
    await anyio.sleep(0.1)


async def obey(operation: str, order: Order, **arguments: Any) -> str:
    report("started", operation=operation, id=order.id)
    outcome = "returned"
    try:
        if order.does == "sleep":
            await anyio.sleep(float(order.argument))
        while order.does == "gate" and not gate_of(order).is_open:  # noqa: ASYNC110 - threads open it as well
            await anyio.sleep(0.05)
        if order.does == "end the process":
            await end_the_process(order.argument)
        return act(order, arguments)
    except BaseException as error:
        outcome = "cancelled" if isinstance(error, anyio.get_cancelled_exc_class()) else type(error).__name__
        raise
    finally:
        report("ended", operation=operation, id=order.id, outcome=outcome)


def obey_in_a_thread(operation: str, order: Order, **arguments: Any) -> str:
    if order.does == "gate":
        gate_of(order).enter()
    report("started", operation=operation, id=order.id)
    if order.does == "sleep":
        time.sleep(float(order.argument))
    if order.does == "gate":
        gate_of(order).wait()
    if order.does == "watch":
        watch(operation, order)
    result = act(order, arguments)
    report("ended", operation=operation, id=order.id, outcome="returned", most=gate_of(order).most)
    return result


def watch(operation: str, order: Order) -> None:
    try:
        while True:
            from_thread.check_cancelled()
            time.sleep(0.02)
    except BaseException:  # each event loop raises its own class
        report("ended", operation=operation, id=order.id, outcome="cancelled")
        raise


def finished(order: Order, message: str) -> Any:
    return None if order.does == "junk" else Resource(phase=Phase.SUCCEEDED, message=message)


def page(message: str, token: str) -> Any:
    return GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=[message, token]))


class Probe(AsyncConnector):
    """All methods are coroutines; logs come from an async generator."""

    name = "Probe"
    task_type_name = "probe"
    metadata_type = Order

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        order = Order(**json.loads(output_prefix or "{}"))
        echo = await obey("create", order, **(inputs or {}), **kwargs)
        return None if order.does == "junk" else Order(does="echo", argument=echo, id=order.id)

    async def get(self, resource_meta, **kwargs):
        return finished(resource_meta, await obey("get", resource_meta, **kwargs))

    async def delete(self, resource_meta, **kwargs):
        await obey("delete", resource_meta, **kwargs)

    async def get_metrics(self, resource_meta, **kwargs):
        message = await obey("get_metrics", resource_meta, **kwargs)
        return message if resource_meta.does == "junk" else GetTaskMetricsResponse()

    async def get_logs(self, resource_meta, token="", **kwargs):
        yield page("first", token)
        yield page(await obey("get_logs", resource_meta, **kwargs), token)


class Paged(Probe):
    """Logs come from a coroutine; the methods take all arguments that the host passes."""

    name = "Paged"
    task_type_name = "paged"

    async def get(self, resource_meta, output_prefix=None, **kwargs):
        return await super().get(resource_meta, output_prefix=output_prefix, **kwargs)

    async def get_logs(self, resource_meta, token="", lines=None, **kwargs):
        return page(await obey("get_logs", resource_meta, lines=lines, **kwargs), token)

    async def get_metrics(self, resource_meta, queries=None, start_time=None, end_time=None, step=None, **kwargs):
        asked = {"queries": queries, "start_time": start_time, "end_time": end_time, "step": step}
        await obey("get_metrics", resource_meta, **asked, **kwargs)
        report("asked", id=resource_meta.id, **{name: describe(value) for name, value in asked.items()})
        return GetTaskMetricsResponse()


class Plain(AsyncConnector):
    """All methods are plain functions."""

    name = "Plain"
    task_type_name = "plain"
    metadata_type = Order

    def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Order(argument=obey_in_a_thread("create", Order(**json.loads(output_prefix or "{}")), **kwargs))

    def get(self, resource_meta, **kwargs):
        return finished(resource_meta, obey_in_a_thread("get", resource_meta, **kwargs))

    def delete(self, resource_meta, **kwargs):
        obey_in_a_thread("delete", resource_meta, **kwargs)

    def get_metrics(self, resource_meta, **kwargs):
        obey_in_a_thread("get_metrics", resource_meta, **kwargs)
        return GetTaskMetricsResponse()

    def get_logs(self, resource_meta, **kwargs):
        yield page("first", "")
        yield page(obey_in_a_thread("get_logs", resource_meta, **kwargs), "")


class Bare(AsyncConnector):
    """Only the required methods of a connector."""

    name = "Bare"
    task_type_name = "bare"
    metadata_type = Order

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Order()

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=Phase.RUNNING)

    async def delete(self, resource_meta, **kwargs):
        return None


class BareInVersion2(Bare):
    task_type_version = 2


class Metered(Probe):
    """For tests that count calls; no other test calls it."""

    name = "Metered"
    task_type_name = "metered"


for connector in (Probe, Paged, Plain, Bare, BareInVersion2, Metered):
    ConnectorRegistry.register(connector())
