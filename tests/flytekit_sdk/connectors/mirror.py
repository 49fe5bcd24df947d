"""Connectors that return their exact arguments and do what requests ask for, for flytekit's host and ours."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from typing import Any

from flyteidl.admin.agent_pb2 import GetTaskLogsResponse, GetTaskLogsResponseBody, GetTaskMetricsResponse
from flyteidl.core.execution_pb2 import TaskLog
from flyteidl.core.literals_pb2 import LiteralMap as LiteralMapMessage
from flytekit import FlyteContextManager, logger
from flytekit.exceptions.system import FlyteConnectorNotFound
from flytekit.exceptions.user import FlyteUserException
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
    SyncConnectorBase,
)
from flytekit.extend.backend.utils import get_connector_secret
from flytekit.models.literals import LiteralMap

# seconds; only ends a test that fails
PATIENCE = 60.0

EXCEPTIONS = {
    "ValueError": ValueError,
    "KeyError": KeyError,
    "NotImplementedError": NotImplementedError,
    "TimeoutError": TimeoutError,
    "FlyteUserException": FlyteUserException,
    "FlyteConnectorNotFound": FlyteConnectorNotFound,
    "CancelledError": asyncio.CancelledError,
    "SystemExit": SystemExit,
}


@dataclass
class Said(ResourceMeta):
    """What `create` was given, or what `get`, `delete` and the others are to do."""

    said: str = ""


def describe(value: Any) -> Any:
    """Return `value` and its class as JSON."""
    if hasattr(value, "to_flyte_idl"):
        message = value.to_flyte_idl()
        return [type(value).__qualname__, message.SerializeToString(deterministic=True).hex()]
    return [type(value).__qualname__, repr(value)]


def told(arguments: dict[str, Any]) -> str:
    return json.dumps([[key, describe(value)] for key, value in arguments.items()])


def obey(order: str) -> Resource:
    """Return the resource that `order` describes, or raise its exception."""
    asked = json.loads(order)
    if "raises" in asked:
        raise EXCEPTIONS[asked["raises"]](asked["text"])
    outputs = asked.get("outputs")
    if "literals" in asked:
        outputs = LiteralMap.from_flyte_idl(LiteralMapMessage.FromString(bytes.fromhex(asked["literals"])))
    return Resource(
        phase=asked["phase"],
        message=asked.get("message"),
        log_links=[TaskLog(name=name, uri=uri) for name, uri in asked.get("links", [])],
        outputs=outputs,
        custom_info=asked.get("custom"),
    )


class Mirror(AsyncConnectorBase):
    """Its methods are coroutines."""

    name = "Mirror"

    def __init__(self, task_type_name: str = "mirror", **kwargs: Any) -> None:
        super().__init__(metadata_type=Said, task_type_name=task_type_name, **kwargs)

    async def create(self, **kwargs):
        if kwargs["output_prefix"].startswith("{"):
            obey(kwargs["output_prefix"])
        return Said(told(kwargs))

    async def get(self, **kwargs):
        assert list(kwargs) == ["resource_meta"]
        return obey(kwargs["resource_meta"].said)

    async def delete(self, **kwargs):
        obey(kwargs["resource_meta"].said)

    async def get_metrics(self, **kwargs):
        assert list(kwargs) == ["resource_meta"]
        obey(kwargs["resource_meta"].said)
        return GetTaskMetricsResponse()

    async def get_logs(self, **kwargs):
        assert list(kwargs) == ["resource_meta"]
        obey(kwargs["resource_meta"].said)
        return GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=["a line"]))


class Plain(Mirror):
    """Its methods are plain functions."""

    name = "Plain Mirror"

    def create(self, **kwargs):
        return Said(told(kwargs))

    def get(self, resource_meta, **kwargs):
        return obey(resource_meta.said)

    def delete(self, resource_meta, **kwargs):
        obey(resource_meta.said)


class Immediate(SyncConnectorBase):
    """Its task ends at once, as its output_prefix says; its inputs become its message."""

    name = "Immediate"

    def __init__(self) -> None:
        super().__init__(task_type_name="immediate", task_type_version=2)

    async def do(self, **kwargs):
        prefix = kwargs["output_prefix"]
        resource = obey(prefix if prefix.startswith("{") else '{"phase": 3}')
        resource.message = resource.message or told(kwargs)
        return resource


class PlainImmediate(SyncConnectorBase):
    """The same with a plain function, which reads a secret."""

    name = "Plain Immediate"

    def __init__(self) -> None:
        super().__init__(task_type_name="plain_immediate")

    def do(self, task_template, output_prefix, inputs=None, **kwargs):
        return Resource(phase=3, outputs={"secret": get_connector_secret("mirror_key"), "items": {"a": [1, 2]}})


class Bare(AsyncConnectorBase):
    """Without logs and metrics."""

    name = "Bare"

    def __init__(self) -> None:
        super().__init__(metadata_type=Said, task_type_name="bare")

    async def create(self, task_template, output_prefix, inputs, task_execution_metadata):
        return Said(task_template.type)

    async def get(self, resource_meta):
        return Resource(phase=3)

    async def delete(self, resource_meta):
        logger.warning("deleted with a line that is longer than a terminal is wide: " + 80 * "x")


class Nested(Bare):
    """Two of its polls at once enter a context of flytekit each, and must be in their own one."""

    name = "Nested"
    barrier = threading.Barrier(2)

    def __init__(self) -> None:
        AsyncConnectorBase.__init__(self, metadata_type=Said, task_type_name="nested")

    def get(self, resource_meta, **kwargs):
        context = FlyteContextManager.current_context()
        with FlyteContextManager.with_context(context.new_builder()) as mine:
            self.barrier.wait(PATIENCE)
            is_mine = FlyteContextManager.current_context() is mine
            self.barrier.wait(PATIENCE)
        return Resource(phase=3, message=str(is_mine))


ConnectorRegistry.register(Nested())
ConnectorRegistry.register(Mirror())
ConnectorRegistry.register(Plain("plain_mirror"))
ConnectorRegistry.register(Plain("plain_mirror", task_type_version=1))
ConnectorRegistry.register(Immediate())
ConnectorRegistry.register(PlainImmediate())
ConnectorRegistry.register(Bare())
