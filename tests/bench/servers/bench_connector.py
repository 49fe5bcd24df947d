"""The connectors of the benchmark, one source for flyte-sdk and for us. They do next to nothing: the host is measured.

They are flyte-sdk's where that is installed, for its own service and for ours, which hosts them; else they are ours.

`bench` starts jobs that have all succeeded. `bench-blocking` blocks for 0.2 s in `get`, as a vendor's synchronous
client does. flyte-sdk awaits every method, so there it can only block in an `async def`; ours runs a plain `def` in a
worker thread.
"""

import time
from dataclasses import dataclass

try:
    from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
    from flyteidl2.connector.connector_pb2 import GetTaskLogsResponse, GetTaskLogsResponseBody
    from flyteidl2.core.execution_pb2 import TaskExecution
    from flyteidl2.logs.dataplane.payload_pb2 import LogLine

    IS_FLYTE = True
    SUCCEEDED = TaskExecution.SUCCEEDED
except ImportError:
    from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta
    from connectrio.idl.flyteidl2.connector import GetTaskLogsResponse, GetTaskLogsResponseBody
    from connectrio.idl.flyteidl2.logs.dataplane import LogLine

    IS_FLYTE = False
    SUCCEEDED = Phase.SUCCEEDED

LOG_LINES = 1000
BLOCKED_SECONDS = 0.2
INPUTS = {"count", "ratio", "text", "flag", "items", "table"}


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
        if inputs.keys() != INPUTS or len(inputs["items"]) != 10 or len(inputs["table"]) != 10:
            raise ValueError(f"these are not the inputs that were sent: {inputs}")
        return BenchJob("0123456789abcdef")

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=SUCCEEDED, message="done", outputs={"rows": 42})

    async def delete(self, resource_meta, **kwargs):
        return None

    async def get_logs(self, resource_meta, token="", **kwargs):
        for number in range(LOG_LINES):
            line = LogLine(message=f"line {number} of a job that has something to say")
            yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=[line]))


class LargeConnector(BenchConnector):
    """A job whose id is large comes back as an output."""

    name = "Bench large"
    task_type_name = "bench-large"

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=SUCCEEDED, message="done", outputs={"text": resource_meta.job_id})


class BlockingConnector(BenchConnector):
    """A connector that blocks."""

    name = "Bench blocking"
    task_type_name = "bench-blocking"

    if IS_FLYTE:

        async def get(self, resource_meta, **kwargs):
            time.sleep(BLOCKED_SECONDS)
            return Resource(phase=SUCCEEDED, message="done", outputs={"rows": 42})

    else:

        def get(self, resource_meta, **kwargs):
            time.sleep(BLOCKED_SECONDS)
            return Resource(phase=SUCCEEDED, message="done", outputs={"rows": 42})


for connector in (BenchConnector(), LargeConnector(), BlockingConnector()):
    ConnectorRegistry.register(connector)
