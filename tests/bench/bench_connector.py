"""A connector that does next to nothing, for flyte-sdk and for us: what is measured is the host."""

from dataclasses import dataclass

try:
    from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta

    SUCCEEDED = Phase.SUCCEEDED
except ImportError:
    from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
    from flyteidl2.core.execution_pb2 import TaskExecution

    SUCCEEDED = TaskExecution.SUCCEEDED


@dataclass
class BenchJob(ResourceMeta):
    """As a vendor's job id."""

    job_id: str


class BenchConnector(AsyncConnector):
    """Every job has succeeded."""

    name = "Bench"
    task_type_name = "bench"
    metadata_type = BenchJob

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return BenchJob("0123456789abcdef")

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=SUCCEEDED, message="done", outputs={"rows": 42})

    async def delete(self, resource_meta, **kwargs):
        return None


ConnectorRegistry.register(BenchConnector())
