"""A connector whose jobs are lines of a file, for drills of rolling updates: another system that forgets nothing.

`CLUSTER_JOURNAL` names the file. Every process of every host appends to it; a line that is written at once is whole. A
task whose number is divisible by ten is slow: its calls take `CLUSTER_SLOW` seconds.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import anyio

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta, current_call

QUICK = 0.02


@dataclass
class Line(ResourceMeta):
    name: str
    key: str


class Journaled(AsyncConnector[Line]):
    """Creates a job halfway through `create`: a host may be gone before and after."""

    name = "Journaled"
    task_type_name = "journaled"
    metadata_type = Line

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        name = task_execution_metadata.task_execution_id.node_execution_id.execution_id.name
        line = Line(name, current_call().key)
        await anyio.sleep(seconds_of(name) / 2)
        write("create", line)
        await anyio.sleep(seconds_of(name) / 2)
        return line

    async def get(self, resource_meta, **kwargs):
        await anyio.sleep(seconds_of(resource_meta.name))
        return Resource(phase=Phase.RUNNING)

    async def delete(self, resource_meta, **kwargs):
        await anyio.sleep(seconds_of(resource_meta.name))
        write("delete", resource_meta)


def seconds_of(name: str) -> float:
    """Return how long each call for the task of that name takes."""
    return float(os.environ["CLUSTER_SLOW"]) if int(name.rpartition("-")[2]) % 10 == 0 else QUICK


def write(what: str, line: Line) -> None:
    """Append to the journal, in one piece."""
    data = json.dumps({"what": what, "name": line.name, "key": line.key, "pid": os.getpid()}) + "\n"
    journal = os.open(os.environ["CLUSTER_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(journal, data.encode())
    finally:
        os.close(journal)


ConnectorRegistry.register(Journaled())
