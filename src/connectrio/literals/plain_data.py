"""Plain data, which is what JSON has and bytes: made from Python values, and as MessagePack in literals.

Flyte carries dictionaries, dataclasses and their attributes as MessagePack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from enum import Enum, auto
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec
from betterproto2 import Message

from connectrio.idl.flyteidl2.core import Binary, Literal, Scalar
from connectrio.literals.errors import MAX_DEPTH, LiteralError, class_label, quoted_name, too_deep
from connectrio.literals.steps import each_item, take_steps
from connectrio.literals.values import Record

__all__ = ["fields_reader", "msgpack_literal", "per_class", "to_plain_data", "unpack"]

T = TypeVar("T")
FieldsReader = Callable[[Any], Mapping[Any, Any]]

_TAG = "msgpack"
# to copy and to check the texts and bytes in it
_BYTES_PER_STEP = 512
_STEPS_PER_CONTAINER = 2
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
    take_steps(_STEPS_PER_CONTAINER + len(fields))
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


def _refuse(value: Any, _depth: int) -> Any:
    raise LiteralError(f"{class_label(type(value))} is not data that a struct can hold")


_WRITERS: list[tuple[type, Callable[[Any, int], Any]]] = [
    (Enum, lambda value, depth: to_plain_data(value.value, depth + 1)),
    (int, lambda value, _: int(value)),
    (float, lambda value, _: float(value)),
    (str, lambda value, _: str(value)),
    (list, lambda value, depth: each_item(lambda item: to_plain_data(item, depth + 1), value)),
    (tuple, lambda value, depth: each_item(lambda item: to_plain_data(item, depth + 1), value)),
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
    _check_msgpack(binary.value)
    try:
        return _DECODER.decode(binary.value)
    except (msgspec.DecodeError, ValueError) as error:
        raise _malformed(str(error)) from error


def _check_msgpack(data: bytes) -> None:
    """Refuse MessagePack that would take much time or memory to decode, without decoding it.

    A list of two million empty dictionaries takes two megabytes here, and a hundred in Python. Keys that are lists
    become tuples, whose hashes their sender can make all equal.

    :raises LiteralError: it is nested too deeply, has keys that are lists or dictionaries, or takes too many steps;
        other faults are left to the decoder, which comes no further than this function
    """
    take_steps(_STEPS_PER_CONTAINER + len(data) // _BYTES_PER_STEP)
    containers: list[tuple[int, bool]] = []
    left, is_map, position = 1, False, 0
    try:
        while True:
            while not left:
                if not containers:
                    return
                left, is_map = containers.pop()
            left -= 1
            first = data[position]
            size = _SIZES[first]
            if size:
                position += size
                continue
            kind, count, width = _HEADERS[first]
            position += 1 + width
            if width:
                count += int.from_bytes(data[position - width : position], "big")
            if kind is _Kind.BYTES:
                position += count
                continue
            if is_map and left % 2:
                raise _malformed("a key is a list or a dictionary, not a text or a number")
            containers.append((left, is_map))
            is_map = kind is _Kind.MAP
            left = 2 * count if is_map else count
            _check_container(len(containers), left, len(data) - position)
    except IndexError:
        return


def _check_container(depth: int, length: int, rest: int) -> None:
    """Refuse a list or dictionary of `length` values if it is too deep, or too long for the `rest` of the bytes."""
    if depth > MAX_DEPTH + (length == 0):
        raise too_deep()
    if length > rest:
        raise _malformed("it is cut short")
    take_steps(_STEPS_PER_CONTAINER + length)


def _malformed(why: str) -> LiteralError:
    return LiteralError(f"got malformed MessagePack: {why}")


class _Kind(Enum):
    BYTES = auto()
    LIST = auto()
    MAP = auto()


# by the first byte, as in the specification of MessagePack: the size of a value that has always the same, else 0
_SIZES = bytes(
    [1] * 0x80 + [0] * 0x20 + [1 + length for length in range(0x20)]
    + [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 5, 9, 2, 3, 5, 9, 2, 3, 5, 9, 3, 4, 6, 10, 18, 0, 0, 0, 0, 0, 0, 0]
    + [1] * 0x20
)  # fmt: skip
# the others: what they are; the count of their bytes, items or entries; the width of the number to add to it
_HEADERS = {
    **{0x80 + count: (_Kind.MAP, count, 0) for count in range(16)},
    **{0x90 + count: (_Kind.LIST, count, 0) for count in range(16)},
    **{0xC4 + index: (_Kind.BYTES, 0, 1 << index) for index in range(3)},
    **{0xC7 + index: (_Kind.BYTES, 1, 1 << index) for index in range(3)},  # extensions, with one byte for their type
    **{0xD9 + index: (_Kind.BYTES, 0, 1 << index) for index in range(3)},
    0xDC: (_Kind.LIST, 0, 2),
    0xDD: (_Kind.LIST, 0, 4),
    0xDE: (_Kind.MAP, 0, 2),
    0xDF: (_Kind.MAP, 0, 4),
}


def _refuse_extension(code: int, _data: memoryview) -> Any:
    raise ValueError(f"extension type {code} is not understood")


_DECODER = msgspec.msgpack.Decoder(ext_hook=_refuse_extension)
