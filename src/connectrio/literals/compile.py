"""From a declared LiteralType to its codec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from connectrio.idl.flyteidl2.core import (
    BlobType,
    EnumType,
    LiteralType,
    SimpleType,
    StructuredDatasetType,
    UnionType,
)
from connectrio.literals.codec import Codec, Unsupported
from connectrio.literals.containers import Collection, Map
from connectrio.literals.describe import quoted_name
from connectrio.literals.errors import MAX_DEPTH
from connectrio.literals.kinds import kind_of
from connectrio.literals.references import BLOB_TYPES, PICKLE_FORMAT, BlobReference, DataFrameReference
from connectrio.literals.scalars import Boolean, Datetime, Duration, Enumeration, Float, Integer, Nothing, String
from connectrio.literals.structs import Binary, UntypedStruct
from connectrio.literals.unions import Union, Variant
from connectrio.literals.values import File

__all__ = ["codec_for", "type_name"]


def codec_for(literal_type: LiteralType | None) -> Codec:
    """The codec of a declared type. It never fails: for a type that has no values here, it is one that says why."""
    return _compile(literal_type, 0)


def type_name(literal_type: LiteralType | None) -> str:
    """A declared type as a person reads it: `list[int]`, `dict[str, File]`, `int | None`."""
    return codec_for(literal_type).label


def _compile(literal_type: LiteralType | None, depth: int) -> Codec:
    if literal_type is None:
        return _UNSET
    if depth > MAX_DEPTH:
        return Unsupported("…", f"it is nested more than {MAX_DEPTH} levels deep")
    kind, value = kind_of(literal_type)
    if kind == "simple":
        return _simple(value, literal_type)
    compile_kind = _KINDS.get(kind)
    return _UNSET if compile_kind is None else compile_kind(value, depth)


def _simple(simple: SimpleType, literal_type: LiteralType) -> Codec:
    if simple == SimpleType.STRUCT and literal_type.metadata is not None and literal_type.metadata.fields:
        title = literal_type.metadata.fields.get("title")
        name = "" if title is None or title.string_value is None else f" {quoted_name(title.string_value)}"
        return Unsupported(f"struct{name}", "it has a JSON schema; declare it as an untyped dict")
    codec = _SIMPLE.get(simple)
    return (
        Unsupported(f"simple type {int(simple)}", "this version of Flyte's types is not known")
        if codec is None
        else codec
    )


def _collection(item: LiteralType, depth: int) -> Codec:
    return Collection(_compile(item, depth + 1))


def _map(value: LiteralType, depth: int) -> Codec:
    return Map(_compile(value, depth + 1))


def _union(union: UnionType, depth: int) -> Codec:
    if not union.variants:
        return Unsupported("union", "it has no variants")
    return Union([Variant(variant, _compile(variant, depth + 1)) for variant in union.variants])


def _enum(enum: EnumType, _depth: int) -> Codec:
    return Enumeration(tuple(enum.values))


def _blob(blob: BlobType, _depth: int) -> Codec:
    value_type = BLOB_TYPES.get(blob.dimensionality)
    if value_type is None:
        return Unsupported("blob", f"its dimensionality {int(blob.dimensionality)} is not known")
    is_pickle = value_type is File and blob.format == PICKLE_FORMAT
    return _PICKLE if is_pickle else BlobReference(value_type, blob.format)


def _structured_dataset(dataset: StructuredDatasetType, _depth: int) -> Codec:
    return DataFrameReference(dataset)


def _schema(_schema: Any, _depth: int) -> Codec:
    return Unsupported("schema", "Flyte replaced schemas by structured datasets; declare a DataFrame")


_UNSET = Unsupported("unset type", "the interface does not say what it is")
_PICKLE = Unsupported(
    "pickle", "reading a Python pickle would run code that the sender chose; declare a type that is data"
)

_SIMPLE: dict[int, Codec] = {
    SimpleType.NONE: Nothing(),
    SimpleType.INTEGER: Integer(),
    SimpleType.FLOAT: Float(),
    SimpleType.STRING: String(),
    SimpleType.BOOLEAN: Boolean(),
    SimpleType.DATETIME: Datetime(),
    SimpleType.DURATION: Duration(),
    SimpleType.BINARY: Binary(),
    SimpleType.ERROR: Unsupported("error", "errors are not passed to tasks"),
    SimpleType.STRUCT: UntypedStruct(),
}

_KINDS: dict[str, Callable[[Any, int], Codec]] = {
    "collection_type": _collection,
    "map_value_type": _map,
    "union_type": _union,
    "enum_type": _enum,
    "blob": _blob,
    "structured_dataset_type": _structured_dataset,
    "schema": _schema,
}
