"""What the codec needs to know of a betterproto2 message class, read once from its field metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import betterproto2
from betterproto2 import FieldMetadata, Message

from connectrio.rpc._codec.wire import FIXED32, FIXED64, LENGTH, VARINT

_WIRE_TYPES = {
    **dict.fromkeys(("enum", "bool", "int32", "int64", "uint32", "uint64", "sint32", "sint64"), VARINT),
    **dict.fromkeys(("double", "fixed64", "sfixed64"), FIXED64),
    **dict.fromkeys(("float", "fixed32", "sfixed32"), FIXED32),
    **dict.fromkeys(("string", "bytes", "message", "map"), LENGTH),
}

# struct's format of each type of fixed size
FORMATS = {"double": "<d", "float": "<f", "fixed32": "<I", "fixed64": "<Q", "sfixed32": "<i", "sfixed64": "<q"}


@dataclass(frozen=True)
class Field:
    """One field.

    :ivar kind: protobuf's name of its type; "map" for a map
    :ivar element: the message or enum class, where there is one (of a map's values, for a map)
    :ivar wrapped: whether `element` is a wrapper that Python code sees unwrapped (BoolValue as bool)
    :ivar siblings: the other members of its oneof
    :ivar has_presence: whether None means that it is not set
    """

    name: str
    number: int
    kind: str
    element: type[Any] | None
    wrapped: bool
    repeated: bool
    has_presence: bool
    siblings: tuple[str, ...]
    key_kind: str = ""
    value_kind: str = ""

    @property
    def wire_type(self) -> int:
        """How a single value goes over the wire."""
        return _WIRE_TYPES[self.kind]

    @property
    def packable(self) -> bool:
        """Whether repeated values share one length-delimited record."""
        return self.repeated and self.wire_type != LENGTH

    def tag(self, wire_type: int | None = None) -> int:
        """What precedes its value."""
        return self.number << 3 | (self.wire_type if wire_type is None else wire_type)


def wire_type_of(kind: str) -> int:
    """How a value of that type goes over the wire."""
    return _WIRE_TYPES[kind]


def fields_of(message_type: type[Message]) -> list[Field]:
    """The fields of a betterproto2 message class, in the order in which betterproto2 writes them."""
    # where betterproto2 keeps its field metadata; its `classproperty` is beyond mypy
    known: Any = message_type._betterproto  # type: ignore[arg-type]  # noqa: SLF001
    groups: dict[str, list[str]] = {}
    for name, meta in known.meta_by_field_name.items():
        if meta.group:
            groups.setdefault(meta.group, []).append(name)
    return [_field(name, meta, known.cls_by_field, groups) for name, meta in known.meta_by_field_name.items()]


def _field(name: str, meta: FieldMetadata, classes: dict[str, type], groups: dict[str, list[str]]) -> Field:
    siblings = tuple(other for other in groups.get(meta.group or "", ()) if other != name)
    element: type[Any] | None = classes[name]
    unwrap = meta.unwrap
    key_kind = value_kind = ""
    if meta.map_meta is not None:
        key_kind, value_kind = meta.map_meta[0].proto_type, meta.map_meta[1].proto_type
        element, unwrap = classes[f"{name}.value"], meta.map_meta[1].unwrap
    if (value_kind or meta.proto_type) not in ("message", "enum"):
        element = None
    return Field(
        name=name,
        number=meta.number,
        kind=meta.proto_type,
        element=unwrap() if unwrap is not None else element,
        wrapped=unwrap is not None,
        repeated=bool(meta.repeated),
        has_presence=bool(meta.optional or meta.group) or meta.proto_type == betterproto2.TYPE_MESSAGE,
        siblings=siblings,
        key_kind=key_kind,
        value_kind=value_kind,
    )
