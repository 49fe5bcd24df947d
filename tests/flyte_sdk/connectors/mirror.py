"""A connector that returns its exact arguments, for flyte-sdk's host and ours.

And one that blocks, for measurements.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import json
import time
from dataclasses import dataclass
from typing import Any

from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
from flyte.io import DataFrame, Dir, File
from flyteidl2.connector.connector_pb2 import (
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskMetricsResponse,
)
from flyteidl2.core.execution_pb2 import TaskExecution, TaskLog
from google.protobuf.message import Message
from pydantic import BaseModel


@dataclass
class Mirrored(ResourceMeta):
    """The arguments of `create`, or the answer for `get`."""

    said: str = ""


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    label: str


class Model(BaseModel):
    ratio: float
    names: list[str]


def describe(value: Any) -> Any:
    """Return `value` and its class as JSON, and the same for everything in it."""
    name = type(value).__qualname__
    match value:
        case Message():
            return [type(value).DESCRIPTOR.full_name, value.SerializeToString(deterministic=True).hex()]
        case enum.Enum():
            members = [[member.name, member.value] for member in type(value)]
            return ["enum", name, members, value.name, isinstance(value, str)]
        case dict():
            return [name, [[describe(key), describe(item)] for key, item in sorted(value.items(), key=repr)]]
        case list() | tuple():
            return [name, [describe(item) for item in value]]
        case BaseModel():
            return ["model", name, [[key, describe(getattr(value, key))] for key in type(value).model_fields]]
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return ["dataclass", name, [[key, describe(getattr(value, key))] for key in fields]]
    return [name, repr(value)]


OUTPUTS: dict[str, dict[str, Any]] = {
    "none": {},
    "numbers": {"int": 7, "negative": -1, "float": 1.5, "nan": float("nan"), "bool": True},
    "texts": {"str": "grüße", "empty": ""},
    "nothing": {"x": None},
    "times": {
        "aware": dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC),
        "naive": dt.datetime(2026, 1, 2),  # noqa: DTZ001 - the test asks how it is converted
        "duration": dt.timedelta(days=1, microseconds=1),
    },
    "enum": {"color": Color.RED},
    "structs": {
        "dict": {"a": 1, "b": [1.5, None]},
        "dataclass": Point(1, "one"),
        "model": Model(ratio=0.5, names=["a"]),
    },
    "file": {"file": File(path="s3://b/f", name="f", hash="h")},
    "dir": {"dir": Dir(path="s3://b/d", name="d")},
    "frame": {"frame": DataFrame(uri="bq://p:d.t", format="parquet")},
    "too big": {"int": 2**63},
}
"""The outputs that `get` can return, by name. No pickles: their bytes may differ for the same value."""

RESOURCES: dict[str, Any] = {
    "running": lambda: Resource(phase=TaskExecution.RUNNING, message="at it"),
    "bare": lambda: Resource(phase=TaskExecution.QUEUED),
    "failed": lambda: Resource(phase=TaskExecution.FAILED, message="no", log_links=[TaskLog(uri="u", name="n")]),
    "custom": lambda: Resource(phase=TaskExecution.RUNNING, custom_info={"a": [1, None, {"b": 1.5}], "c": "d"}),
    **{
        f"outputs: {name}": lambda name=name: Resource(phase=TaskExecution.SUCCEEDED, outputs=OUTPUTS[name])
        for name in OUTPUTS
    },
}


def fail(error: BaseException) -> Resource:
    raise error


DIFFERENT: dict[str, Any] = {
    "undefined": lambda: Resource(phase=TaskExecution.UNDEFINED),
    "half a pair": lambda: Resource(phase=TaskExecution.RUNNING, message="a\udcff"),
    "nan": lambda: Resource(phase=TaskExecution.RUNNING, custom_info={"a": float("nan")}),
    "not a text": lambda: Resource(phase=TaskExecution.RUNNING, message=7),
    "time-out": lambda: fail(TimeoutError("the vendor is slow")),
    "long": lambda: fail(ValueError("x" * 20_000)),
    "not implemented": lambda: fail(NotImplementedError("later")),
    "cancelled": lambda: fail(asyncio.CancelledError()),
}
"""What `get` can do that our host and flyte-sdk's answer differently."""


class Mirror(AsyncConnector):
    name = "Mirror"
    task_type_name = "mirror"
    metadata_type = Mirrored

    async def create(self, **kwargs):
        return Mirrored(json.dumps([[key, describe(value)] for key, value in kwargs.items()]))

    async def get(self, **kwargs):
        make = {**RESOURCES, **DIFFERENT}.get(kwargs["resource_meta"].said)
        if make is not None:
            return make()
        told = json.dumps([[key, describe(value)] for key, value in kwargs.items()])
        return Resource(phase=TaskExecution.RUNNING, message=told)

    async def delete(self, **kwargs):
        raise ValueError(json.dumps([[key, describe(value)] for key, value in kwargs.items()]))

    async def get_metrics(self, **kwargs):
        assert list(kwargs) == ["resource_meta"]
        return GetTaskMetricsResponse()

    async def get_logs(self, **kwargs):
        for key, value in kwargs.items():
            yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=[key, json.dumps(describe(value))]))


class Blocking(Mirror):
    name = "Blocking"
    task_type_name = "blocking"

    async def get(self, resource_meta, **kwargs):
        time.sleep(float(resource_meta.said))
        return Resource(phase=TaskExecution.RUNNING)


class Bare(AsyncConnector):
    name = "Bare"
    task_type_name = "bare"
    metadata_type = Mirrored

    async def create(self, **kwargs):
        return Mirrored()

    async def get(self, **kwargs):
        return Resource(phase=TaskExecution.RUNNING)

    async def delete(self, **kwargs):
        pass

    async def get_metrics(self, **kwargs):
        raise ValueError("no metrics today")


ConnectorRegistry.register(Mirror())
ConnectorRegistry.register(Bare())
ConnectorRegistry.register(Blocking())
