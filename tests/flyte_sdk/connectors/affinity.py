"""A connector that reports which state of a package is bound to one event loop."""

from __future__ import annotations

from dataclasses import dataclass

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta
from connectrio.flyte._loop_state import loop_bound_state


@dataclass
class Package(ResourceMeta):
    name: str


class Affinity(AsyncConnector[Package]):
    name = "Affinity"
    task_type_name = "affinity"
    metadata_type = Package

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Package(output_prefix)

    async def get(self, resource_meta, **kwargs):
        return Resource(Phase.RUNNING, message=loop_bound_state(resource_meta.name, []))

    async def delete(self, resource_meta, **kwargs):
        return None


ConnectorRegistry.register(Affinity())
