"""Untyped structs, and the binary type: whatever MessagePack or a protobuf Struct can hold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from connectrio.idl.flyteidl2.core import Literal
from connectrio.idl.google.protobuf import Struct, Value
from connectrio.literals.codecs.base import Codec
from connectrio.literals.describe import describe_value
from connectrio.literals.errors import MAX_DEPTH, mismatch, too_deep
from connectrio.literals.msgpack import msgpack_literal
from connectrio.literals.plain_data import fields_reader, plain

__all__ = ["Binary", "UntypedStruct", "struct_to_dict"]


@dataclass(frozen=True)
class UntypedStruct(Codec):
    """Dictionaries of anything. They are written as MessagePack, which keeps integers apart from floats.

    Dataclasses, named tuples and pydantic models are taken as the dictionary of their fields.
    """

    converts: bool = True
    label = "dict"

    def to_python(self, literal: Literal) -> dict[Any, Any]:
        if literal.scalar is not None and literal.scalar.generic is not None:
            return struct_to_dict(literal.scalar.generic)
        value: dict[Any, Any] = self.unusual(literal)
        return value

    def from_plain(self, value: Any) -> dict[Any, Any]:
        if isinstance(value, dict):
            return value
        if not self.converts or fields_reader(type(value)) is None:
            raise mismatch(self.label, describe_value(value))
        fields: dict[Any, Any] = plain(value)
        return fields

    def to_literal(self, value: Any) -> Literal:
        return msgpack_literal(plain(self.from_plain(value)))

    def exact(self) -> Codec:
        return dataclasses.replace(self, converts=False)


@dataclass(frozen=True)
class Binary(Codec):
    """Whatever MessagePack holds: bytes, and with conversions any data.

    Untagged binary data, which flyte-sdk takes for a Python pickle, is refused.
    """

    converts: bool = True
    label = "bytes"

    def to_python(self, literal: Literal) -> Any:
        return self.unusual(literal)

    def from_plain(self, value: Any) -> Any:
        if not self.converts and not isinstance(value, bytes):
            raise mismatch(self.label, describe_value(value))
        return value

    def to_literal(self, value: Any) -> Literal:
        return msgpack_literal(plain(self.from_plain(value)))

    def exact(self) -> Codec:
        return dataclasses.replace(self, converts=False)


def struct_to_dict(struct: Struct) -> dict[str, Any]:
    """A protobuf Struct as a dictionary; its numbers are floats, as it has no others.

    :raises LiteralError: it is nested too deeply
    """
    return _fields(struct, 0)


def _fields(struct: Struct, depth: int) -> dict[str, Any]:
    return {key: _value(value, depth + 1) for key, value in struct.fields.items()}


def _value(value: Value, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise too_deep()
    if value.struct_value is not None:
        return _fields(value.struct_value, depth)
    if value.list_value is not None:
        return [_value(item, depth + 1) for item in value.list_value.values]
    if value.number_value is not None:
        return float(value.number_value)
    return value.bool_value if value.string_value is None else value.string_value
