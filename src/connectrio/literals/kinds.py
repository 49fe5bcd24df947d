"""Literal types as they are declared and sent: their kinds, their tags, and when two are equal."""

from __future__ import annotations

from typing import Any

from connectrio.idl.flyteidl2.core import LiteralType, StructuredDatasetType
from connectrio.literals.errors import MAX_DEPTH

__all__ = ["kind_of", "same_type", "tag_of", "title_of"]

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
    """Which field of the oneof is set, and its value; ("", None) where none is."""
    for kind in _KINDS:
        value = getattr(literal_type, kind)
        if value is not None:
            return kind, value
    return "", None


def tag_of(literal_type: LiteralType) -> str:
    """The name that the type's writer gave it within a union; "" for none."""
    return "" if literal_type.structure is None else literal_type.structure.tag


def title_of(literal_type: LiteralType) -> str:
    """What a struct's JSON schema is called; "" for nothing."""
    metadata = literal_type.metadata
    title = None if metadata is None else metadata.fields.get("title")
    return "" if title is None else title.string_value or ""


def same_type(one: LiteralType | None, other: LiteralType | None, depth: int = 0) -> bool:
    """Whether both types have the same values; tags, annotations and metadata do not count."""
    if one is None or other is None or depth > MAX_DEPTH:
        return False
    (kind, value), (other_kind, other_value) = kind_of(one), kind_of(other)
    if kind != other_kind:
        return False
    if kind in ("collection_type", "map_value_type"):
        return same_type(value, other_value, depth + 1)
    if kind == "union_type":
        return _same_types(value.variants, other_value.variants, depth + 1)
    if kind == "structured_dataset_type":
        return _same_table(value, other_value)
    return bool(kind) and value == other_value


def _same_types(ones: list[LiteralType], others: list[LiteralType], depth: int) -> bool:
    return len(ones) == len(others) and all(
        same_type(one, other, depth) for one, other in zip(ones, others, strict=True)
    )


def _same_table(one: StructuredDatasetType, other: StructuredDatasetType) -> bool:
    return one.format == other.format and [column.name for column in one.columns] == [
        column.name for column in other.columns
    ]
