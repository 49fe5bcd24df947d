"""Literals and literal types of protobuf's own classes, by the names that requests have."""

from __future__ import annotations

import datetime as dt
import json
import pickle
from pathlib import Path
from typing import Any

import msgspec
from flyteidl2.core.literals_pb2 import (
    Binary,
    Blob,
    BlobMetadata,
    Literal,
    LiteralCollection,
    LiteralMap,
    LiteralOffloadedMetadata,
    Primitive,
    Scalar,
    Schema,
    StructuredDataset,
    StructuredDatasetMetadata,
    Union,
    Void,
)
from flyteidl2.core.types_pb2 import (
    BlobType,
    EnumType,
    Error,
    LiteralType,
    SchemaType,
    SimpleType,
    StructuredDatasetType,
    TypeStructure,
    UnionType,
)
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

NOON = 1_714_566_615


def simple(name: str, tag: str = "") -> LiteralType:
    """A simple type; with a tag, as a variant of a union."""
    structure = TypeStructure(tag=tag) if tag else None
    return LiteralType(simple=SimpleType.Value(name), structure=structure)


def blob_type(dimensionality: int, blob_format: str = "") -> LiteralType:
    return LiteralType(blob=BlobType(dimensionality=dimensionality, format=blob_format))


def union_of(*variants: LiteralType) -> LiteralType:
    return LiteralType(union_type=UnionType(variants=variants))


def list_of(item: LiteralType) -> LiteralType:
    return LiteralType(collection_type=item)


def map_of(value: LiteralType) -> LiteralType:
    return LiteralType(map_value_type=value)


INT, TEXT, DIR = simple("INTEGER"), simple("STRING"), blob_type(BlobType.MULTIPART)
TAGGED = {
    "int": simple("INTEGER", "int"),
    "float": simple("FLOAT", "float"),
    "text": simple("STRING", "str"),
    "bool": simple("BOOLEAN", "bool"),
    "none": simple("NONE", "none"),
}

TYPES: dict[str, LiteralType] = {
    "int": INT,
    "float": simple("FLOAT"),
    "text": TEXT,
    "bool": simple("BOOLEAN"),
    "datetime": simple("DATETIME"),
    "duration": simple("DURATION"),
    "none": simple("NONE"),
    "struct": simple("STRUCT"),
    "binary": simple("BINARY"),
    "enum": LiteralType(enum_type=EnumType(values=["RED", "BLUE"])),
    "list": list_of(INT),
    "map": map_of(INT),
    "file": blob_type(BlobType.SINGLE),
    "pickle": blob_type(BlobType.SINGLE, "PythonPickle"),
    "table": LiteralType(structured_dataset_type=StructuredDatasetType()),
    "int or text": union_of(TAGGED["int"], TAGGED["text"]),
    "int or float": union_of(TAGGED["int"], TAGGED["float"]),
    "perhaps an int": union_of(TAGGED["int"], TAGGED["none"]),
}


def literal(**scalar: Any) -> Literal:
    return Literal(scalar=Scalar(**scalar))


def primitive(**field: Any) -> Literal:
    return literal(primitive=Primitive(**field))


def msgpack(data: Any) -> Literal:
    return binary(msgspec.msgpack.encode(data), "msgpack")


def binary(data: bytes, tag: str = "") -> Literal:
    return literal(binary=Binary(value=data, tag=tag))


def generic(fields: dict[str, Any]) -> Literal:
    struct = Struct()
    struct.update(fields)
    return literal(generic=struct)


def blob(uri: str, dimensionality: int = 0, blob_format: str = "", digest: str = "") -> Literal:
    metadata = BlobMetadata(type=BlobType(dimensionality=dimensionality, format=blob_format))
    return Literal(scalar=Scalar(blob=Blob(uri=uri, metadata=metadata)), hash=digest)


def table(uri: str, table_format: str = "", digest: str = "") -> Literal:
    metadata = StructuredDatasetMetadata(structured_dataset_type=StructuredDatasetType(format=table_format))
    return Literal(scalar=Scalar(structured_dataset=StructuredDataset(uri=uri, metadata=metadata)), hash=digest)


def union(value: Literal, literal_type: LiteralType) -> Literal:
    return literal(union=Union(value=value, type=literal_type))


def collection(*items: Literal) -> Literal:
    return Literal(collection=LiteralCollection(literals=items))


def mapping(**items: Literal) -> Literal:
    return Literal(map=LiteralMap(literals=items))


def timestamp(seconds: int, nanos: int = 0) -> Literal:
    return primitive(datetime=Timestamp(seconds=seconds, nanos=nanos))


def duration(seconds: int, nanos: int = 0) -> Literal:
    return primitive(duration=Duration(seconds=seconds, nanos=nanos))


def offloaded(uri: str) -> Literal:
    return Literal(offloaded_metadata=LiteralOffloadedMetadata(uri=uri, size_bytes=10))


SEVEN, TEXT_VALUE = primitive(integer=7), primitive(string_value="x")

LITERALS: dict[str, Literal] = {
    "integer 7": SEVEN,
    "float 5.0": primitive(float_value=5.0),
    "float 5.9": primitive(float_value=5.9),
    "text": TEXT_VALUE,
    "text RED": primitive(string_value="RED"),
    "true": primitive(boolean=True),
    "timestamp": timestamp(NOON, 123_456_789),
    "duration": duration(1, 500_000_999),
    "none": literal(none_type=Void()),
    "empty": Literal(),
    "list": collection(SEVEN, primitive(integer=-1)),
    "empty list": collection(),
    "list of text": collection(TEXT_VALUE),
    "map": mapping(a=SEVEN, b=primitive(integer=-1)),
    "empty map": mapping(),
    "struct": generic({"a": 1, "b": ["x", None, {"c": True}]}),
    "file": blob("s3://bucket/a.csv", BlobType.SINGLE, "csv", "h"),
    "dir": blob("s3://bucket/d", BlobType.MULTIPART, "", "h"),
    "table": table("s3://bucket/t", "parquet", "h"),
    "schema": literal(schema=Schema(uri="s3://bucket/s")),
    "error": literal(error=Error(message="failed")),
    "union of int": union(SEVEN, TAGGED["int"]),
    "union of text": union(TEXT_VALUE, TAGGED["text"]),
    "union of no type": union(SEVEN, LiteralType()),
    "union of another": union(primitive(boolean=True), TAGGED["bool"]),
    "msgpack 7": msgpack(7),
    "msgpack 5.0": msgpack(5.0),
    "msgpack true": msgpack(True),
    "msgpack text": msgpack("x"),
    "msgpack RED": msgpack("RED"),
    "msgpack null": msgpack(None),
    "msgpack bytes": msgpack(b"raw"),
    "msgpack list": msgpack([7, -1]),
    "msgpack dict": msgpack({"a": 7}),
    "msgpack time": msgpack("2024-05-01T12:30:15.123456+00:00"),
    "msgpack file": msgpack({"path": "s3://bucket/a.csv", "format": "csv"}),
    "msgpack table": msgpack({"uri": "s3://bucket/t", "format": "parquet"}),
    "pickle": binary(pickle.dumps({1, 2})),
}

# types of which both hosts refuse almost every literal, and the literals that are tried with them nevertheless
STRICT = frozenset({"text", "datetime", "duration", "none", "pickle", "perhaps an int", "int or float"})
TELLING = frozenset(
    {
        "integer 7", "float 5.0", "float 5.9", "text", "true", "timestamp", "duration", "none", "empty", "list",
        "struct", "file", "union of int", "union of no type", "msgpack 7", "msgpack 5.0", "msgpack true",
        "msgpack text", "msgpack null", "msgpack time", "pickle",
    }
)  # fmt: skip

FLYTE_TYPES: dict[str, tuple[LiteralType, list[Literal]]] = {
    name: (
        json_format.ParseDict(found["type"], LiteralType()),
        [json_format.ParseDict(value, Literal()) for value in found["values"]],
    )
    for name, found in json.loads((Path(__file__).parent / "flyte_types.json").read_text()).items()
}

EDGES: list[tuple[str, LiteralType, Literal]] = [
    ("int least", INT, primitive(integer=-(2**63))),
    ("int greatest", INT, primitive(integer=2**63 - 1)),
    ("int from a great float", INT, primitive(float_value=1e300)),
    ("int from an infinite float", INT, primitive(float_value=float("inf"))),
    ("int from no number", INT, primitive(float_value=float("nan"))),
    ("int from an empty scalar", INT, literal()),
    ("int from broken msgpack", INT, binary(b"\xc1", "msgpack")),
    ("int from another tag", INT, binary(b"\x07", "cbor")),
    ("binary of broken msgpack", TYPES["binary"], binary(b"\xc1", "msgpack")),
    ("none for a union", TYPES["perhaps an int"], union(literal(none_type=Void()), TAGGED["none"])),
    ("bool from an empty primitive", TYPES["bool"], primitive()),
    ("float no number", TYPES["float"], primitive(float_value=float("nan"))),
    ("int from msgpack beyond", INT, msgpack(2**64 - 1)),
    ("float from a great int", TYPES["float"], primitive(integer=2**63 - 1)),
    ("float infinite", TYPES["float"], primitive(float_value=float("-inf"))),
    ("float negative zero", TYPES["float"], primitive(float_value=-0.0)),
    ("text of many", TEXT, primitive(string_value="é" * 1000)),
    ("text with a nul", TEXT, primitive(string_value="a\0b")),
    ("datetime zero", TYPES["datetime"], timestamp(0)),
    ("datetime negative", TYPES["datetime"], timestamp(-1, 999_999_999)),
    ("datetime first", TYPES["datetime"], timestamp(-62_135_596_800)),
    ("datetime before the first", TYPES["datetime"], timestamp(-62_135_596_801)),
    ("datetime last", TYPES["datetime"], timestamp(253_402_300_799, 999_999_999)),
    ("datetime after the last", TYPES["datetime"], timestamp(253_402_300_800)),
    ("datetime nanos below", TYPES["datetime"], timestamp(0, -1)),
    ("datetime nanos above", TYPES["datetime"], timestamp(0, 1_000_000_000)),
    ("duration zero", TYPES["duration"], duration(0)),
    ("duration negative", TYPES["duration"], duration(-1, -500_000_999)),
    ("duration mixed signs", TYPES["duration"], duration(1, -500_000_000)),
    ("duration longest", TYPES["duration"], duration(315_576_000_000)),
    ("duration too long", TYPES["duration"], duration(315_576_000_001)),
    ("duration nanos above", TYPES["duration"], duration(0, 1_500_000_000)),
    ("enum unknown", TYPES["enum"], primitive(string_value="GREEN")),
    ("enum empty text", TYPES["enum"], primitive(string_value="")),
    ("struct empty", TYPES["struct"], generic({})),
    ("struct of int keys", TYPES["struct"], msgpack({1: "a"})),
    ("struct of bytes", TYPES["struct"], msgpack({"raw": b"\xff"})),
    ("struct of a date", TYPES["struct"], msgpack({"when": dt.datetime(2024, 5, 1, tzinfo=dt.UTC)})),
    ("list in msgpack of text", TYPES["list"], msgpack(["x"])),
    ("list with a wrong item", TYPES["list"], collection(SEVEN, TEXT_VALUE)),
    ("list with an empty item", TYPES["list"], collection(SEVEN, Literal())),
    ("list of floats", TYPES["list"], collection(primitive(float_value=5.0))),
    ("list of lists", list_of(list_of(INT)), collection(collection(SEVEN), collection())),
    ("list of lists in msgpack", list_of(list_of(INT)), msgpack([[7], []])),
    ("list of maps", list_of(map_of(TEXT)), collection(mapping(a=TEXT_VALUE))),
    ("map of lists", map_of(list_of(INT)), mapping(a=collection(SEVEN))),
    ("map with a wrong value", TYPES["map"], mapping(a=TEXT_VALUE)),
    ("map in msgpack of text", TYPES["map"], msgpack({"a": "x"})),
    ("map of files", map_of(TYPES["file"]), mapping(a=blob("s3://bucket/a", 0, "csv", "h"))),
    ("list of tables", list_of(TYPES["table"]), collection(table("s3://bucket/t", "csv", "h"))),
    ("file without a uri", TYPES["file"], blob("")),
    ("file without metadata", TYPES["file"], literal(blob=Blob(uri="s3://bucket/a"))),
    ("file of another format", blob_type(BlobType.SINGLE, "csv"), blob("s3://bucket/a", 0, "parquet")),
    ("file by a path", TYPES["file"], blob("/data/a.csv")),
    ("file by a query", TYPES["file"], blob("https://example.com/a.csv?b=c/d")),
    ("dir", DIR, LITERALS["dir"]),
    ("dir of a file", DIR, LITERALS["file"]),
    ("dir in msgpack", DIR, LITERALS["msgpack file"]),
    ("error type", simple("ERROR"), LITERALS["error"]),
    ("schema", LiteralType(schema=SchemaType()), LITERALS["schema"]),
    ("unset type", LiteralType(), SEVEN),
    ("dir with a slash", DIR, blob("s3://bucket/d/", 1)),
    ("blob of an unknown kind", blob_type(7), blob("s3://bucket/a", 7)),
    ("table without metadata", TYPES["table"], literal(structured_dataset=StructuredDataset(uri="s3://bucket/t"))),
    ("union of unions", union_of(TAGGED["none"], TYPES["int or text"]), SEVEN),
    ("union of lists", union_of(list_of(INT), list_of(TEXT)), collection(TEXT_VALUE)),
    ("union of lists empty", union_of(list_of(INT), list_of(TEXT)), collection()),
    ("union of bool and int", union_of(TAGGED["bool"], TAGGED["int"]), primitive(boolean=True)),
    ("union of text and enum", union_of(TAGGED["text"], TYPES["enum"]), primitive(string_value="RED")),
    ("union of text and file", union_of(TAGGED["text"], TYPES["file"]), blob("s3://bucket/a")),
    ("union without variants", union_of(), SEVEN),
    ("union of one", union_of(TAGGED["int"]), SEVEN),
    ("union of untagged variants", union_of(INT, TEXT), union(SEVEN, INT)),
    ("simple type unknown", LiteralType(simple=99), SEVEN),
    ("struct with metadata of its own", LiteralType(simple=9, metadata={"owner": "me"}), msgpack({"a": 1})),
    ("struct with a title alone", LiteralType(simple=9, metadata={"title": "T"}), msgpack({"a": 1})),
]
