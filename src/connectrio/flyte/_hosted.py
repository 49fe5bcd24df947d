"""Connectors for flyte-sdk as connectors of connectrio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing
from typing import Any

from flyte.connectors import AsyncConnector as FlyteConnector
from flyte.connectors import ConnectorRegistry as FlyteRegistry

from connectrio.connector.base import Resource
from connectrio.connector.registry import Registry
from connectrio.flyte import _conversion as conversion
from connectrio.flyte._loop_pool import Emit
from connectrio.flyte.hosting import ForeignConnector, HostedMeta, host_new, task_request
from connectrio.idl.flyteidl2.connector import GetTaskLogsResponse, GetTaskMetricsResponse, TaskExecutionMetadata
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.idl.flyteidl2.task import Inputs

__all__ = ["HostedConnector", "HostedMeta", "adopt"]


class HostedConnector(ForeignConnector):
    """Hosts an unmodified connector for flyte-sdk.

    Its methods get the same arguments as from flyte-sdk's own service: `flyteidl2`'s messages, and inputs converted by
    flyte-sdk's type engine.

    :param connector: the connector to host
    """

    def __init__(self, connector: FlyteConnector[Any]) -> None:
        super().__init__(connector, connector.task_type_name, connector.task_type_version)

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: Inputs | Mapping[str, Any] | bytes | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,
        **kwargs: Any,
    ) -> HostedMeta:
        """Start the job.

        :param inputs: the request's message, for flyte-sdk's type engine to convert, which reads pickles and any URL: a
            host checks it first (`literals.checked_inputs`); or the encoded CreateTaskRequest that holds it and the
            other arguments; or Python values
        :raises LiteralError: the type engine cannot convert them
        """
        request, values = task_request(task_template, output_prefix, inputs, task_execution_metadata)
        return HostedMeta(await self._run(conversion.create, request, values, kwargs))

    async def get(self, resource_meta: HostedMeta, **kwargs: Any) -> Resource:
        """Return the state of the job; its outputs are converted by flyte-sdk's type engine."""
        state: Resource = await self._run(conversion.get, resource_meta.data, kwargs)
        return state

    async def delete(self, resource_meta: HostedMeta, **kwargs: Any) -> None:
        """Cancel the job."""
        await self._run(conversion.delete, resource_meta.data, kwargs)

    async def get_metrics(self, resource_meta: HostedMeta, **kwargs: Any) -> GetTaskMetricsResponse:  # noqa: ARG002
        """Return the job's metrics. Like flyte-sdk's service, pass only the resource meta."""
        response: GetTaskMetricsResponse = await self._run(conversion.get_metrics, resource_meta.data)
        return response

    async def get_logs(
        self,
        resource_meta: HostedMeta,
        token: str = "",
        **kwargs: Any,  # noqa: ARG002 - flyte-sdk's service passes the token alone
    ) -> AsyncIterator[GetTaskLogsResponse]:
        """Yield the job's log lines."""

        async def emit_all(emit: Emit) -> None:
            async with aclosing(conversion.get_logs(self.connector, resource_meta.data, token)) as responses:
                async for response in responses:
                    await emit(response)

        call = self._pool.start(emit_all, name=self._label("get_logs"))
        try:
            async with aclosing(call.items()) as items:
                async for response in items:
                    yield response
        finally:
            await call.cancel()


def adopt(registry: Registry, before: Mapping[Any, object], overriding: Collection[tuple[str, int]] = ()) -> None:
    """Host in `registry` the connectors that were registered with flyte-sdk since `before`.

    :param before: the content of flyte-sdk's registry at that time
    :param overriding: the task types and versions of those that were registered with `override`
    :raises ValueError: `registry` does not take one, see `Registry.register`. The others are hosted
    """
    found = FlyteRegistry._REGISTRY  # noqa: SLF001 - the only way to list them
    host_new(registry, found, before, overriding, HostedConnector.of)
