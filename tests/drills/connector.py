"""A connector for drills: its calls obey orders, and it reports how they ended.

What a call is to do is an order in JSON, its `resource_meta`. `report` answers, in JSON, what the host's process holds.
"""

from __future__ import annotations

import gc
import json
import time
from dataclasses import dataclass
from pathlib import Path

import anyio

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta
from connectrio.idl.flyteidl2.connector import GetTaskLogsResponse, GetTaskLogsResponseBody


@dataclass
class Order(ResourceMeta):
    """What to do: a verb and its argument.

    quick     nothing
    sleep S   wait for S seconds
    hold      wait until cancelled
    big N     return N bytes
    fail T    raise an error with this text
    report    tell what there is, and forget the times of the cancellations so far; "all" takes longer
    """

    does: str = "quick"
    argument: str = ""


class Book:
    """The number of held calls, and the times of their cancellation.

    :ivar begun: calls that wait or waited to be cancelled
    :ivar cancelled: times on the machine's monotonic clock, since the last report
    :ivar total_cancelled: since the beginning
    """

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled: list[float] = []
        self.total_cancelled = 0

    async def hold(self) -> None:
        """Wait to be cancelled, and record the time."""
        self.begun += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled.append(time.monotonic())
            self.total_cancelled += 1

    def report(self, *, everything: bool) -> str:
        """Return the resources that the process holds now, as JSON."""
        cancelled, self.cancelled = self.cancelled, []
        told = {"begun": self.begun, "total_cancelled": self.total_cancelled, "cancelled": cancelled}
        if everything:
            gc.collect()  # so that the counts can be compared
            told |= {
                "tasks": len(anyio.get_running_tasks()),
                "descriptors": len(list(Path("/proc/self/fd").iterdir())),
                "objects": len(gc.get_objects()),
            }
        return json.dumps(told)


BOOK = Book()


class Drilled(AsyncConnector[Order]):
    """Only `get` does anything."""

    name = "Drilled"
    task_type_name = "drilled"
    metadata_type = Order

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Order()

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=Phase.SUCCEEDED, message=await obey(resource_meta))

    async def delete(self, resource_meta, **kwargs):
        return None

    async def get_logs(self, resource_meta, **kwargs):
        while True:
            yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=["a line"]))


async def obey(order: Order) -> str:
    """Carry out the order. Return the message for the answer."""
    match order.does:
        case "sleep":
            await anyio.sleep(float(order.argument))
        case "hold":
            await BOOK.hold()
        case "big":
            return "x" * int(order.argument)
        case "fail":
            raise RuntimeError(order.argument)
        case "report":
            return BOOK.report(everything=order.argument == "all")
    return "done"


class Attacked(Drilled):
    """The connector for attackers: a separate one, because each has a limited number of calls."""

    name = "Attacked"
    task_type_name = "attacked"


ConnectorRegistry.register(Drilled())
ConnectorRegistry.register(Attacked())
