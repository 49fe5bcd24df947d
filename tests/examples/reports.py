from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta, TaskTemplate

PHASES = {"queued": Phase.QUEUED, "busy": Phase.RUNNING, "done": Phase.SUCCEEDED, "broken": Phase.FAILED}


@dataclass
class Report(ResourceMeta):
    """Finds a report again."""

    id: str


class Vendor(Protocol):
    """What the vendor's client can do."""

    async def submit(self, subject: str, token: str) -> str: ...
    async def status(self, id: str) -> tuple[str, str | None]: ...  # noqa: A002 - the vendor's own word
    async def cancel(self, id: str) -> None: ...  # noqa: A002 - same


class Reports(AsyncConnector[Report]):
    """Has reports made by a vendor.

    :param connect: opens a session with the vendor: an async context manager
    """

    name = "Reports"
    task_type_name = "report"

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Vendor]]) -> None:
        self._connect = connect

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with self._connect() as self._vendor:
            yield

    async def create(
        self, task_template: TaskTemplate, output_prefix: str, inputs: dict[str, Any], *, token: str, **kwargs: Any
    ) -> Report:
        return Report(await self._vendor.submit(inputs["subject"], token))

    async def get(self, resource_meta: Report, **kwargs: Any) -> Resource:
        status, url = await self._vendor.status(resource_meta.id)
        return Resource(PHASES[status], outputs={"url": url} if url else None)

    async def delete(self, resource_meta: Report, **kwargs: Any) -> None:
        await self._vendor.cancel(resource_meta.id)


class DesktopVendor:
    """Makes reports at once, on this machine, so that this file can be tried as it is."""

    def __init__(self) -> None:
        self.subjects: dict[str, str] = {}
        self.cancelled: list[str] = []

    async def submit(self, subject: str, token: str) -> str:
        self.subjects[f"r-{len(self.subjects)}"] = subject
        return f"r-{len(self.subjects) - 1}"

    async def status(self, id: str) -> tuple[str, str | None]:  # noqa: A002 - the vendor's own word
        return "done", f"https://reports.example/{self.subjects[id]}"

    async def cancel(self, id: str) -> None:  # noqa: A002 - the vendor's own word
        self.cancelled.append(id)


@asynccontextmanager
async def desktop() -> AsyncIterator[Vendor]:
    yield DesktopVendor()


ConnectorRegistry.register(Reports(desktop), override=True)
