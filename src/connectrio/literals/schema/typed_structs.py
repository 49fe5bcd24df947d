"""Structs that a JSON schema describes: dataclasses, pydantic models, tuples and the like, as typed objects."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from connectrio.idl.flyteidl2.core import Literal
from connectrio.literals.codecs.base import Codec
from connectrio.literals.codecs.structs import struct_to_dict
from connectrio.literals.msgpack import msgpack_literal
from connectrio.literals.plain_data import plain
from connectrio.literals.schema.shapes import Reading, Shape

__all__ = ["TypedStruct"]


@dataclass(frozen=True)
class TypedStruct(Codec):
    """Objects of one JSON schema, in MessagePack or in a protobuf Struct. They are written as MessagePack."""

    shape: Shape
    converts: bool = True

    @property
    def label(self) -> str:
        return self.shape.label

    def to_python(self, literal: Literal) -> Any:
        if literal.scalar is not None and literal.scalar.generic is not None:
            return self._read(struct_to_dict(literal.scalar.generic))
        return self.unusual(literal)

    def from_plain(self, value: Any) -> Any:
        return self._read(value if type(value) in (dict, list) else plain(value))

    def to_literal(self, value: Any) -> Literal:
        return msgpack_literal(plain(self._read(plain(value))))

    def exact(self) -> Codec:
        return dataclasses.replace(self, converts=False)

    def _read(self, data: Any) -> Any:
        return self.shape.read(data, Reading(exact=not self.converts))
