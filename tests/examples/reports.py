from contextlib import asynccontextmanager
from dataclasses import dataclass

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta

PHASES = {"queued": Phase.QUEUED, "busy": Phase.RUNNING, "done": Phase.SUCCEEDED, "broken": Phase.FAILED}


@dataclass
class Report(ResourceMeta):
    """Finds a report again."""

    id: str


class Reports(AsyncConnector[Report]):
    """Has reports made by a vendor.

    :param connect: opens a session with the vendor: an async context manager
    """

    name = "Reports"
    task_type_name = "report"
    metadata_type = Report

    def __init__(self, connect):
        self._connect = connect

    @asynccontextmanager
    async def lifespan(self):
        async with self._connect() as self._vendor:
            yield

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, *, token, **kwargs):
        return Report(await self._vendor.submit(inputs["subject"], token))

    async def get(self, resource_meta, **kwargs):
        status, url = await self._vendor.status(resource_meta.id)
        return Resource(PHASES[status], outputs={"url": url} if url else None)

    async def delete(self, resource_meta, **kwargs):
        await self._vendor.cancel(resource_meta.id)


class DesktopVendor:
    """Makes reports at once, on this machine, so that this file can be tried as it is."""

    def __init__(self):
        self.subjects = {}
        self.cancelled = []

    async def submit(self, subject, token):
        self.subjects[f"r-{len(self.subjects)}"] = subject
        return f"r-{len(self.subjects) - 1}"

    async def status(self, id):  # noqa: A002 - the vendor's own word
        return "done", f"https://reports.example/{self.subjects[id]}"

    async def cancel(self, id):  # noqa: A002 - the vendor's own word
        self.cancelled.append(id)


@asynccontextmanager
async def desktop():
    yield DesktopVendor()


ConnectorRegistry.register(Reports(desktop), override=True)
