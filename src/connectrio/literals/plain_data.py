"""Plain data, which is what JSON has and bytes: made from Python values, and as MessagePack in literals.

Flyte carries dictionaries, dataclasses and their attributes as MessagePack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec
from betterproto2 import Message

from connectrio.idl.flyteidl2.core import Binary, Literal, Scalar
from connectrio.literals.errors import MAX_DEPTH, LiteralError, class_label, quoted_name, too_deep
from connectrio.literals.values import Record

__all__ = ["fields_reader", "msgpack_literal", "per_class", "to_plain_data", "unpack"]

T = TypeVar("T")
FieldsReader = Callable[[Any], Mapping[Any, Any]]

_TAG = "msgpack"
_PLAIN_CLASSES = frozenset({type(None), bool, int, float, str, bytes})


def per_class(find: Callable[[type], T]) -> Callable[[type], T]:
    """Return `find` with a memory: it is called once for each class, and its result kept while the class lives."""
    found: WeakKeyDictionary[type, T] = WeakKeyDictionary()

    def remembered(cls: type) -> T:
        try:
            return found[cls]
        except KeyError:
            result = found[cls] = find(cls)
            return result

    return remembered


@per_class
def fields_reader(cls: type) -> FieldsReader | None:
    """Return what reads the fields of an object that Flyte takes as a struct; None if it takes no objects of `cls`.

    Flyte takes dictionaries, records, dataclasses, named tuples and pydantic models. pydantic is not imported for it.
    """
    if issubclass(cls, dict):
        return lambda value: value
    if issubclass(cls, Record):
        return vars
    if issubclass(cls, Message):
        return None
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls)]
        return lambda value: {name: getattr(value, name) for name in names}
    if issubclass(cls, tuple) and hasattr(cls, "_asdict"):
        return lambda value: value._asdict()
    return (lambda value: value.model_dump()) if hasattr(cls, "model_dump") else None


def to_plain_data(value: Any, depth: int = 0) -> Any:
    """Return `value` as plain data, as flyte-sdk writes it into structs.

    Datetimes become ISO 8601 texts, durations seconds, enum members their values, objects dictionaries.

    :raises LiteralError: `value` holds something that is not data, or is nested more than `MAX_DEPTH` levels deep
    """
    if depth > MAX_DEPTH:
        raise too_deep()
    if type(value) in _PLAIN_CLASSES:
        return value
    return _writer(type(value))(value, depth)


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
            plain_key = key.value if isinstance(key, Enum) else key
            if not isinstance(plain_key, str | int):
                raise LiteralError(f"the keys of a struct are str or int, not {class_label(type(plain_key))}")  # noqa: TRY301
            result[plain_key] = to_plain_data(value, depth + 1)
    except LiteralError as error:
        error.inside(key)
        raise
    return result


def _plain_items(items: Iterable[Any], depth: int) -> list[Any]:
    result: list[Any] = []
    try:
        for item in items:
            result.append(to_plain_data(item, depth + 1))  # noqa: PERF401 - the count tells where an error happened
    except LiteralError as error:
        error.inside(len(result))
        raise
    return result


def _refuse(value: Any, _depth: int) -> Any:
    raise LiteralError(f"{class_label(type(value))} is not data that a struct can hold")


_WRITERS: list[tuple[type, Callable[[Any, int], Any]]] = [
    (Enum, lambda value, depth: to_plain_data(value.value, depth + 1)),
    (int, lambda value, _: int(value)),
    (float, lambda value, _: float(value)),
    (str, lambda value, _: str(value)),
    (list, _plain_items),
    (tuple, _plain_items),
    (datetime, lambda value, _: value.isoformat()),
    (date, lambda value, _: value.isoformat()),
    (timedelta, lambda value, _: value.total_seconds()),
]


def msgpack_literal(value: Any) -> Literal:
    """Return a binary literal that holds `value` as MessagePack.

    :raises LiteralError: `to_plain_data` refuses it, an integer is beyond 64 bits, or a text is not valid Unicode
    """
    data = to_plain_data(value)
    try:
        packed = msgspec.msgpack.encode(data)
    except (ValueError, OverflowError) as error:
        raise LiteralError(f"cannot be written as MessagePack: {error}") from error
    return Literal(scalar=Scalar(binary=Binary(value=packed, tag=_TAG)))


def unpack(binary: Binary) -> Any:
    """Return the plain data in a binary literal.

    :raises LiteralError: it is not tagged as MessagePack, not well-formed, or nested too deeply
    """
    if not binary.tag:
        raise LiteralError(
            "got untagged binary data, which is a Python pickle: it is refused, because reading it would run code"
            " that the sender chose"
        )
    if binary.tag != _TAG:
        raise LiteralError(f"got binary data with tag {quoted_name(binary.tag)}; only {_TAG!r} is understood")
    try:
        data = _DECODER.decode(binary.value)
    except RecursionError:
        raise too_deep() from None
    except (msgspec.DecodeError, ValueError) as error:
        raise LiteralError(f"got malformed MessagePack: {error}") from error
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level for child in _children(node)]
        if not level:
            return data
    raise too_deep()


def _children(node: Any) -> Iterable[Any]:
    if type(node) is dict:
        return node.values()
    return node if type(node) is list else ()


def _refuse_extension(code: int, _data: memoryview) -> Any:
    raise ValueError(f"extension type {code} is not understood")


_DECODER = msgspec.msgpack.Decoder(ext_hook=_refuse_extension)
