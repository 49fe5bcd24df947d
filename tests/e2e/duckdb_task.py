"""A DuckDB task as the executor sends it: SQL, an interface, and inputs of many kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flyteidl2.core.interface_pb2 import TypedInterface, Variable, VariableEntry, VariableMap
from flyteidl2.core.literals_pb2 import (
    Blob,
    BlobMetadata,
    Literal,
    LiteralCollection,
    LiteralMap,
    Primitive,
    Scalar,
    StructuredDataset,
    StructuredDatasetMetadata,
    Union,
)
from flyteidl2.core.tasks_pb2 import Sql, TaskTemplate
from flyteidl2.core.types_pb2 import (
    BlobType,
    EnumType,
    LiteralType,
    SimpleType,
    StructuredDatasetType,
    TypeStructure,
    UnionType,
)
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

RESULT = LiteralType(structured_dataset_type=StructuredDatasetType(format="parquet"))


@dataclass(frozen=True)
class Input:
    """A value of a task, and its declared type."""

    type: LiteralType
    literal: Literal


def primitive(kind: int, **value: Any) -> Input:
    return Input(LiteralType(simple=kind), Literal(scalar=Scalar(primitive=Primitive(**value))))


def integer(value: int) -> Input:
    return primitive(SimpleType.INTEGER, integer=value)


def real(value: float) -> Input:
    return primitive(SimpleType.FLOAT, float_value=value)


def string(value: str) -> Input:
    return primitive(SimpleType.STRING, string_value=value)


def boolean(value: bool) -> Input:
    return primitive(SimpleType.BOOLEAN, boolean=value)


def moment(value: datetime) -> Input:
    timestamp = Timestamp()
    timestamp.FromDatetime(value)
    return primitive(SimpleType.DATETIME, datetime=timestamp)


def duration(value: timedelta) -> Input:
    message = Duration()
    message.FromTimedelta(value)
    return primitive(SimpleType.DURATION, duration=message)


def nothing() -> Input:
    return Input(LiteralType(simple=SimpleType.NONE), Literal(scalar=Scalar(none_type={})))


def items(*values: Input) -> Input:
    literals = LiteralCollection(literals=[value.literal for value in values])
    return Input(LiteralType(collection_type=values[0].type), Literal(collection=literals))


def mapping(**values: Input) -> Input:
    literals = LiteralMap(literals={name: value.literal for name, value in values.items()})
    return Input(LiteralType(map_value_type=next(iter(values.values())).type), Literal(map=literals))


def enum(value: str, *values: str) -> Input:
    return Input(LiteralType(enum_type=EnumType(values=values)), string(value).literal)


def union(value: Input, tag: str, *others: LiteralType) -> Input:
    """A value that might have been of other types as well.

    :param tag: by which the executor says which of the types it is
    """
    tagged = LiteralType()
    tagged.CopyFrom(value.type)
    tagged.structure.CopyFrom(TypeStructure(tag=tag))
    literal = Literal(scalar=Scalar(union=Union(value=value.literal, type=tagged)))
    return Input(LiteralType(union_type=UnionType(variants=[tagged, *others])), literal)


def structure(value: Mapping[str, Any]) -> Input:
    message = Struct()
    message.update(value)
    return Input(LiteralType(simple=SimpleType.STRUCT), Literal(scalar=Scalar(generic=message)))


def file(path: Path) -> Input:
    blob = BlobType(format="csv", dimensionality=BlobType.SINGLE)
    literal = Literal(scalar=Scalar(blob=Blob(uri=path.as_uri(), metadata=BlobMetadata(type=blob))))
    return Input(LiteralType(blob=blob), literal)


def frame(path: Path) -> Input:
    metadata = StructuredDatasetMetadata(structured_dataset_type=RESULT.structured_dataset_type)
    literal = Literal(scalar=Scalar(structured_dataset=StructuredDataset(uri=path.as_uri(), metadata=metadata)))
    return Input(RESULT, literal)


def query(statement: str, output_prefix: str | Path, inputs: Mapping[str, Input] | None = None) -> dict[str, Any]:
    """Return the fields of a CreateTask request for a task with the output `result`."""
    inputs = inputs or {}
    variables = [VariableEntry(key=name, value=Variable(type=given.type)) for name, given in inputs.items()]
    outputs = [VariableEntry(key="result", value=Variable(type=RESULT))]
    template = TaskTemplate(
        type="duckdb",
        interface=TypedInterface(inputs=VariableMap(variables=variables), outputs=VariableMap(variables=outputs)),
        sql=Sql(statement=statement, dialect=Sql.Dialect.ANSI),
    )
    literals = [NamedLiteral(name=name, value=given.literal) for name, given in inputs.items()]
    return {"template": template, "inputs": Inputs(literals=literals), "meta": str(output_prefix).encode()}


NOON = datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC)
