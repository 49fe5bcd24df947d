"""Connectors in every trouble that panels and alerts are about. The last part of a job's `output_prefix` says which.

A file "down" in the directory TROUBLES makes the warehouse go down, one called "over" ends what hangs. The warehouse
makes one with the name of a slow job when it is asked to create that.
"""

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

from anyio import sleep

from connectrio import (
    AsyncConnector,
    ConnectorPolicy,
    ConnectorRegistry,
    PermanentFailure,
    Phase,
    Resource,
    ResourceMeta,
)

TROUBLES = Path(os.environ["TROUBLES"])
# seconds; a program that nobody ends must end
LONGEST = 600.0
BEGUN = time.monotonic()
# seconds that a job takes
WORK = 15.0


def is_over():
    return (TROUBLES / "over").exists() or time.monotonic() - BEGUN > LONGEST


@dataclass
class Job(ResourceMeta):
    name: str
    begun: float

    @classmethod
    def of(cls, output_prefix):
        return cls(output_prefix.rpartition("/")[2], time.time())

    def state(self):
        age = time.time() - self.begun
        phase = Phase.QUEUED if age < WORK / 5 else Phase.RUNNING if age < WORK else Phase.SUCCEEDED
        return Resource(phase, message="at it")


class Well(AsyncConnector[Job]):
    name = "Well"
    task_type_name = "well"
    metadata_type = Job

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Job.of(output_prefix)

    async def get(self, resource_meta, **kwargs):
        return resource_meta.state()

    async def delete(self, resource_meta, **kwargs):
        pass


class Spark(Well):
    """A client that blocks, in worker threads; one of its requests is never answered."""

    name = "Spark"
    task_type_name = "spark"

    def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        time.sleep(random.uniform(0.02, 0.1))
        return Job.of(output_prefix)

    def get(self, resource_meta, **kwargs):
        if resource_meta.name.startswith("hang"):
            while not is_over():
                time.sleep(0.1)
        time.sleep(random.uniform(0.002, 0.02))
        return resource_meta.state()


class Warehouse(Well):
    """It fails now and then, and is down at times."""

    name = "Warehouse"
    task_type_name = "warehouse"

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        job = Job.of(output_prefix)
        if job.name.startswith("slow"):
            (TROUBLES / job.name).touch()
            await sleep(1)
        else:
            self.ask()
            await sleep(random.uniform(0.05, 0.6))
        return job

    async def get(self, resource_meta, **kwargs):
        self.ask()
        await sleep(random.uniform(0.005, 0.05))
        return resource_meta.state()

    def ask(self):
        if (TROUBLES / "down").exists():
            raise ConnectionError("the warehouse does not answer")
        if random.random() < 0.05:
            raise TimeoutError("the warehouse took too long")


class Lake(Well):
    """It is down for polls."""

    name = "Lake"
    task_type_name = "lake"

    async def get(self, resource_meta, **kwargs):
        raise ConnectionError("the lake does not answer")


class Pond(Lake):
    """It is down, and gets some rest."""

    name = "Pond"
    task_type_name = "pond"
    policy = ConnectorPolicy(breaker_failures=5, breaker_pause=LONGEST)


class Webhook(Well):
    """It allows few calls."""

    name = "Webhook"
    task_type_name = "webhook"
    policy = ConnectorPolicy(rate_calls=4)


class Reports(Well):
    """It has bugs."""

    name = "Reports"
    task_type_name = "reports"

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        job = Job.of(output_prefix)
        if job.name.startswith("block"):
            time.sleep(1.5)
        if job.name.startswith("wrong"):
            raise PermanentFailure("there is no such report")
        return job

    async def get(self, resource_meta, **kwargs):
        if resource_meta.name.startswith("bug"):
            raise ValueError("not a report")
        return resource_meta.state()


for connector in (Well, Spark, Warehouse, Lake, Pond, Webhook, Reports):
    ConnectorRegistry.register(connector())
