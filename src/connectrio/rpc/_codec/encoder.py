"""Encoders for betterproto2 messages: a function of straight-line Python for each class, written when first needed.

The bytes are betterproto2's own, field for field in the same order, but for a -0.0, which betterproto2 drops.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import copysign
from typing import Any, TypeAlias

from betterproto2 import Message

from connectrio.rpc._codec.fields import FORMATS, Field, fields_of, wire_type_of
from connectrio.rpc._codec.wire import LENGTH, SMALL_VARINTS, encode_varint

Encoder: TypeAlias = Callable[[Any], bytes]

_encoders: dict[type[Message], Encoder] = {}


class EncodeError(ValueError):
    """A message holds something that its fields cannot."""


def encode(message: Any) -> bytes:
    """`message` as bytes.

    :raises EncodeError: a field holds a value that its type does not have
    """
    try:
        return encoder_for(type(message))(message)
    except RecursionError:
        raise EncodeError(f"{type(message).__name__}: nested too deeply") from None
    except (AttributeError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise EncodeError(_diagnose(message) or f"{type(message).__name__}: {error}") from error


def encoder_for(message_type: type[Message]) -> Encoder:
    """The encoder of a class, compiled on the first call."""
    encoder = _encoders.get(message_type)
    if encoder is None:
        encoder = _encoders[message_type] = _compile(message_type)
    return encoder


def _compile(message_type: type[Message]) -> Encoder:
    names: dict[str, Any] = {"SMALL": SMALL_VARINTS, "varint": encode_varint, "copysign": copysign}
    lines = ["def encode(message):", "    parts = []", "    add = parts.append"]
    for index, field in enumerate(fields_of(message_type)):
        lines += ["    " + line for line in _field_lines(field, index, names)]
    lines += ["    if message._unknown_fields:", "        add(message._unknown_fields)", "    return b''.join(parts)"]
    exec(compile("\n".join(lines), f"<encoder of {message_type.__name__}>", "exec"), names)  # noqa: S102
    encoder: Encoder = names["encode"]
    return encoder


def _field_lines(field: Field, index: int, names: dict[str, Any]) -> list[str]:
    to_bytes = names[f"bytes_{index}"] = _converter(field.value_kind or field.kind, field)
    names[f"tag_{index}"] = encode_varint(field.tag(LENGTH if field.packable else None))
    if field.kind == "map":
        names[f"key_{index}"] = _map_key(field)
        names[f"value_{index}"] = _record(2, field.value_kind, to_bytes)
        entry = [f"raw = key_{index}(key) + value_{index}(entry)", *_delimited(index)]
        return [f"for key, entry in message.{field.name}.items():", *_indented(entry)]
    if field.packable:
        write = [f"raw = b''.join(map(bytes_{index}, value))", *_delimited(index)]
        return [f"value = message.{field.name}", "if value:", *_indented(write)]
    write = [f"raw = bytes_{index}(value)"]
    write += _delimited(index) if field.wire_type == LENGTH else [f"add(tag_{index})", "add(raw)"]
    if field.repeated:
        return [f"for value in message.{field.name}:", *_indented(write)]
    return [f"value = message.{field.name}", f"if {_is_written(field)}:", *_indented(write)]


def _is_written(field: Field) -> str:
    if field.has_presence:
        return "value is not None"
    if field.kind in ("double", "float"):
        return "value is not None and (value or copysign(1.0, value) < 0)"
    return "value"


def _delimited(index: int) -> list[str]:
    return [
        "size = len(raw)",
        f"add(tag_{index})",
        f"add(SMALL[size] if size < {len(SMALL_VARINTS)} else varint(size))",
        "add(raw)",
    ]


def _indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def _map_key(field: Field) -> Callable[[Any], bytes]:
    return _record(1, field.key_kind, _SCALARS.get(field.key_kind) or _fixed(field.key_kind))


def _record(number: int, kind: str, to_bytes: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A whole record, tag included, as map entries are made of."""
    tag = encode_varint(number << 3 | wire_type_of(kind))
    if wire_type_of(kind) != LENGTH:
        return lambda value: tag + to_bytes(value)

    def record(value: Any) -> bytes:
        raw = to_bytes(value)
        return tag + encode_varint(len(raw)) + raw

    return record


def _converter(kind: str, field: Field) -> Callable[[Any], bytes]:
    """What turns one value of a field into bytes, without its tag and length."""
    if kind == "message":
        return _message(field)
    return _SCALARS.get(kind) or _fixed(kind)


def _message(field: Field) -> Callable[[Any], bytes]:
    element: Any = field.element
    compiled: list[Encoder] = []

    def to_bytes(value: Any) -> bytes:
        if field.wrapped:
            value = element.from_wrapped(value)
        elif value.__class__ is not element:
            raise TypeError(f"expected {element.__name__}, got {type(value).__name__}")
        if not compiled:
            compiled.append(encoder_for(element))
        return compiled[0](value)

    return to_bytes


def _fixed(kind: str) -> Callable[[Any], bytes]:
    return struct.Struct(FORMATS[kind]).pack


def _integer(lowest: int, highest: int, zigzag: bool = False) -> Callable[[Any], bytes]:
    def to_bytes(value: Any) -> bytes:
        if not lowest <= value <= highest:
            raise ValueError(f"{value} is not between {lowest} and {highest}")
        if zigzag:
            value = value << 1 if value >= 0 else ~(value << 1)
        return SMALL_VARINTS[value] if 0 <= value < len(SMALL_VARINTS) else encode_varint(value)

    return to_bytes


def _raw(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"expected bytes, got {type(value).__name__}")
    return bytes(value)


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"expected str, got {type(value).__name__}")
    return value.encode()


_INT32, _INT64 = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)
_SCALARS: dict[str, Callable[[Any], bytes]] = {
    "string": _text,
    "bytes": _raw,
    "bool": lambda value: b"\1" if value else b"\0",
    "enum": _integer(*_INT32),
    "int32": _integer(*_INT32),
    "int64": _integer(*_INT64),
    "uint32": _integer(0, (1 << 32) - 1),
    "uint64": _integer(0, (1 << 64) - 1),
    "sint32": _integer(*_INT32, zigzag=True),
    "sint64": _integer(*_INT64, zigzag=True),
}


def _diagnose(message: Any) -> str | None:
    """Which field of `message` cannot be encoded, and why; None when each can on its own."""
    for field in fields_of(type(message)):
        value = getattr(message, field.name)
        values = list(value.values()) if field.kind == "map" else value if field.repeated else [value]
        for item in values:
            try:
                if item is not None:
                    _converter(field.value_kind or field.kind, field)(item)
            except (AttributeError, TypeError, ValueError, OverflowError, struct.error) as error:
                deeper = _diagnose(item) if isinstance(item, Message) and type(item) is field.element else None
                return deeper or f"{type(message).__name__}.{field.name}: {error}"
    return None
