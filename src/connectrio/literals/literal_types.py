"""Literal types as declared and as sent: their kinds, their tags, and whether two are equal."""

from __future__ import annotations

import dataclasses
from itertools import zip_longest
from typing import Any

from connectrio.idl.flyteidl2.core import BlobTypeBlobDimensionality, LiteralType, SimpleType, TypeStructure
from connectrio.literals.errors import MAX_DEPTH

__all__ = ["kind_of", "same_type", "tag_of", "tagged", "title_of"]

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
    (kind, value), (other_kind, other_value) = kind_of(one), kind_of(other)
    if kind != other_kind:
        return False
    if kind in ("collection_type", "map_value_type"):
        return same_type(value, other_value, depth + 1)
    if kind == "union_type":
        pairs = zip_longest(value.variants, other_value.variants)
        return all(same_type(variant, other_variant, depth + 1) for variant, other_variant in pairs)
    if kind == "structured_dataset_type":
        names, other_names = ([column.name for column in table.columns] for table in (value, other_value))
        return bool(value.format == other_value.format and names == other_names)
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
