"""A connector with many faults, and a client that gives up like Flyte's executor.

Its `get` fails half of the time, or hangs. One in three answers to `create` is lost: some because the other system
takes longer to answer than the executor waits, some on their way back. All of this is in virtual time, through gRPC in
memory, so that 1,000 tasks take their minutes within seconds.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import anyio
import pytest
from structlog.testing import capture_logs

from chaos.propeller import Propeller, Task
from connectrio import AsyncConnector, Phase, Resource, ResourceMeta
from connectrio.connector.registry import Registry
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub
from connectrio.rpc import Server
from connectrio.rpc.options import ServerOptions
from connectrio.rpc.testing import memory_channel
from connectrio.service.async_connector import AsyncConnectorService
from connectrio.service.settings import ServiceSettings
from rpc.kit.virtual_time import in_virtual_time

PROTECTED = ServiceSettings()
UNPROTECTED = ServiceSettings(create_memory=0, poll_retry=0, poll_absorb=0)
LOST = 1 / 3


@dataclass
class Chaos(ResourceMeta):
    job: int


@dataclass
class BadDay:
    """The vendor's system: its jobs by number, with their owners."""

    random: Random
    owners: list[str] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def submit(self, owner: str) -> int:
        self.owners.append(owner)
        self.ends.append(anyio.current_time() + self.random.uniform(0, 90))
        return len(self.owners) - 1

    def duplicates(self) -> list[str]:
        return [owner for owner, count in Counter(self.owners).items() if count > 1]


class ChaosConnector(AsyncConnector[Chaos]):
    name = "Chaos"
    task_type_name = "chaos"
    metadata_type = Chaos
    adopts_lost_jobs = True

    def __init__(self, vendor: BadDay) -> None:
        self._vendor = vendor

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        owner = task_execution_metadata.task_execution_id.node_execution_id.execution_id.name
        job = self._vendor.submit(owner)
        # half of the lost answers come too late
        if self._vendor.random.random() < LOST / 2:
            await anyio.sleep(self._vendor.random.uniform(11, 30))
        return Chaos(job)

    async def get(self, resource_meta, **kwargs):
        chance = self._vendor.random.random()
        if chance < 0.4:
            raise ConnectionResetError("connection reset by peer")
        if chance < 0.45:
            raise TimeoutError("no answer")
        if chance < 0.5:
            await anyio.sleep_forever()
        if anyio.current_time() < self._vendor.ends[resource_meta.job]:
            return Resource(Phase.RUNNING)
        return Resource(Phase.SUCCEEDED, outputs={"result": resource_meta.job})

    async def delete(self, resource_meta, **kwargs):
        raise AssertionError("the executor deletes nothing here")


class Day:
    """A host and an executor, and their results."""

    def __init__(self, *, protected: bool) -> None:
        random = Random(20261123)
        self.vendor = BadDay(random)
        registry = Registry()
        registry.register(ChaosConnector(self.vendor))
        service = AsyncConnectorService(registry, PROTECTED if protected else UNPROTECTED, clock=anyio.current_time)
        self.metrics = service.metrics
        self._server = Server([service], options=ServerOptions())
        self._random = random

    async def run(self, count: int) -> list[Task]:
        """Run tasks that all begin within a minute."""
        tasks = [Task(f"run-{number}") for number in range(count)]
        async with memory_channel(self._server) as channel:
            propeller = Propeller(AsyncConnectorServiceStub(channel), self._random, lost=LOST / 2, max_attempts=10)

            async def see_through(task: Task) -> None:
                await anyio.sleep(self._random.uniform(0, 60))
                await propeller.run(task)

            async with anyio.create_task_group() as group:
                for task in tasks:
                    group.start_soon(see_through, task)
        return tasks

    def origins(self) -> dict[str, int]:
        """Return the number of CreateTask requests by the source of their answer."""
        name = "connectrio_creates_total"
        [family] = [family for family in self.metrics.registry.collect() if f"{family.name}_total" == name]
        return {sample.labels["origin"]: int(sample.value) for sample in family.samples if sample.name == name}


@pytest.fixture(autouse=True)
def _quiet():
    with capture_logs():
        yield


@in_virtual_time
async def test_a_thousand_tasks():
    day = Day(protected=True)
    tasks = await day.run(1000)
    assert day.vendor.duplicates() == []
    assert [task.name for task in tasks if task.is_lost] == []
    assert max(len(task.errors) for task in tasks) <= 5
    assert {task.name: day.vendor.owners[task.result] for task in tasks} == {task.name: task.name for task in tasks}
    assert len(day.vendor.owners) == 1000
    # and there were faults of each kind, and attempts that failed by them
    origins = day.origins()
    assert origins["fresh"] == 1000
    assert origins["adopted"] > 200
    assert origins["replayed"] > 50
    assert sum(task.attempts for task in tasks) > 1250


@in_virtual_time
async def test_the_same_day_without_protection():
    """Without the host's protection, the test above fails."""
    day = Day(protected=False)
    tasks = await day.run(100)
    assert len(day.vendor.duplicates()) > 20
    assert any(len(task.errors) > 5 for task in tasks) or any(task.is_lost for task in tasks)
    assert re.match("INTERNAL: failed to get chaos task|DEADLINE_EXCEEDED", next(e for t in tasks for e in t.errors))
