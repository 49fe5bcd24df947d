"""For the tests of connectors: drives a connector through a job's whole life, without a server process.

    async def test_a_greeting():
        async with hosting(Hello()) as host:
            job = await host.create(Task(inputs={"name": "Flyte"}))
            state = await job.wait()
        assert state.succeeded, state
        assert state.outputs == {"greeting": "Hello, Flyte!"}

The host is the real one, with its errors, limits, metrics and lifespans, and the calls are real gRPC calls; only the
network is in memory. It runs on asyncio and trio, and with every runner of async tests: anyio's pytest plugin,
pytest-asyncio, pytest-trio.
"""

from connectrio.client.task import MissingSecretError, Task
from connectrio.rpc import GRPCError, Status
from connectrio.testing._host import LocalHost, connection_metadata, hosting, serving_in_memory
from connectrio.testing._job import Job, LogPage, State

__all__ = [
    "GRPCError",
    "Job",
    "LocalHost",
    "LogPage",
    "MissingSecretError",
    "State",
    "Status",
    "Task",
    "connection_metadata",
    "hosting",
    "serving_in_memory",
]
