"""Python values as plain data: what JSON has, and bytes. MessagePack is written from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any

from betterproto2 import Message

from connectrio.literals.describe import class_label
from connectrio.literals.errors import MAX_DEPTH, LiteralError, too_deep
from connectrio.literals.per_class import per_class
from connectrio.literals.records import Record

__all__ = ["fields_reader", "plain"]

FieldsReader = Callable[[Any], Mapping[Any, Any]]


@per_class
def fields_reader(cls: type) -> FieldsReader | None:
    """How to read the fields of an object that Flyte takes as a struct; None if it takes none of this class.

    Those are dictionaries, records, dataclasses, named tuples and pydantic models (which pydantic need not be imported
    for).
    """
    if issubclass(cls, dict):
        return _itself
    if issubclass(cls, Record):
        return vars
    if issubclass(cls, Message):
        return None
    if dataclasses.is_dataclass(cls):
        return _dataclass_reader(cls)
    if issubclass(cls, tuple) and hasattr(cls, "_asdict"):
        return _named_tuple_fields
    return _pydantic_fields if hasattr(cls, "model_dump") else None


def _itself(value: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return value


def _dataclass_reader(cls: type) -> FieldsReader:
    names = [field.name for field in dataclasses.fields(cls)]
    return lambda value: {name: getattr(value, name) for name in names}


def _named_tuple_fields(value: Any) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = value._asdict()
    return fields


def _pydantic_fields(value: Any) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = value.model_dump()
    return fields


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as plain data, as flyte-sdk writes it into structs.

    Datetimes become ISO 8601 texts, durations seconds, enum members their values, objects dictionaries.

    :raises LiteralError: it holds something that is not data, or is nested more than `MAX_DEPTH` levels deep
    """
    if depth > MAX_DEPTH:
        raise too_deep()
    if type(value) in _AS_THEY_ARE:
        return value
    return _writer(type(value))(value, depth)


_AS_THEY_ARE = frozenset({type(None), bool, int, float, str, bytes})


@per_class
def _writer(cls: type) -> Callable[[Any, int], Any]:
    read = None if issubclass(cls, Enum) else fields_reader(cls)
    if read is not None:
        return lambda value, depth: _plain_mapping(read(value), depth)
    for base, write in _WRITERS:
        if issubclass(cls, base):
            return write
    return _refuse


def _plain_mapping(fields: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    key = None
    try:
        for key, value in fields.items():
            result[_plain_key(key)] = plain(value, depth + 1)
    except LiteralError as error:
        error.inside(key)
        raise
    return result


def _plain_key(key: Any) -> str | int:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str | int):
        return key
    raise LiteralError(f"the keys of a struct are str or int, not {class_label(type(key))}")


def _plain_items(items: Iterable[Any], depth: int) -> list[Any]:
    result: list[Any] = []
    try:
        for item in items:
            result.append(plain(item, depth + 1))  # noqa: PERF401 - the count tells where an error happened
    except LiteralError as error:
        error.inside(len(result))
        raise
    return result


def _refuse(value: Any, _depth: int) -> Any:
    raise LiteralError(f"{class_label(type(value))} is not data that a struct can hold")


_WRITERS: list[tuple[type, Callable[[Any, int], Any]]] = [
    (Enum, lambda value, depth: plain(value.value, depth + 1)),
    (int, lambda value, _: int(value)),
    (float, lambda value, _: float(value)),
    (str, lambda value, _: str(value)),
    (list, _plain_items),
    (tuple, _plain_items),
    (datetime, lambda value, _: value.isoformat()),
    (date, lambda value, _: value.isoformat()),
    (timedelta, lambda value, _: value.total_seconds()),
]
