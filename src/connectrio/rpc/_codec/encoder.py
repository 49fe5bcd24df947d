"""Encoders for betterproto2 messages: for each class a function of straight-line Python, generated on first use.

They write the bytes that betterproto2 writes, in the same order, except for -0.0, which betterproto2 drops, for
negative timedeltas, of which it writes another duration, and for times as in `times`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from math import copysign
from typing import Any, TypeAlias

from betterproto2 import Message

from connectrio.rpc._codec.fields import STRUCT_FORMATS, WIRE_TYPES, MessageField, fields_of
from connectrio.rpc._codec.times import TimeField, as_received, from_python, is_time
from connectrio.rpc._codec.wire import LENGTH, SMALL_VARINTS, encode_varint

Encoder: TypeAlias = Callable[[Any], bytes]


class EncodeError(ValueError):
    """A field of a message holds a value that is not of the field's type."""


# the attribute of a message that `encode_ahead` puts the bytes into
KEPT = "_encoded"


def encode(message: Any) -> bytes:
    """Return `message` as bytes.

    :raises EncodeError: a field holds a value that is not of its type
    """
    try:
        return encoder_for(type(message))(message)  # type: ignore[arg-type]  # every class is hashable
    except RecursionError:
        raise EncodeError(f"{type(message).__name__}: nested too deeply") from None
    except (AttributeError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise EncodeError(_diagnose(message) or f"{type(message).__name__}: {error}") from error


@cache
def encoder_for(message_type: type[Message]) -> Encoder:
    """Return the encoder of a class; the first call compiles it."""
    names: dict[str, Any] = {"SMALL": SMALL_VARINTS, "varint": encode_varint, "copysign": copysign}
    lines = ["def encode(message):", "    parts = []", "    add = parts.append"]
    for index, field in enumerate(fields_of(message_type)):
        lines += ["    " + line for line in _field_lines(message_type, field, index, names)]
    lines += ["    if message._unknown_fields:", "        add(message._unknown_fields)", "    return b''.join(parts)"]
    exec(compile("\n".join(lines), f"<encoder of {message_type.__name__}>", "exec"), names)  # noqa: S102
    encoder: Encoder = names["encode"]
    return encoder


def _field_lines(message_type: type[Message], field: MessageField, index: int, names: dict[str, Any]) -> list[str]:
    """Return the lines that write a field, and add the names that they use to `names`."""
    to_bytes = names[f"bytes_{index}"] = _value_encoder(field.value_kind or field.kind, field)
    names[f"tag_{index}"] = encode_varint(field.tag(LENGTH if field.packable else None))
    tag = [f"add(tag_{index})"]
    size = ["size = len(raw)", *tag, f"add(SMALL[size] if size < {len(SMALL_VARINTS)} else varint(size))"]
    item, entry = "value", "entry"
    if is_time(field) and not field.is_single:
        names["received"] = as_received
        item, entry = "received(message, value)", "received(message, entry)"
    if field.kind == "map":
        names[f"key_{index}"] = _entry_part(1, field.key_kind, _value_encoder(field.key_kind, field))
        names[f"value_{index}"] = _entry_part(2, field.value_kind, to_bytes)
        head = f"for key, entry in message.{field.name}.items():"
        body = [f"raw = key_{index}(key) + value_{index}({entry})", *size, "add(raw)"]
        return [head, *("    " + line for line in body)]
    value = f"message.{field.name}"
    if field.packable:
        heads = [f"value = {value}", "if value:"]
        body = [f"raw = b''.join(map(bytes_{index}, value))", *size, "add(raw)"]
    else:
        body = [f"raw = bytes_{index}({item})", *(size if field.wire_type == LENGTH else tag), "add(raw)"]
        if field.repeated:
            heads = [f"for value in {value}:"]
        elif is_time(field):
            names[f"time_{index}"] = TimeField.of(message_type, field)
            heads = [f"value = time_{index}.read(message)", "if value is not None:"]
        elif field.has_presence:
            heads = [f"value = {value}", "if value is not None:"]
        elif field.kind in ("double", "float"):
            heads = [f"value = {value}", "if value is not None and (value or copysign(1.0, value) < 0):"]
        else:
            heads = [f"value = {value}", "if value:"]
    return [*heads, *("    " + line for line in body)]


def encode_ahead(message: Message) -> bytes:
    """Return `message` as bytes, and keep them for the server, so the message must not change any more.

    :raises EncodeError: see `encode`
    """
    encoded = message.__dict__[KEPT] = encode(message)
    return encoded


def _entry_part(number: int, kind: str, to_bytes: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return what writes the key or the value of a map's entry, with its tag."""
    tag = encode_varint(number << 3 | WIRE_TYPES[kind])
    if WIRE_TYPES[kind] != LENGTH:
        return lambda value: tag + to_bytes(value)

    def record(value: Any) -> bytes:
        raw = to_bytes(value)
        return tag + encode_varint(len(raw)) + raw

    return record


def _value_encoder(kind: str, field: MessageField) -> Callable[[Any], bytes]:
    """Return what turns one value of a field into bytes, without its tag and length."""
    if kind == "message":
        return _message_encoder(field)
    return _SCALARS.get(kind) or struct.Struct(STRUCT_FORMATS[kind]).pack


def _message_encoder(field: MessageField) -> Callable[[Any], bytes]:
    element: Any = field.element
    is_wrapped_time = is_time(field)
    compiled: list[Encoder] = []

    def to_bytes(value: Any) -> bytes:
        if is_wrapped_time:
            value = from_python(element, value)
        elif field.wrapped:
            value = element.from_wrapped(value)
        elif value.__class__ is not element:
            raise TypeError(f"expected {element.__name__}, got {type(value).__name__}")
        if not compiled:
            compiled.append(encoder_for(element))
        return compiled[0](value)

    return to_bytes


def _integer_encoder(lowest: int, highest: int, zigzag: bool = False) -> Callable[[Any], bytes]:
    def to_bytes(value: Any) -> bytes:
        if not lowest <= value <= highest:
            raise ValueError(f"{value} is not between {lowest} and {highest}")
        if zigzag:
            value = value << 1 if value >= 0 else ~(value << 1)
        return SMALL_VARINTS[value] if 0 <= value < len(SMALL_VARINTS) else encode_varint(value)

    return to_bytes


def _encode_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"expected bytes, got {type(value).__name__}")
    return bytes(value)


def _encode_string(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"expected str, got {type(value).__name__}")
    return value.encode()


_INT32, _INT64 = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)
_SCALARS: dict[str, Callable[[Any], bytes]] = {
    "string": _encode_string,
    "bytes": _encode_bytes,
    "bool": lambda value: b"\1" if value else b"\0",
    "enum": _integer_encoder(*_INT32),
    "int32": _integer_encoder(*_INT32),
    "int64": _integer_encoder(*_INT64),
    "uint32": _integer_encoder(0, (1 << 32) - 1),
    "uint64": _integer_encoder(0, (1 << 64) - 1),
    "sint32": _integer_encoder(*_INT32, zigzag=True),
    "sint64": _integer_encoder(*_INT64, zigzag=True),
}


def _diagnose(message: Any) -> str | None:
    """Return which field of `message` cannot be encoded, and why; None if each can on its own."""
    for field in fields_of(type(message)):
        alone = is_time(field) and field.is_single
        value = TimeField.of(type(message), field).read(message) if alone else getattr(message, field.name)
        values = list(value.values()) if field.kind == "map" else value if field.repeated else [value]
        for item in values:
            try:
                if item is not None:
                    _value_encoder(field.value_kind or field.kind, field)(item)
            except (AttributeError, TypeError, ValueError, OverflowError, struct.error) as error:
                deeper = _diagnose(item) if isinstance(item, Message) and type(item) is field.element else None
                return deeper or f"{type(message).__name__}.{field.name}: {error}"
    return None
