"""A connector that says exactly what it got, and returns what it is asked for; for flyte-sdk's host and for ours.

CONNECTOR_API is the package whose classes it uses: "connectrio" unless it is set.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import json
import os
import typing
from collections import OrderedDict
from dataclasses import dataclass

API = os.environ.get("CONNECTOR_API", "connectrio")
if API == "connectrio":
    from connectrio import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta, TaskLog
    from connectrio.idl.flyteidl2.connector import (
        GetTaskLogsResponse,
        GetTaskLogsResponseBody,
        GetTaskLogsResponseHeader,
        GetTaskMetricsResponse,
    )
    from connectrio.idl.flyteidl2.core import ExecutionMetricResult
    from connectrio.idl.google.protobuf import Struct, Value
    from connectrio.literals import DataFrame, Dir, File, Record

    STRUCT = Struct(fields={"a": Value(number_value=1.5)})

    def stored_table(uri: str, table_format: str = "") -> DataFrame:
        return DataFrame(uri=uri, format=table_format)
else:
    from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
    from flyte.io import DataFrame, Dir, File
    from flyteidl2.connector.connector_pb2 import (
        GetTaskLogsResponse,
        GetTaskLogsResponseBody,
        GetTaskLogsResponseHeader,
        GetTaskMetricsResponse,
    )
    from flyteidl2.core.execution_pb2 import TaskLog
    from flyteidl2.core.metrics_pb2 import ExecutionMetricResult
    from google.protobuf.struct_pb2 import Struct

    Record = ()
    STRUCT = Struct()
    STRUCT.update({"a": 1.5})

    def stored_table(uri: str, table_format: str = "") -> DataFrame:
        return DataFrame.from_existing_remote(uri, format=table_format)


def shown(value: object) -> str:
    """A value and its type as a text, the same for the same value on both sides.

    Objects of classes that either side makes up are shown by their titles and fields alone.
    """
    if isinstance(value, File | Dir):
        return f"{type(value).__name__}({value.path!r}, {value.name!r}, {value.format!r}, {value.hash!r})"
    if isinstance(value, DataFrame):
        return f"DataFrame({value.uri!r}, {value.format!r}, {value.hash!r})"
    if isinstance(value, enum.Enum):
        return f"member {value.name}"
    if isinstance(value, dt.datetime | dt.timedelta):
        return repr(value).replace("datetime.timezone.utc", "UTC").replace("datetime.", "")
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, set):
        return f"{{{', '.join(sorted(map(shown, value)))}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {shown(value[key])}' for key in sorted(value, key=repr))}}}"
    fields = fields_of(value)
    if fields is None:
        return f"({', '.join(map(shown, value))})" if isinstance(value, tuple) else repr(value)
    title = value._title if Record and isinstance(value, Record) else type(value).__name__
    for prefix in ("TupleWrapper_", "NamedTupleWrapper_", "TypedDictWrapper_"):
        title = title.removeprefix(prefix)
    return f"{title}({', '.join(f'{name}={shown(fields[name])}' for name in sorted(fields))})"


def fields_of(value: object) -> dict[str, object] | None:
    if Record and isinstance(value, Record):
        return dict(vars(value))
    if hasattr(value, "model_dump"):
        return dict(value)
    if hasattr(value, "_asdict"):
        return value._asdict()
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2


@dataclass
class Point:
    x: int
    label: str = "here"


@dataclass
class Line:
    start: Point
    ends: list[Point]
    when: dt.datetime
    took: dt.timedelta
    colour: Colour
    raw: bytes


class Named(typing.NamedTuple):
    x: int
    label: str


class Unknown:
    """Of no type that Flyte has."""


NOON = dt.datetime(2024, 5, 1, 12, 30, 15, 123456)  # noqa: DTZ001 - naive times are asked about
LINE = Line(Point(1), [Point(2)], NOON, dt.timedelta(seconds=1.5), Colour.RED, b"raw")

# what `get` can be asked to return as the output `x`, by name
OUTPUTS = {
    "int": 7,
    "int negative": -(2**63),
    "int of 64 bits": 2**63,
    "int of 100 bits": 2**100,
    "bool": True,
    "float": 1.5,
    "float nan": float("nan"),
    "float infinite": float("inf"),
    "text": "é",
    "text empty": "",
    "text surrogate": "\ud800",
    "none": None,
    "datetime naive": NOON,
    "datetime utc": NOON.replace(tzinfo=dt.UTC),
    "datetime elsewhere": NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))),
    "datetime first": dt.datetime(1, 1, 1, tzinfo=dt.UTC),
    "datetime last": dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC),
    "date": NOON.date(),
    "time": dt.time(10, 30),
    "timedelta": dt.timedelta(days=1, microseconds=1),
    "timedelta negative": dt.timedelta(seconds=-1.5),
    "timedelta longest": dt.timedelta.max,
    "enum": Colour.RED,
    "enum of int": Level.HIGH,
    "dict": {"a": 1, "b": [1.5, None, {"c": True}]},
    "dict empty": {},
    "dict of int": {1: "one"},
    "dict with bytes": {"raw": b"raw"},
    "dict with a datetime": {"when": NOON},
    "dict with an object": {"point": Point(1)},
    "dict ordered": OrderedDict(a=1),
    "dataclass": Point(1),
    "dataclass nested": LINE,
    "named tuple": Named(1, "a"),
    "file": File(path="s3://bucket/a.csv", name="b.csv", format="csv", hash="h"),
    "file plain": File(path="s3://bucket/a"),
    "dir": Dir(path="s3://bucket/d", format="parquet", hash="h"),
    "table": stored_table("s3://bucket/t", "parquet"),
    "table plain": stored_table("s3://bucket/t"),
    "struct": STRUCT,
    "list": [1, 2],
    "list empty": [],
    "list of objects": [Point(1)],
    "list mixed": [1, "a", None],
    "tuple": (1, "a"),
    "set": {1, 2},
    "bytes": b"raw",
    "unknown": Unknown(),
    "function": len,
    "class": Unknown,
}

ERRORS = {
    "ValueError": lambda: ValueError("boom"),
    "no text": ValueError,
    "KeyError": lambda: KeyError("key"),
    "long": lambda: ValueError("x" * 20_000),
    "unicode": lambda: ValueError("é 100 %\nsecond line"),
    "NotImplementedError": NotImplementedError,
    "NotImplementedError text": lambda: NotImplementedError("not here"),
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    "CancelledError": lambda: asyncio.CancelledError("of my own"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": lambda: KeyboardInterrupt("boom"),
    "RecursionError": lambda: RecursionError("too deep"),
    "StopIteration": lambda: StopIteration("over"),
    "TimeoutError": TimeoutError,
}

LINK = {"uri": "https://example.com/job", "name": "console"}

# what `get` can be asked to return, by name
RESOURCES = {
    **{f"phase {phase}": {"phase": phase} for phase in range(10)},
    "message": {"phase": 3, "message": "é\n"},
    "message none": {"phase": 3, "message": None},
    "link": {"phase": 3, "log_links": [TaskLog(**LINK)]},
    "links none": {"phase": 3, "log_links": None},
    "info": {"phase": 3, "custom_info": {"a": 1, "b": [True, None, {"c": 1.5}], "d": "é"}},
    "info empty": {"phase": 3, "custom_info": {}},
    "info nan": {"phase": 3, "custom_info": {"a": float("nan")}},
    "info infinite": {"phase": 3, "custom_info": {"a": float("inf")}},
    "info big": {"phase": 3, "custom_info": {"a": 2**60 + 1}},
    "info tuple": {"phase": 3, "custom_info": {"a": (1, 2)}},
    "info date": {"phase": 3, "custom_info": {"a": NOON}},
    "info key": {"phase": 3, "custom_info": {1: "a"}},
    "outputs none": {"phase": 3, "outputs": None},
    "outputs empty": {"phase": 3, "outputs": {}},
    "outputs two": {"phase": 3, "outputs": {"a": 1, "b": "x"}},
    "outputs while running": {"phase": 2, "outputs": {"a": 1}},
    "outputs key": {"phase": 3, "outputs": {1: 1}},
}


@dataclass
class Order(ResourceMeta):
    """What to do: `show` the arguments, `raise` an error, return an `output`, a `resource`, or `junk`."""

    does: str = "show"
    argument: str = ""

    def obey(self, **arguments: object) -> str:
        if self.does == "raise":
            error = ERRORS[self.argument]()
            raise error
        return shown(arguments)


class Mirror(AsyncConnector):
    """Has everything."""

    name = "Mirror"
    task_type_name = "mirror"
    metadata_type = Order

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        order = Order(**json.loads(output_prefix or "{}"))
        shows = {"names": lambda: list(inputs), "kwargs": lambda: kwargs, "task": lambda: self.task(task_template)}
        text = order.obey(inputs=shows.get(order.argument, lambda: inputs)())
        return {"junk": lambda: "junk", "unencodable": lambda: Order(argument={1})}.get(
            order.does, lambda: Order("made", text)
        )()

    def task(self, template):
        names = [entry.key for entry in template.interface.inputs.variables] if template.interface else []
        return [template.type, template.task_type_version, names]

    async def get(self, resource_meta, **kwargs):
        text = resource_meta.obey(**kwargs)
        match resource_meta.does:
            case "junk":
                return "junk"
            case "nothing":
                return None
            case "output":
                return Resource(phase=3, outputs={"x": OUTPUTS[resource_meta.argument]})
            case "resource":
                return Resource(**RESOURCES[resource_meta.argument])
        return Resource(phase=3, message=text)

    async def delete(self, resource_meta, **kwargs):
        resource_meta.obey(**kwargs)
        return "junk" if resource_meta.does == "junk" else None

    async def get_metrics(self, resource_meta, **kwargs):
        text = resource_meta.obey(**kwargs)
        return (
            "junk"
            if resource_meta.does == "junk"
            else GetTaskMetricsResponse(results=[ExecutionMetricResult(metric=text)])
        )

    async def get_logs(self, resource_meta, token="", **kwargs):
        if resource_meta.does == "junk":
            yield "junk"
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=["first", token]))
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=[resource_meta.obey(**kwargs)]))
        yield GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token="next"))


class Single(Mirror):
    """Its logs come from a coroutine, and its versions are two."""

    name = "Single"
    task_type_name = "single"

    async def get_logs(self, resource_meta, token="", **kwargs):
        return GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=[resource_meta.obey(**kwargs), token]))


class SecondSingle(Single):
    task_type_version = 2


class Strict(Mirror):
    """Takes no further arguments."""

    name = "Strict"
    task_type_name = "strict"

    async def get(self, resource_meta):
        return Resource(phase=3, message=resource_meta.obey())


class Bare(AsyncConnector):
    """Only what a connector must have."""

    name = "Bare"
    task_type_name = "bare"
    metadata_type = Order

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Order()

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=2)

    async def delete(self, resource_meta, **kwargs):
        return None


if __name__ != "differential.programs.mirror":  # as which the tests import it, for the names that are asked for
    for connector in (Mirror, Single, SecondSingle, Strict, Bare):
        ConnectorRegistry.register(connector())
