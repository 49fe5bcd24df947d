"""Three connectors for a bad night: one is well, the system behind one is down, and one hangs and blocks.

What a job of `nightly_reports` does is the last part of its `output_prefix`: `…/hang` is created and its first poll
hangs in a thread; `…/block` blocks the event loop while it is created. The event loop is let go, and the thread too,
when the file that CONNECTRIO_NIGHT_ENDS names exists, or after ten minutes.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta

# seconds; a program that nobody ends must end
_LONGEST = 600.0


def wait_for_the_morning():
    ends = Path(os.environ["CONNECTRIO_NIGHT_ENDS"])
    begun = time.monotonic()
    while not ends.exists() and time.monotonic() - begun < _LONGEST:
        time.sleep(0.05)


@dataclass
class Job(ResourceMeta):
    name: str


class Night(AsyncConnector[Job]):
    metadata_type = Job

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Job(output_prefix)

    async def get(self, resource_meta, **kwargs):
        return Resource(Phase.RUNNING, message="well on its way")

    async def delete(self, resource_meta, **kwargs):
        pass


class Spark(Night):
    """All is well."""

    name = "SparkConnector"
    task_type_name = "spark_on_k8s"


class Warehouse(Night):
    """The other system is down: jobs can be created, and polls fail."""

    name = "WarehouseConnector"
    task_type_name = "warehouse_query"

    async def get(self, resource_meta, **kwargs):
        raise ConnectionError("the warehouse does not answer")  # the vendor is down


class Reports(Night):
    """It never heard of event loops."""

    name = "ReportsConnector"
    task_type_name = "nightly_reports"

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        if output_prefix.endswith("/block"):
            wait_for_the_morning()  # the event loop is blocked
        return Job(output_prefix)

    def get(self, resource_meta, **kwargs):
        if resource_meta.name.endswith("/hang"):
            wait_for_the_morning()  # the thread hangs
        return Resource(Phase.RUNNING)


for connector in (Spark(), Warehouse(), Reports()):
    ConnectorRegistry.register(connector)
