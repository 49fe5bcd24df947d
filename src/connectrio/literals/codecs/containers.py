"""Collections and maps of another type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from connectrio.idl.flyteidl2.core import Literal, LiteralCollection, LiteralMap
from connectrio.literals.codecs.base import Codec, encodable
from connectrio.literals.errors import LiteralError, class_label, describe_value, mismatch

__all__ = ["Collection", "Map", "each_entry", "each_item"]

T = TypeVar("T")
U = TypeVar("U")


def each_item(convert: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """Convert all items, in order.

    :raises LiteralError: an item cannot be converted; the error says at which index
    """
    result: list[U] = []
    try:
        for item in items:
            result.append(convert(item))  # noqa: PERF401 - the count tells where an error happened
    except LiteralError as error:
        error.inside(len(result))
        raise
    return result


def each_entry(convert: Callable[[T], U], entries: Mapping[str, T]) -> dict[str, U]:
    """Convert all values of a mapping.

    :raises LiteralError: a value cannot be converted; the error says at which key
    """
    result: dict[str, U] = {}
    key = ""
    try:
        for key, value in entries.items():
            result[key] = convert(value)
    except LiteralError as error:
        error.inside(key)
        raise
    return result


@dataclass(frozen=True)
class Collection(Codec):
    """Lists of values of one type."""

    item: Codec

    @property
    def label(self) -> str:
        return f"list[{self.item.label}]"

    def to_python(self, literal: Literal) -> Any:
        if literal.collection is None:
            return self.unusual(literal)
        return each_item(self.item.to_python, literal.collection.literals)

    def from_plain(self, value: Any) -> list[Any]:
        return each_item(self.item.from_plain, self._items(value))

    def to_literal(self, value: Any) -> Literal:
        return Literal(collection=LiteralCollection(literals=each_item(self.item.to_literal, self._items(value))))

    def exact(self) -> Codec:
        return Collection(self.item.exact())

    def _items(self, value: Any) -> Iterable[Any]:
        if not isinstance(value, list | tuple):
            raise mismatch(self.label, describe_value(value))
        return value


@dataclass(frozen=True)
class Map(Codec):
    """Dictionaries of values of one type, whose keys are texts."""

    value: Codec

    @property
    def label(self) -> str:
        return f"dict[str, {self.value.label}]"

    def to_python(self, literal: Literal) -> Any:
        if literal.map is None:
            return self.unusual(literal)
        return each_entry(self.value.to_python, literal.map.literals)

    def from_plain(self, value: Any) -> dict[str, Any]:
        return each_entry(self.value.from_plain, self._entries(value))

    def to_literal(self, value: Any) -> Literal:
        return Literal(map=LiteralMap(literals=each_entry(self.value.to_literal, self._entries(value))))

    def exact(self) -> Codec:
        return Map(self.value.exact())

    def _entries(self, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise mismatch(self.label, describe_value(value))
        for key in value:
            if not isinstance(key, str):
                raise LiteralError(f"the keys of {self.label} are str, not {class_label(type(key))}")
            encodable(key)
        return value
