"""A connector that keeps to the limits of the system that it calls, and polls many jobs with one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from connectrio import (
    AsyncConnector,
    ConnectorPolicy,
    Phase,
    PhaseMap,
    Resource,
    ResourceMeta,
    TaskTemplate,
    current_call,
)

PHASES = PhaseMap({"queued": Phase.QUEUED, "success": Phase.SUCCEEDED, "failed": Phase.FAILED}, system="Snowball")


class Vendor(Protocol):
    """A client of the other system."""

    async def submit(self, statement: str, token: str, *, job_id: str | None) -> str:
        """Start a job, or find the one that has this id."""
        ...

    async def list(self, ids: Sequence[str], token: str) -> Mapping[str, str]:
        """Return the states of those that it knows."""
        ...

    async def cancel(self, job_id: str, token: str) -> None:
        """Cancel a job."""
        ...


@dataclass
class Query(ResourceMeta):
    id: str


class Snowball(AsyncConnector[Query]):
    """Runs queries."""

    name = "Snowball"
    task_type_name = "snowball"
    policy = ConnectorPolicy(rate_calls=30, max_vendor_calls=20, breaker_failures=10)

    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor

    async def create(
        self, task_template: TaskTemplate, output_prefix: str, inputs: dict[str, Any], *, token: str, **kwargs: Any
    ) -> Query:
        return Query(await self._vendor.submit(inputs["statement"], token, job_id=current_call().key))

    async def get(self, resource_meta: Query, *, token: str, **kwargs: Any) -> Resource:
        states = await self._vendor.list([resource_meta.id], token)
        return Resource(PHASES[states[resource_meta.id]])

    async def get_many(
        self, resource_metas: Sequence[Query], *, token: str, **kwargs: Any
    ) -> Sequence[Resource | Exception | None]:
        states = await self._vendor.list([meta.id for meta in resource_metas], token)
        return [Resource(PHASES[states[meta.id]]) if meta.id in states else None for meta in resource_metas]

    async def delete(self, resource_meta: Query, *, token: str, **kwargs: Any) -> None:
        await self._vendor.cancel(resource_meta.id, token)
