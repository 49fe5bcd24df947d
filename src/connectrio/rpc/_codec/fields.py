"""The fields of betterproto2's message classes, read once from betterproto2's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import betterproto2
from betterproto2 import Message

from connectrio.rpc._codec.wire import FIXED32, FIXED64, LENGTH, VARINT

# the wire type of the values of each type
WIRE_TYPES = {
    **dict.fromkeys(("enum", "bool", "int32", "int64", "uint32", "uint64", "sint32", "sint64"), VARINT),
    **dict.fromkeys(("double", "fixed64", "sfixed64"), FIXED64),
    **dict.fromkeys(("float", "fixed32", "sfixed32"), FIXED32),
    **dict.fromkeys(("string", "bytes", "message", "map"), LENGTH),
}

# struct's format of each type of fixed size
STRUCT_FORMATS = {"double": "<d", "float": "<f", "fixed32": "<I", "fixed64": "<Q", "sfixed32": "<i", "sfixed64": "<q"}


@dataclass(frozen=True)
class MessageField:
    """One field of a message class.

    :ivar kind: protobuf's name of its type; "map" for a map
    :ivar element: its message or enum class, if it has one; for a map, that of its values
    :ivar wrapped: whether `element` is a wrapper that Python code sees unwrapped (BoolValue as bool)
    :ivar has_presence: whether None means that it is not set
    :ivar siblings: the other members of its oneof
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
        """The wire type of a single value."""
        return WIRE_TYPES[self.kind]

    @property
    def packable(self) -> bool:
        """Whether repeated values share one length-delimited record."""
        return self.repeated and self.wire_type != LENGTH

    @property
    def is_single(self) -> bool:
        """Whether it is neither a list nor a map."""
        return not self.repeated and self.kind != "map"

    def tag(self, wire_type: int | None = None) -> int:
        """Return the tag that precedes its value."""
        return self.number << 3 | (self.wire_type if wire_type is None else wire_type)


def fields_of(message_type: type[Message]) -> list[MessageField]:
    """Return the fields of a betterproto2 message class, in the order in which betterproto2 writes them."""
    # where betterproto2 keeps its field metadata; mypy does not understand its `classproperty`
    known: Any = message_type._betterproto  # type: ignore[arg-type]  # noqa: SLF001
    groups: dict[str, list[str]] = {}
    for name, meta in known.meta_by_field_name.items():
        if meta.group:
            groups.setdefault(meta.group, []).append(name)
    fields = []
    for name, meta in known.meta_by_field_name.items():
        element, unwrap, key_kind, value_kind = known.cls_by_field[name], meta.unwrap, "", ""
        if meta.map_meta is not None:
            key_kind, value_kind = meta.map_meta[0].proto_type, meta.map_meta[1].proto_type
            element, unwrap = known.cls_by_field[f"{name}.value"], meta.map_meta[1].unwrap
        if unwrap is not None:
            element = unwrap()
        elif (value_kind or meta.proto_type) not in ("message", "enum"):
            element = None
        field = MessageField(
            name=name,
            number=meta.number,
            kind=meta.proto_type,
            element=element,
            wrapped=unwrap is not None,
            repeated=bool(meta.repeated),
            has_presence=bool(meta.optional or meta.group) or meta.proto_type == betterproto2.TYPE_MESSAGE,
            siblings=tuple(other for other in groups.get(meta.group or "", ()) if other != name),
            key_kind=key_kind,
            value_kind=value_kind,
        )
        fields.append(field)
    return fields
