"""Three connectors for a bad night: one is well, the system behind one is down, and one hangs and blocks.

What a job of `nightly_reports` does is the last part of its `output_prefix`: `…/hang` is created and its first poll
hangs in a thread; `…/block` blocks the event loop while it is created. Both end when the file that
CONNECTRIO_NIGHT_ENDS names exists, or after ten minutes; the block also when there is one of that name and ".first".
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta

# seconds; a program that nobody ends must end
_LONGEST = 600.0


BEGUN = time.monotonic()


def is_over(suffix=""):
    file = Path(os.environ["CONNECTRIO_NIGHT_ENDS"])
    return time.monotonic() - BEGUN > _LONGEST or file.exists() or file.with_name(file.name + suffix).exists()


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
    """The other system goes down: the first poll of each job is answered, all further ones fail."""

    name = "WarehouseConnector"
    task_type_name = "warehouse_query"

    def __init__(self):
        self.seen = set()

    async def get(self, resource_meta, **kwargs):
        if resource_meta.name not in self.seen:
            self.seen.add(resource_meta.name)
            return Resource(Phase.RUNNING, message="the query runs")
        raise ConnectionError("the warehouse does not answer")  # the vendor is down


class Reports(Night):
    """It never heard of event loops."""

    name = "ReportsConnector"
    task_type_name = "nightly_reports"

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        if output_prefix.endswith("/block"):
            while not is_over(".first"):
                time.sleep(0.05)  # the event loop is blocked
        return Job(output_prefix)

    def get(self, resource_meta, **kwargs):
        if resource_meta.name.endswith("/hang"):
            while not is_over():
                time.sleep(0.05)  # the thread hangs
        return Resource(Phase.RUNNING)


for connector in (Spark(), Warehouse(), Reports()):
    ConnectorRegistry.register(connector)
