"""What connectors of flyte-sdk and of flytekit have in common here: how they are named and registered, and where they
run. It imports neither of the two frameworks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from connectrio.connector.base import AsyncConnector, ResourceMeta
from connectrio.connector.context import worker_limit
from connectrio.connector.registry import Registry
from connectrio.flyte._loop_pool import LoopPool
from connectrio.flyte._loop_state import root_package
from connectrio.flyte.affinity import LoopPools
from connectrio.idl.flyteidl2.connector import CreateTaskRequest, TaskExecutionMetadata
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.idl.flyteidl2.task import Inputs

__all__ = ["ForeignConnector", "HostedMeta", "host_new", "task_request"]

# of all frameworks: a package may have connectors for two, which share its objects
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


class ForeignConnector(AsyncConnector[HostedMeta]):
    """A connector that was written for another framework.

    Its methods run on asyncio loops of its package (see `_loop_pool.py`), whatever the host runs on.

    :ivar connector: what is hosted
    """

    metadata_type = HostedMeta
    converts_inputs = True
    queues_calls = True

    def __init__(self, connector: Any, task_type: str, version: int) -> None:
        self.connector = connector
        self.name = connector.name  # type: ignore[misc]  # class variables of the base; here each object has its own
        self.task_type_name = task_type  # type: ignore[misc]  # as above
        self.task_type_version = version  # type: ignore[misc]  # as above
        self._package = root_package(type(connector).__module__)

    @classmethod
    def of(cls, connector: Any) -> Self:
        """Host `connector` with a class of its own, so that logs and errors have the name of the connector's class."""
        own = type(connector)
        hosting: Any = type(own.__name__, (cls,), {"__module__": own.__module__, "__qualname__": own.__qualname__})
        hosted: Self = hosting(connector)
        return hosted

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Keep the loops of the connector's package open; all connectors of the package share them."""
        async with _POOLS.open(self._package, worker_limit.get(), self.connector):
            yield

    @property
    def _pool(self) -> LoopPool:
        return _POOLS.get(self._package)

    async def _run(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        """Await `function`, which calls the connector's method of the same name, on one of the package's loops."""
        method = function.__name__
        # perhaps one that has failed has created the job
        repeatable = method not in ("create", "do")
        coroutine = partial(function, self.connector, *arguments)
        return await self._pool.run(coroutine, name=self._label(method), repeatable=repeatable)

    def _label(self, method: str) -> str:
        return f"{type(self.connector).__qualname__}.{method}"


def task_request(
    task_template: TaskTemplate,
    output_prefix: str,
    inputs: Inputs | Mapping[str, Any] | bytes | None,
    task_execution_metadata: TaskExecutionMetadata | None,
) -> tuple[bytes | CreateTaskRequest, Mapping[str, Any] | None]:
    """Return the request for a task, and the Python values that stand for its inputs, if it is so.

    :param inputs: the request's message; or the encoded request that holds it and the other arguments; or Python values
    """
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


def host_new(
    registry: Registry,
    found: Mapping[Any, object],
    before: Mapping[Any, object],
    overriding: Collection[tuple[str, int]],
    host: Callable[[Any], ForeignConnector],
) -> None:
    """Host in `registry` those of the connectors `found` that were not there `before` and are not hosted yet.

    :param overriding: the task types and versions of those that were registered with `override`
    :raises ValueError: `registry` does not take one, see `Registry.register`. The others are hosted
    """
    connectors = (claim.connector for claim in registry.claims())
    known = {id(each.connector) for each in connectors if isinstance(each, ForeignConnector)}
    errors: list[ValueError] = []
    for key, connector in list(found.items()):
        if before.get(key) is connector or id(connector) in known:
            continue
        known.add(id(connector))
        hosted = host(connector)
        override = (hosted.task_type_name, hosted.task_type_version) in overriding
        try:
            registry.register(hosted, override=override)
        except ValueError as error:
            errors.append(error)
    if errors:
        raise ValueError("; ".join(map(str, errors))) from errors[0]
