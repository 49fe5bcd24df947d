"""Connectors of the hosts that are killed. The other system is a folder, which outlives them: a file for each job.

`VENDOR` names it. A job is named after the task and the key; without an idempotent `create`, also after the process and
at random.
"""

from __future__ import annotations

import os
import random
import secrets
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from connectrio import AsyncConnector, ConnectorPolicy, ConnectorRegistry, Phase, Resource, ResourceMeta, current_call

VENDOR = Path(os.environ["VENDOR"])


@dataclass
class Job(ResourceMeta):
    name: str


class Chaos(AsyncConnector[Job]):
    """Its vendor takes some time before there is a job, and some more until it has answered."""

    name = "Chaos"
    metadata_type = Job
    adopts_lost_jobs = True

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        owner = task_execution_metadata.task_execution_id.node_execution_id.execution_id.name
        key = current_call().key
        await anyio.sleep(random.uniform(0, 0.02))
        name = f"{owner}.{key}"
        if not self.create_is_idempotent:
            name += f".{os.getpid()}.{secrets.token_hex(4)}"
        (VENDOR / name).touch()
        await anyio.sleep(random.uniform(0, 0.02))
        return Job(name)

    async def get(self, resource_meta, **kwargs):
        assert (VENDOR / resource_meta.name).exists()
        return Resource(Phase.SUCCEEDED, outputs={"result": len(resource_meta.name)})

    async def delete(self, resource_meta, **kwargs):
        raise AssertionError("the executor deletes nothing here")


class Idempotent(Chaos):
    task_type_name = "idempotent"
    create_is_idempotent = True


class AtMostOnce(Chaos):
    task_type_name = "at-most-once"
    policy = ConnectorPolicy(at_most_once=True)


class Plain(Chaos):
    task_type_name = "plain"

    # a plain function: the host writes down that it begins when it has a thread
    def create(self, **kwargs):
        return anyio.from_thread.run(partial(Chaos.create, self, **kwargs))


for connector in (Idempotent(), AtMostOnce(), Plain()):
    ConnectorRegistry.register(connector)
