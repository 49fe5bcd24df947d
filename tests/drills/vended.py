"""A connector of the failing vendor, for drills: its `def` methods wait in the host's worker threads."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta, current_call
from connectrio.idl.flyteidl2.connector import GetTaskLogsResponse, GetTaskLogsResponseBody

PHASES = {"running": Phase.RUNNING, "over": Phase.SUCCEEDED, "deleted": Phase.ABORTED}
# seconds that the vendor has for an answer
PATIENCE = 5.0


@dataclass
class Job(ResourceMeta):
    name: str


def ask(method: str, name: str) -> str:
    """Return the vendor's answer."""
    url = f"http://127.0.0.1:{os.environ['VENDOR_PORT']}/{name}"
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=PATIENCE) as response:
        return str(response.read().decode())


class Vended(AsyncConnector[Job]):
    """A job is named after the attempt that it is made for."""

    name = "Vended"
    task_type_name = "vended"
    metadata_type = Job
    create_is_idempotent = True

    def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        name = task_execution_metadata.task_execution_id.node_execution_id.execution_id.name
        assert current_call().key is not None
        ask("PUT", name)
        return Job(name)

    def get(self, resource_meta, **kwargs):
        return Resource(phase=PHASES[ask("GET", resource_meta.name)])

    def delete(self, resource_meta, **kwargs):
        ask("DELETE", resource_meta.name)

    async def get_logs(self, resource_meta, **kwargs) -> AsyncIterator[GetTaskLogsResponse]:
        for number in range(20):
            await anyio.sleep(0.01)
            yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=[f"{resource_meta.name}: line {number}"]))


ConnectorRegistry.register(Vended())
