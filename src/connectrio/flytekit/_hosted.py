"""Connectors for flytekit as connectors of connectrio."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from flytekit.extend.backend.base_connector import AsyncConnectorBase, SyncConnectorBase
from flytekit.extend.backend.base_connector import ConnectorRegistry as FlytekitRegistry

from connectrio.connector.base import Resource
from connectrio.connector.registry import Registry
from connectrio.flyte._loop_state import root_package
from connectrio.flyte.hosting import ForeignConnector, HostedMeta, host_new, task_request
from connectrio.flytekit import _conversion as conversion
from connectrio.idl.flyteidl2.connector import GetTaskLogsResponse, GetTaskMetricsResponse, TaskExecutionMetadata
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.idl.flyteidl2.task import Inputs

__all__ = ["HostedConnector", "HostedMeta", "HostedSyncConnector", "adopt", "adopt_built_in", "hosted"]

# registered by `import flytekit` itself
_SENSOR = "flytekit.sensor.sensor_engine"

FlytekitConnector: TypeAlias = AsyncConnectorBase | SyncConnectorBase


class _Hosted(ForeignConnector):
    """What both kinds of connectors have in common. As in flytekit's service, a plain `def` runs in a thread of the
    loop's executor."""

    def __init__(self, connector: FlytekitConnector) -> None:
        super().__init__(connector, connector.task_category.name, connector.task_category.version)

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: Inputs | Mapping[str, Any] | bytes | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,
        **kwargs: Any,  # noqa: ARG002 - flytekit's service has no connections
    ) -> HostedMeta:
        """Start the job; of a `SyncConnectorBase`, run the whole task.

        :param inputs: the request's message; or the encoded CreateTaskRequest that holds it and the other arguments; or
            Python values
        """
        request, values = task_request(task_template, output_prefix, inputs, task_execution_metadata)
        return HostedMeta(await self._run(conversion.do if self.is_sync else conversion.create, request, values))


class HostedConnector(_Hosted):
    """Hosts an unmodified `AsyncConnectorBase` of flytekit.

    Its methods get the same arguments as from flytekit's own service: flytekit's `TaskTemplate`, `LiteralMap` and
    `TaskExecutionMetadata`. Secrets and configs of a request's connection are not passed on: connectors for flytekit
    read theirs from the environment or from files.

    :param connector: the connector to host
    """

    async def get(self, resource_meta: HostedMeta, **kwargs: Any) -> Resource:  # noqa: ARG002 - as above
        """Return the state of the job; its outputs are converted by flytekit's type engine."""
        state: Resource = await self._run(conversion.get, resource_meta.data)
        return state

    async def delete(self, resource_meta: HostedMeta, **kwargs: Any) -> None:  # noqa: ARG002 - as above
        """Cancel the job."""
        await self._run(conversion.delete, resource_meta.data)

    async def get_metrics(self, resource_meta: HostedMeta, **kwargs: Any) -> GetTaskMetricsResponse:  # noqa: ARG002
        """Return the job's metrics. Like flytekit's service, pass only the resource meta."""
        response: GetTaskMetricsResponse = await self._run(conversion.get_metrics, resource_meta.data)
        return response

    async def get_logs(self, resource_meta: HostedMeta, **kwargs: Any) -> GetTaskLogsResponse:  # noqa: ARG002
        """Return the job's log lines. Like flytekit's service, pass only the resource meta."""
        response: GetTaskLogsResponse = await self._run(conversion.get_logs, resource_meta.data)
        return response


class HostedSyncConnector(_Hosted):
    """Hosts an unmodified `SyncConnectorBase` of flytekit, for executors that poll, too.

    `create` runs the whole task, and its resource meta holds the result, which `get` reads from it. So nothing of a
    task is kept in the host.

    :param connector: the connector to host
    """

    is_sync = True

    async def get(self, resource_meta: HostedMeta, **kwargs: Any) -> Resource:  # noqa: ARG002 - nothing is called
        """Return the result of the task."""
        return conversion.result_of(self.connector, resource_meta.data)

    async def delete(self, resource_meta: HostedMeta, **kwargs: Any) -> None:
        """Do nothing: the task has ended."""


def hosted(connector: FlytekitConnector) -> ForeignConnector:
    """Host `connector` with a class of its own, so that logs and errors have the name of the connector's class."""
    kind = HostedSyncConnector if isinstance(connector, SyncConnectorBase) else HostedConnector
    return kind.of(connector)


def adopt(registry: Registry, before: Mapping[Any, object], overriding: Collection[tuple[str, int]] = ()) -> None:
    """Host in `registry` the connectors that were registered with flytekit since `before`.

    Not flytekit's connector for sensors, which each import of flytekit registers: see `adopt_built_in`.

    :param before: the content of flytekit's registry at that time
    :param overriding: the task types and versions of those that were registered with `override`
    :raises ValueError: `registry` does not take one, see `Registry.register`. The others are hosted
    """
    found = {key: each for key, each in _registered().items() if type(each).__module__ != _SENSOR}
    host_new(registry, found, before, overriding, hosted)


def adopt_built_in(registry: Registry, *, always: bool = False) -> None:
    """Host flytekit's own connectors, for sensors and webhooks, if `registry` has other connectors for flytekit.

    :param always: also if it has none
    :raises ValueError: as `adopt`
    """
    if always or any(isinstance(each.connector, _Hosted) for each in registry.claims()):
        with suppress(ModuleNotFoundError):  # httpx, which flytekit itself does not require
            importlib.import_module("flytekit.extras.webhook")
        own = {key: each for key, each in _registered().items() if root_package(type(each).__module__) == "flytekit"}
        host_new(registry, own, {}, (), hosted)


def _registered() -> dict[Any, Any]:
    return dict(FlytekitRegistry._REGISTRY)  # noqa: SLF001 - the only way to list them
