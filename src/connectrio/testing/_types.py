"""Flyte's types by Python's."""

from __future__ import annotations

import types
from datetime import datetime, timedelta
from typing import Any, Union, get_args, get_origin

from connectrio.idl.flyteidl2.core import (
    BlobType,
    BlobTypeBlobDimensionality,
    LiteralType,
    SimpleType,
    StructuredDatasetType,
    UnionType,
)
from connectrio.literals import DataFrame, Dir, File

__all__ = ["literal_type"]

_SIMPLE = {
    int: SimpleType.INTEGER,
    float: SimpleType.FLOAT,
    str: SimpleType.STRING,
    bool: SimpleType.BOOLEAN,
    datetime: SimpleType.DATETIME,
    timedelta: SimpleType.DURATION,
    type(None): SimpleType.NONE,
    None: SimpleType.NONE,
    dict: SimpleType.STRUCT,
    bytes: SimpleType.BINARY,
}
_BLOBS = {File: BlobTypeBlobDimensionality.SINGLE, Dir: BlobTypeBlobDimensionality.MULTIPART}


def literal_type(declared: Any) -> LiteralType:
    """The type that Flyte has for a Python type such as `int`, `list[float]`, `dict[str, bool]`, `int | None`, `File`.

    :raises TypeError: it has none; a `LiteralType` is always taken as it is
    """
    if isinstance(declared, LiteralType):
        return declared
    if declared in _SIMPLE:
        return LiteralType(simple=_SIMPLE[declared])
    if declared in _BLOBS:
        return LiteralType(blob=BlobType(dimensionality=_BLOBS[declared]))
    if declared is DataFrame:
        return LiteralType(structured_dataset_type=StructuredDatasetType())
    return _generic(declared)


def _generic(declared: Any) -> LiteralType:
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is list:
        return LiteralType(collection_type=literal_type(arguments[0]))
    if origin is dict and arguments[0] is str:
        return LiteralType(map_value_type=literal_type(arguments[1]))
    if origin in (types.UnionType, Union):
        return LiteralType(union_type=UnionType(variants=[literal_type(variant) for variant in arguments]))
    raise TypeError(f"Flyte has no type for {declared!r}; give a LiteralType")
