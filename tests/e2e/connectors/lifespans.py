"""Connectors with lifespans; the variable LIFESPAN selects how they behave.

It is "fine", or "hangs" when it is opened.
"""

import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta


def report(event):
    os.write(1, (json.dumps({"event": event}) + "\n").encode())


@dataclass
class Job(ResourceMeta):
    seconds: float


class Holder(AsyncConnector[Job]):
    name = "Holder"
    task_type_name = "holder"
    metadata_type = Job

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Job(0)

    async def get(self, resource_meta, **kwargs):
        report("called")
        await anyio.sleep(resource_meta.seconds)
        report("answered")
        return Resource(phase=Phase.SUCCEEDED)

    async def delete(self, resource_meta, **kwargs):
        return None

    @asynccontextmanager
    async def lifespan(self):
        report("opening")
        if os.environ["LIFESPAN"] == "hangs":
            await anyio.sleep_forever()
        report("opened")
        yield
        report("closed")


ConnectorRegistry.register(Holder())
