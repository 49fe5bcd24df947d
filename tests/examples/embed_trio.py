"""A host inside a plain trio program, with a task of the program's own beside it."""

import time
from dataclasses import dataclass
from typing import Any

import trio

from connectrio import AsyncConnector, ConnectorService, HostSettings, Phase, Registry, Resource, ResourceMeta
from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceStub,
    CreateTaskRequest,
    GetTaskRequest,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.rpc import Channel


@dataclass
class Timer(ResourceMeta):
    rings_at: float


class TimerConnector(AsyncConnector[Timer]):
    name = "Timer Connector"
    task_type_name = "timer"

    async def create(
        self, task_template: TaskTemplate, output_prefix: str, inputs: dict[str, Any], **kwargs: Any
    ) -> Timer:
        return Timer(rings_at=time.time() + 0.5)

    async def get(self, resource_meta: Timer, **kwargs: Any) -> Resource:
        rings = time.time() >= resource_meta.rings_at
        return Resource(phase=Phase.SUCCEEDED if rings else Phase.RUNNING)

    async def delete(self, resource_meta: Timer, **kwargs: Any) -> None:
        pass


async def work_of_your_own() -> None:
    while True:
        print("working", flush=True)
        await trio.sleep(0.1)


async def run_a_job(target: str) -> None:
    async with Channel(target) as channel:
        tasks = AsyncConnectorServiceStub(channel)
        created = await tasks.create_task(CreateTaskRequest(template=TaskTemplate(type="timer")))
        request = GetTaskRequest(task_category=TaskCategory(name="timer"), resource_meta=created.resource_meta)
        while True:
            answer = await tasks.get_task(request)
            if answer.resource is not None and answer.resource.phase is Phase.SUCCEEDED:
                break
            await trio.sleep(0.1)
    print("the job has succeeded", flush=True)


async def main() -> None:
    registry = Registry()
    registry.register(TimerConnector())
    service = ConnectorService(HostSettings(host="127.0.0.1", port=0, prometheus_port=0), registry=registry)
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(service.serve)
        print(f"serving on {addresses.target}", flush=True)
        nursery.start_soon(work_of_your_own)
        await run_a_job(addresses.target)
        await service.shutdown(grace=5)
        print("the host has stopped", flush=True)
        nursery.cancel_scope.cancel()


trio.run(main)
