"""Short names for literals and literal types. Each message is encoded and decoded once, as on its way to a host."""

from __future__ import annotations

import msgspec

from connectrio.idl.flyteidl2 import core
from connectrio.idl.flyteidl2.core import (
    Blob,
    BlobMetadata,
    BlobType,
    BlobTypeBlobDimensionality,
    EnumType,
    Literal,
    LiteralCollection,
    LiteralMap,
    LiteralType,
    Primitive,
    Scalar,
    SimpleType,
    StructuredDataset,
    StructuredDatasetMetadata,
    StructuredDatasetType,
    TypeStructure,
    UnionType,
    Variable,
    VariableEntry,
    VariableMap,
    Void,
)
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.idl.google.protobuf import Duration, Struct, Timestamp

INTEGER = LiteralType(simple=SimpleType.INTEGER)
FLOAT = LiteralType(simple=SimpleType.FLOAT)
STRING = LiteralType(simple=SimpleType.STRING)
BOOLEAN = LiteralType(simple=SimpleType.BOOLEAN)
DATETIME = LiteralType(simple=SimpleType.DATETIME)
DURATION = LiteralType(simple=SimpleType.DURATION)
NONE = LiteralType(simple=SimpleType.NONE)
STRUCT = LiteralType(simple=SimpleType.STRUCT)
BINARY = LiteralType(simple=SimpleType.BINARY)
ERROR = LiteralType(simple=SimpleType.ERROR)
FILE = LiteralType(blob=BlobType())
DIR = LiteralType(blob=BlobType(dimensionality=BlobTypeBlobDimensionality.MULTIPART))
PICKLE = LiteralType(blob=BlobType(format="PythonPickle"))
DATAFRAME = LiteralType(structured_dataset_type=StructuredDatasetType())
COLOURS = LiteralType(enum_type=EnumType(values=["RED", "BLUE"]))

EMPTY = Literal()
NOTHING = Literal(scalar=Scalar(none_type=Void()))


def list_of(item):
    return LiteralType(collection_type=item)


def dict_of(value):
    return LiteralType(map_value_type=value)


def union_of(*variants):
    return LiteralType(union_type=UnionType(variants=list(variants)))


def tagged(tag, literal_type):
    return LiteralType.parse(bytes(literal_type) + bytes(LiteralType(structure=TypeStructure(tag=tag))))


def primitive(**field):
    return sent(Literal(scalar=Scalar(primitive=Primitive(**field))))


def integer(value):
    return primitive(integer=value)


def number(value):
    return primitive(float_value=value)


def string(value):
    return primitive(string_value=value)


def boolean(value):
    return primitive(boolean=value)


def timestamp(seconds, nanos=0):
    return primitive(datetime=Timestamp(seconds=seconds, nanos=nanos))


def duration(seconds, nanos=0):
    return primitive(duration=Duration(seconds=seconds, nanos=nanos))


def collection(*items):
    return sent(Literal(collection=LiteralCollection(literals=list(items))))


def mapping(**values):
    return sent(Literal(map=LiteralMap(literals=values)))


def generic(fields):
    return sent(Literal(scalar=Scalar(generic=Struct.from_dict(fields))))


def binary(value, tag=""):
    return sent(Literal(scalar=Scalar(binary=core.Binary(value=value, tag=tag))))


def msgpack(data):
    return binary(msgspec.msgpack.encode(data), "msgpack")


def blob(uri, blob_format="", dimensionality=0, hash=""):  # noqa: A002 - the field's name
    kind = BlobType(format=blob_format, dimensionality=BlobTypeBlobDimensionality(dimensionality))
    return sent(Literal(scalar=Scalar(blob=Blob(uri=uri, metadata=BlobMetadata(type=kind))), hash=hash))


def table(uri, table_format="", hash=""):  # noqa: A002 - the field's name
    metadata = StructuredDatasetMetadata(structured_dataset_type=StructuredDatasetType(format=table_format))
    return sent(Literal(scalar=Scalar(structured_dataset=StructuredDataset(uri=uri, metadata=metadata)), hash=hash))


def union_literal(value, literal_type):
    return sent(Literal(scalar=Scalar(union=core.Union(value=value, type=literal_type))))


def sent(message):
    return type(message).parse(bytes(message))


def nested(levels, wrap, innermost):
    for _ in range(levels):
        innermost = wrap(innermost)
    return innermost


def interface(**types):
    entries = [VariableEntry(key=name, value=Variable(type=literal_type)) for name, literal_type in types.items()]
    return sent(VariableMap(variables=entries))


def inputs(*named, **literals):
    everything = [*named, *literals.items()]
    return sent(Inputs(literals=[NamedLiteral(name=name, value=literal) for name, literal in everything]))
