"""Infer the LiteralType of a Python value, for callers who build an interface from values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import date, timedelta
from enum import Enum
from functools import reduce
from typing import Any

from connectrio.idl.flyteidl2.core import (
    BlobType,
    BlobTypeBlobDimensionality,
    EnumType,
    LiteralType,
    SimpleType,
    StructuredDatasetType,
    UnionType,
)
from connectrio.literals.codecs.containers import each_item
from connectrio.literals.errors import MAX_DEPTH, LiteralError, class_label, too_deep
from connectrio.literals.literal_types import kind_of, same_type, tagged
from connectrio.literals.plain_data import fields_reader
from connectrio.literals.values import DataFrame, Dir, File

__all__ = ["literal_type_of"]


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
