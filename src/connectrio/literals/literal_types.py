"""Literal types: their kinds, their tags, whether two are equal, and the type of a Python value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import date, timedelta
from enum import Enum
from functools import reduce
from itertools import zip_longest
from typing import Any

from connectrio.idl.flyteidl2.core import (
    BlobType,
    BlobTypeBlobDimensionality,
    EnumType,
    LiteralType,
    SimpleType,
    StructuredDatasetType,
    TypeStructure,
    UnionType,
)
from connectrio.literals.errors import MAX_DEPTH, LiteralError, class_label, too_deep
from connectrio.literals.plain_data import fields_reader
from connectrio.literals.steps import each_item, take_steps
from connectrio.literals.values import DataFrame, Dir, File

__all__ = ["kind_of", "literal_type_of", "same_type", "tag_of", "tagged", "title_of"]

_KINDS = (
    "simple",
    "collection_type",
    "map_value_type",
    "union_type",
    "enum_type",
    "blob",
    "structured_dataset_type",
    "schema",
)


_STEPS_PER_TYPE = 4


def kind_of(literal_type: LiteralType) -> tuple[str, Any]:
    """Return which field of the oneof is set, and its value; ("", None) if none is set."""
    for kind in _KINDS:
        value = getattr(literal_type, kind)
        if value is not None:
            return kind, value
    return "", None


def tag_of(literal_type: LiteralType) -> str:
    """Return the tag that the type has as a variant of a union; "" for none."""
    return "" if literal_type.structure is None else literal_type.structure.tag


def title_of(literal_type: LiteralType) -> str:
    """Return the title of a struct's JSON schema; "" for none."""
    metadata = literal_type.metadata
    title = None if metadata is None else metadata.fields.get("title")
    return "" if title is None else title.string_value or ""


def same_type(one: LiteralType | None, other: LiteralType | None, depth: int = 0) -> bool:
    """Return whether both types have the same values; tags, annotations and metadata are ignored."""
    if one is None or other is None or depth > MAX_DEPTH:
        return False
    take_steps(_STEPS_PER_TYPE)
    (kind, value), (other_kind, other_value) = kind_of(one), kind_of(other)
    if kind != other_kind:
        return False
    if kind in ("collection_type", "map_value_type"):
        return same_type(value, other_value, depth + 1)
    if kind == "union_type":
        pairs = zip_longest(value.variants, other_value.variants)
        return all(same_type(variant, other_variant, depth + 1) for variant, other_variant in pairs)
    if kind == "structured_dataset_type":
        take_steps(len(value.columns) + len(other_value.columns))
        names, other_names = ([column.name for column in table.columns] for table in (value, other_value))
        return bool(value.format == other_value.format and names == other_names)
    if kind == "enum_type":
        take_steps(len(value.values))
    return bool(kind) and value == other_value


def tagged(variant: LiteralType) -> LiteralType:
    """Return a variant with flyte-sdk's tag for it, by which flyte-sdk finds the variant of a union literal."""
    kind, value = kind_of(variant)
    tag = _SIMPLE_TAGS.get(value) if kind == "simple" else _TAGS.get(kind)
    if kind == "blob":
        tag = "Dir" if value.dimensionality == BlobTypeBlobDimensionality.MULTIPART else "File"
    return variant if tag is None else dataclasses.replace(variant, structure=TypeStructure(tag=tag))


_SIMPLE_TAGS: dict[int, str] = {
    SimpleType.NONE: "none",
    SimpleType.INTEGER: "int",
    SimpleType.FLOAT: "float",
    SimpleType.STRING: "str",
    SimpleType.BOOLEAN: "bool",
    SimpleType.DATETIME: "datetime",
    SimpleType.DURATION: "timedelta",
    SimpleType.STRUCT: "Typed Dict",
}
_TAGS = {
    "map_value_type": "Typed Dict",
    "collection_type": "Typed List",
    "enum_type": "DefaultEnumTransformer",
    "structured_dataset_type": "DataFrame Transformer",
}


def literal_type_of(value: Any) -> LiteralType:
    """Return a type that `value` belongs to, to declare an interface from values.

    The items of a list share one type, which is a union if they differ; an empty list is a list of None.

    :raises LiteralError: Flyte has no type for it, or it is nested too deeply
    """
    return _with_none_for_unset(_infer(value, 0))


def _infer(value: Any, depth: int) -> LiteralType:
    if depth > MAX_DEPTH:
        raise too_deep()
    if isinstance(value, Enum):
        return LiteralType(enum_type=EnumType(values=list(type(value).__members__)))
    for cls, infer in _BY_CLASS.items():
        if isinstance(value, cls):
            return infer(value)
    if fields_reader(type(value)) is not None:
        return LiteralType(simple=SimpleType.STRUCT)
    if isinstance(value, list | tuple):
        items = each_item(lambda item: _infer(item, depth + 1), value)
        return LiteralType(collection_type=reduce(_join, items, LiteralType()))
    raise LiteralError(f"Flyte has no type for {class_label(type(value))}")


def _simple(simple: SimpleType) -> Callable[[Any], LiteralType]:
    return lambda _: LiteralType(simple=simple)


def _blob(dimensionality: BlobTypeBlobDimensionality) -> Callable[[Any], LiteralType]:
    return lambda value: LiteralType(blob=BlobType(format=value.format, dimensionality=dimensionality))


# in order: a bool is an int too
_BY_CLASS: dict[type, Callable[[Any], LiteralType]] = {
    bool: _simple(SimpleType.BOOLEAN),
    int: _simple(SimpleType.INTEGER),
    float: _simple(SimpleType.FLOAT),
    str: _simple(SimpleType.STRING),
    type(None): _simple(SimpleType.NONE),
    date: _simple(SimpleType.DATETIME),
    timedelta: _simple(SimpleType.DURATION),
    bytes: _simple(SimpleType.BINARY),
    File: _blob(BlobTypeBlobDimensionality.SINGLE),
    Dir: _blob(BlobTypeBlobDimensionality.MULTIPART),
    DataFrame: lambda value: LiteralType(structured_dataset_type=StructuredDatasetType(format=value.format)),
}


def _join(one: LiteralType, other: LiteralType) -> LiteralType:
    """Return the type that has the values of both. An unset type, as of the items of an empty list, has no values."""
    variants = _variants(one)
    for candidate in _variants(other):
        for index, variant in enumerate(variants):
            merged = _merged(variant, candidate)
            if merged is not None:
                variants[index] = merged
                break
        else:
            variants.append(candidate)
    if len(variants) < 2:
        return variants[0] if variants else LiteralType()
    return LiteralType(union_type=UnionType(variants=[tagged(variant) for variant in variants]))


def _variants(literal_type: LiteralType) -> list[LiteralType]:
    kind, value = kind_of(literal_type)
    if kind == "union_type":
        return list(value.variants)
    return [literal_type] if kind else []


def _merged(one: LiteralType, other: LiteralType) -> LiteralType | None:
    """Return one type for both if they differ only in their items or formats, else None."""
    if same_type(one, other):
        return one
    if one.collection_type is not None and other.collection_type is not None:
        return LiteralType(collection_type=_join(one.collection_type, other.collection_type))
    if one.structured_dataset_type is not None and other.structured_dataset_type is not None:
        return LiteralType(structured_dataset_type=StructuredDatasetType())
    if one.blob is not None and other.blob is not None and one.blob.dimensionality == other.blob.dimensionality:
        return LiteralType(blob=BlobType(dimensionality=one.blob.dimensionality))
    return None


def _with_none_for_unset(literal_type: LiteralType) -> LiteralType:
    """Return the type with every unset type in it replaced by the type of None."""
    if literal_type.collection_type is not None:
        return dataclasses.replace(literal_type, collection_type=_with_none_for_unset(literal_type.collection_type))
    if literal_type.union_type is not None:
        variants = [_with_none_for_unset(variant) for variant in literal_type.union_type.variants]
        return dataclasses.replace(literal_type, union_type=UnionType(variants=variants))
    return literal_type if kind_of(literal_type)[0] else LiteralType(simple=SimpleType.NONE)
