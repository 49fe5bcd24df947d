"""Connectors of which one is well and the others have faults, for our host and for flyte-sdk's.

CONNECTOR_API is the package whose classes they use: "connectrio" unless it is set. Files in the directory FAULTS say
how the other systems are.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

API = os.environ.get("CONNECTOR_API", "connectrio")
if API == "connectrio":
    from anyio import sleep

    from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta

    RUNNING = Phase.RUNNING
else:
    from asyncio import sleep

    from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
    from flyteidl2.core.execution_pb2 import TaskExecution

    RUNNING = TaskExecution.RUNNING

FAULTS = Path(os.environ["FAULTS"])


@dataclass
class Job(ResourceMeta):
    name: str


class Healthy(AsyncConnector):
    name = "Healthy"
    task_type_name = "healthy"
    metadata_type = Job

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Job(output_prefix)

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=RUNNING, message="all is well")

    async def delete(self, resource_meta, **kwargs):
        pass


class Warehouse(Healthy):
    """Its vendor can be down."""

    name = "Warehouse"
    task_type_name = "warehouse"

    async def get(self, resource_meta, **kwargs):
        if (FAULTS / "warehouse is down").exists():
            raise ConnectionError("warehouse.example refused the connection")
        return Resource(phase=RUNNING, message="at it")


def ask_a_vendor_that_never_answers():
    time.sleep(3600)


class Hanging(Healthy):
    """Its client blocks, and has no time-out."""

    name = "Hanging"
    task_type_name = "hanging"

    if API == "connectrio":

        def get(self, resource_meta, **kwargs):
            ask_a_vendor_that_never_answers()

    else:  # where methods must be coroutines

        async def get(self, resource_meta, **kwargs):
            ask_a_vendor_that_never_answers()


class Buggy(Healthy):
    name = "Buggy"
    task_type_name = "buggy"

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Job(str(int("twelve")))


class Slow(Healthy):
    """Its vendor accepts jobs when it likes to."""

    name = "Slow"
    task_type_name = "slow"

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        (FAULTS / f"asked for {Path(output_prefix).name}").touch()
        while not (FAULTS / f"accepted {Path(output_prefix).name}").exists():  # noqa: ASYNC110 - as a vendor is polled
            await sleep(0.02)
        return Job(output_prefix)


for connector in (Healthy, Warehouse, Hanging, Buggy, Slow):
    ConnectorRegistry.register(connector())
