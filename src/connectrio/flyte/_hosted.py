"""Connectors for flyte-sdk as connectors of connectrio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from flyte.connectors import AsyncConnector as FlyteConnector
from flyte.connectors import ConnectorRegistry as FlyteRegistry

from connectrio.connector.base import AsyncConnector, Resource, ResourceMeta
from connectrio.connector.context import worker_limit
from connectrio.connector.registry import Registry
from connectrio.flyte import _conversion as conversion
from connectrio.flyte._loop_pool import Emit
from connectrio.flyte._loop_state import root_package
from connectrio.flyte.affinity import LoopPools
from connectrio.idl.flyteidl2.connector import (
    CreateTaskRequest,
    GetTaskLogsResponse,
    GetTaskMetricsResponse,
    TaskExecutionMetadata,
)
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.idl.flyteidl2.task import Inputs

__all__ = ["HostedConnector", "HostedMeta", "adopt"]

_POOLS = LoopPools()


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


class HostedConnector(AsyncConnector[HostedMeta]):
    """Hosts an unmodified connector for flyte-sdk.

    Its methods get the same arguments as from flyte-sdk's own service: `flyteidl2`'s messages, and inputs converted by
    flyte-sdk's type engine. They run on asyncio loops of the connector's package (see `_loop_pool.py`), whatever
    the host runs on.

    :param connector: the connector to host
    """

    metadata_type = HostedMeta
    converts_inputs = True
    queues_calls = True

    def __init__(self, connector: FlyteConnector[Any]) -> None:
        self.connector = connector
        self.name = connector.name  # type: ignore[misc]  # class variables of the base; here each object has its own
        self.task_type_name = connector.task_type_name  # type: ignore[misc]  # as above
        self.task_type_version = connector.task_type_version  # type: ignore[misc]  # as above
        self._package = root_package(type(connector).__module__)

    @classmethod
    def of(cls, connector: FlyteConnector[Any]) -> HostedConnector:
        """Host `connector` with a class of its own, so that logs and errors have the name of the connector's class."""
        own = type(connector)
        hosting: type[HostedConnector] = type(
            own.__name__, (cls,), {"__module__": own.__module__, "__qualname__": own.__qualname__}
        )
        return hosting(connector)

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
        request: bytes | CreateTaskRequest
        values = None
        if isinstance(inputs, bytes):
            request = inputs
        else:
            if isinstance(inputs, Mapping):
                inputs, values = None, inputs
            request = CreateTaskRequest(
                inputs=inputs,
                template=task_template,
                output_prefix=output_prefix,
                task_execution_metadata=task_execution_metadata,
            )
        return HostedMeta(await self._run("create", conversion.create, request, values, kwargs))

    async def get(self, resource_meta: HostedMeta, **kwargs: Any) -> Resource:
        """Return the state of the job; its outputs are converted by flyte-sdk's type engine."""
        state: Resource = await self._run("get", conversion.get, resource_meta.data, kwargs)
        return state

    async def delete(self, resource_meta: HostedMeta, **kwargs: Any) -> None:
        """Cancel the job."""
        await self._run("delete", conversion.delete, resource_meta.data, kwargs)

    async def get_metrics(self, resource_meta: HostedMeta, **kwargs: Any) -> GetTaskMetricsResponse:  # noqa: ARG002
        """Return the job's metrics. Like flyte-sdk's service, pass only the resource meta."""
        response: GetTaskMetricsResponse = await self._run("get_metrics", conversion.get_metrics, resource_meta.data)
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

        call = _POOLS.get(self._package).start(emit_all, name=self._label("get_logs"))
        try:
            async with aclosing(call.items()) as items:
                async for response in items:
                    yield response
        finally:
            await call.cancel()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Keep the loops of the connector's package open; all connectors of the package share them."""
        async with _POOLS.open(self._package, worker_limit.get(), self.connector):
            yield

    async def _run(self, method: str, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        coroutine = partial(function, self.connector, *arguments)
        # perhaps a `create` that has failed has created the job
        repeatable = method != "create"
        return await _POOLS.get(self._package).run(coroutine, name=self._label(method), repeatable=repeatable)

    def _label(self, method: str) -> str:
        return f"{type(self.connector).__qualname__}.{method}"


def adopt(registry: Registry, before: Mapping[Any, object], overriding: Collection[tuple[str, int]] = ()) -> None:
    """Host in `registry` the connectors that were registered with flyte-sdk since `before`.

    :param before: the content of flyte-sdk's registry at that time
    :param overriding: the task types and versions of those that were registered with `override`
    :raises ValueError: `registry` does not take one, see `Registry.register`. The others are hosted
    """
    errors: list[ValueError] = []
    for key, connector in list(FlyteRegistry._REGISTRY.items()):  # noqa: SLF001 - the only way to list them
        if before.get(key) is not connector and not _is_hosted(registry, connector):
            override = (connector.task_type_name, connector.task_type_version) in overriding
            try:
                registry.register(HostedConnector.of(connector), override=override)
            except ValueError as error:
                errors.append(error)
    if errors:
        raise ValueError("; ".join(map(str, errors))) from errors[0]


def _is_hosted(registry: Registry, connector: object) -> bool:
    hosted = (claim.connector for claim in registry.claims())
    return any(isinstance(each, HostedConnector) and each.connector is connector for each in hosted)
