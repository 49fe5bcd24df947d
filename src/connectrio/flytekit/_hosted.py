"""Connectors for flytekit as connectors of connectrio."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeAlias

from flytekit.extend.backend.base_connector import AsyncConnectorBase, SyncConnectorBase
from flytekit.extend.backend.base_connector import ConnectorRegistry as FlytekitRegistry

from connectrio.connector.base import AsyncConnector, Resource, ResourceMeta
from connectrio.connector.context import worker_limit
from connectrio.connector.registry import Registry
from connectrio.flyte._loop_state import root_package
from connectrio.flyte.affinity import LoopPools
from connectrio.flytekit import _conversion as conversion
from connectrio.idl.flyteidl2.connector import (
    CreateTaskRequest,
    GetTaskLogsResponse,
    GetTaskMetricsResponse,
    TaskExecutionMetadata,
)
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.idl.flyteidl2.task import Inputs

__all__ = ["HostedConnector", "HostedMeta", "HostedSyncConnector", "adopt", "adopt_built_in", "hosted"]

# registered by `import flytekit` itself
_SENSOR = "flytekit.sensor.sensor_engine"

_POOLS = LoopPools()

FlytekitConnector: TypeAlias = AsyncConnectorBase | SyncConnectorBase


@dataclass
class HostedMeta(ResourceMeta):
    """A job's resource meta, which only the hosted connector can read."""

    data: bytes

    def encode(self) -> bytes:
        """Return the encoded resource meta of the hosted connector."""
        return self.data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the meta without a check: the hosted connector decodes it on its own loop."""
        return cls(data)


class _Hosted(AsyncConnector[HostedMeta]):
    """What both kinds of connectors have in common: how they are named, and where they run.

    They run on asyncio loops of their package (see `flyte/_loop_pool.py`), whatever the host runs on. As in flytekit's
    service, a plain `def` runs in a thread of the loop's executor.
    """

    metadata_type = HostedMeta
    converts_inputs = True
    queues_calls = True

    def __init__(self, connector: FlytekitConnector) -> None:
        category = connector.task_category
        self.connector = connector
        self.name = connector.name  # type: ignore[misc]  # class variables of the base; here each object has its own
        self.task_type_name = category.name  # type: ignore[misc]  # as above
        self.task_type_version = category.version  # type: ignore[misc]  # as above
        self._package = root_package(type(connector).__module__)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Keep the loops of the connector's package open; all connectors of the package share them."""
        async with _POOLS.open(self._package, worker_limit.get(), self.connector):
            yield

    async def _run(self, method: str, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        coroutine = partial(conversion.in_own_context, function, self.connector, *arguments)
        name = f"{type(self.connector).__qualname__}.{method}"
        # perhaps one that has failed has created the job
        repeatable = method not in ("create", "do")
        return await _POOLS.get(self._package).run(coroutine, name=name, repeatable=repeatable)


class HostedConnector(_Hosted):
    """Hosts an unmodified `AsyncConnectorBase` of flytekit.

    Its methods get the same arguments as from flytekit's own service: flytekit's `TaskTemplate`, `LiteralMap` and
    `TaskExecutionMetadata`. Secrets and configs of a request's connection are not passed on: connectors for flytekit
    read theirs from the environment or from files.

    :param connector: the connector to host
    """

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: Inputs | Mapping[str, Any] | bytes | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,
        **kwargs: Any,  # noqa: ARG002 - flytekit's service has no connections
    ) -> HostedMeta:
        """Start the job.

        :param inputs: the request's message; or the encoded CreateTaskRequest that holds it and the other arguments; or
            Python values
        """
        request, values = _request(task_template, output_prefix, inputs, task_execution_metadata)
        return HostedMeta(await self._run("create", conversion.create, request, values))

    async def get(self, resource_meta: HostedMeta, **kwargs: Any) -> Resource:  # noqa: ARG002 - as above
        """Return the state of the job; its outputs are converted by flytekit's type engine."""
        state: Resource = await self._run("get", conversion.get, resource_meta.data)
        return state

    async def delete(self, resource_meta: HostedMeta, **kwargs: Any) -> None:  # noqa: ARG002 - as above
        """Cancel the job."""
        await self._run("delete", conversion.delete, resource_meta.data)

    async def get_metrics(self, resource_meta: HostedMeta, **kwargs: Any) -> GetTaskMetricsResponse:  # noqa: ARG002
        """Return the job's metrics. Like flytekit's service, pass only the resource meta."""
        response: GetTaskMetricsResponse = await self._run("get_metrics", conversion.get_metrics, resource_meta.data)
        return response

    async def get_logs(self, resource_meta: HostedMeta, **kwargs: Any) -> GetTaskLogsResponse:  # noqa: ARG002
        """Return the job's log lines. Like flytekit's service, pass only the resource meta."""
        response: GetTaskLogsResponse = await self._run("get_logs", conversion.get_logs, resource_meta.data)
        return response


class HostedSyncConnector(_Hosted):
    """Hosts an unmodified `SyncConnectorBase` of flytekit, for executors that poll, too.

    `create` runs the whole task, and its resource meta holds the result, which `get` reads from it. So nothing of a
    task is kept in the host.

    :param connector: the connector to host
    """

    is_sync = True

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: Inputs | Mapping[str, Any] | bytes | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,
        **kwargs: Any,  # noqa: ARG002 - flytekit's service has no connections
    ) -> HostedMeta:
        """Run the task.

        :param inputs: as for `HostedConnector.create`
        """
        request, values = _request(task_template, output_prefix, inputs, task_execution_metadata)
        return HostedMeta(await self._run("do", conversion.do, request, values))

    async def get(self, resource_meta: HostedMeta, **kwargs: Any) -> Resource:  # noqa: ARG002 - nothing is called
        """Return the result of the task."""
        return conversion.result_of(self.connector, resource_meta.data)

    async def delete(self, resource_meta: HostedMeta, **kwargs: Any) -> None:
        """Do nothing: the task has ended."""


def hosted(connector: FlytekitConnector) -> _Hosted:
    """Host `connector` with a class of its own, so that logs and errors have the name of the connector's class."""
    own = type(connector)
    kind = HostedSyncConnector if isinstance(connector, SyncConnectorBase) else HostedConnector
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__}
    hosting: type[_Hosted] = type(own.__name__, (kind,), names)
    return hosting(connector)


def adopt(registry: Registry, before: Mapping[Any, object], overriding: Collection[tuple[str, int]] = ()) -> None:
    """Host in `registry` the connectors that were registered with flytekit since `before`.

    Not flytekit's connector for sensors, which each import of flytekit registers: see `adopt_built_in`.

    :param before: the content of flytekit's registry at that time
    :param overriding: the task types and versions of those that were registered with `override`
    :raises ValueError: `registry` does not take one, see `Registry.register`. The others are hosted
    """
    _adopt(registry, before, overriding, lambda connector: type(connector).__module__ != _SENSOR)


def adopt_built_in(registry: Registry, *, always: bool = False) -> None:
    """Host flytekit's own connectors, for sensors and webhooks, if `registry` has other connectors for flytekit.

    :param always: also if it has none
    :raises ValueError: as `adopt`
    """
    if always or any(isinstance(each.connector, _Hosted) for each in registry.claims()):
        with suppress(ModuleNotFoundError):  # httpx, which flytekit itself does not require
            importlib.import_module("flytekit.extras.webhook")
        _adopt(registry, {}, (), lambda connector: root_package(type(connector).__module__) == "flytekit")


def _adopt(
    registry: Registry,
    before: Mapping[Any, object],
    overriding: Collection[tuple[str, int]],
    is_wanted: Callable[[object], bool],
) -> None:
    errors: list[ValueError] = []
    for key, connector in list(FlytekitRegistry._REGISTRY.items()):  # noqa: SLF001 - the only way to list them
        if before.get(key) is connector or not is_wanted(connector) or _is_hosted(registry, connector):
            continue
        try:
            registry.register(hosted(connector), override=(key.name, key.version) in overriding)
        except ValueError as error:
            errors.append(error)
    if errors:
        raise ValueError("; ".join(map(str, errors))) from errors[0]


def _is_hosted(registry: Registry, connector: object) -> bool:
    found = (claim.connector for claim in registry.claims())
    return any(isinstance(each, _Hosted) and each.connector is connector for each in found)


def _request(
    task_template: TaskTemplate,
    output_prefix: str,
    inputs: Inputs | Mapping[str, Any] | bytes | None,
    task_execution_metadata: TaskExecutionMetadata | None,
) -> tuple[bytes | CreateTaskRequest, Mapping[str, Any] | None]:
    """Return the request for a task, and the Python values that stand for its inputs, if it is so."""
    if isinstance(inputs, bytes):
        return inputs, None
    values = inputs if isinstance(inputs, Mapping) else None
    request = CreateTaskRequest(
        inputs=None if isinstance(inputs, Mapping) else inputs,
        template=task_template,
        output_prefix=output_prefix,
        task_execution_metadata=task_execution_metadata,
    )
    return request, values
