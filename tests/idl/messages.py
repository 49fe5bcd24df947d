"""Random protobuf messages, and the same messages in betterproto2's classes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from idl import wire

M = TypeVar("M", bound=Message)
Draw = Callable[[st.SearchStrategy[Any]], Any]

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
SCALARS = {
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_INT64: INT64,
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_STRING: st.text(max_size=8),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
}
MOST_FIELDS = 4
MOST_ITEMS = 3


def messages(cls: type[M], depth: int = 6) -> st.SearchStrategy[M]:
    """Messages of this class, at most `depth` levels deep and with few fields set on each level."""

    @st.composite
    def filled(draw: Draw) -> M:
        message = cls()
        fill(draw, message, depth)
        return message

    return filled()


def fill(draw: Draw, message: Message, depth: int) -> None:
    """Set some fields of an empty message. At depth 0 it stays empty."""
    if depth == 0 or not message.DESCRIPTOR.fields:
        return
    fields = list(message.DESCRIPTOR.fields)
    for field in draw(st.lists(st.sampled_from(fields), unique_by=field_number, max_size=MOST_FIELDS)):
        if is_map(field):
            fill_map(draw, getattr(message, field.name), field.message_type, depth)
        elif field.is_repeated:
            fill_list(draw, getattr(message, field.name), field, depth)
        elif field.message_type:
            getattr(message, field.name).SetInParent()
            fill(draw, getattr(message, field.name), depth - 1)
        else:
            setattr(message, field.name, draw(scalars(field)))


def fill_map(draw: Draw, items: Any, entry: Descriptor, depth: int) -> None:
    key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
    for name in draw(st.lists(scalars(key), max_size=MOST_ITEMS)):
        if value.message_type:
            fill(draw, items[name], depth - 1)
        else:
            items[name] = draw(scalars(value))


def fill_list(draw: Draw, items: Any, field: FieldDescriptor, depth: int) -> None:
    for _ in range(draw(st.integers(0, MOST_ITEMS))):
        if field.message_type:
            fill(draw, items.add(), depth - 1)
        else:
            items.append(draw(scalars(field)))


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of a field that is no message. Enums are open: any 32-bit number may arrive."""
    if field.enum_type:
        return st.sampled_from([value.number for value in field.enum_type.values]) | INT32
    return SCALARS[field.type]


def field_number(field: FieldDescriptor) -> int:
    return field.number


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def unknown_fields() -> st.SearchStrategy[bytes]:
    """Encoded fields with numbers that no message of Flyte's uses."""
    numbers = st.integers(1000, 2**29 - 1)
    field = st.one_of(
        st.builds(wire.number, numbers, st.integers(0, 2**64 - 1)),
        st.builds(wire.delimited, numbers, st.binary(max_size=8)),
        st.builds(wire.fixed32, numbers, st.binary(min_size=4, max_size=4)),
        st.builds(wire.fixed64, numbers, st.binary(min_size=8, max_size=8)),
    )
    return st.lists(field, max_size=2).map(b"".join)


def parts(message: Message) -> Iterator[Message]:
    """The message and all messages in it, but those that are plain Python values in our classes."""
    if is_wrapper(message.DESCRIPTOR):
        return
    yield message
    for field, value in message.ListFields():
        for item in items_of(field, value):
            yield from parts(item)


def items_of(field: FieldDescriptor, value: Any) -> list[Message]:
    """The messages that a field holds."""
    if is_map(field):
        return list(value.values()) if field.message_type.fields_by_name["value"].message_type else []
    if not field.message_type:
        return []
    return list(value) if field.is_repeated else [value]


def is_wrapper(descriptor: Descriptor | None) -> bool:
    """True for the message that is a plain value, or None, in our classes."""
    return descriptor is not None and descriptor.full_name == "google.protobuf.BoolValue"


def class_of(descriptor: Descriptor | EnumDescriptor) -> Any:
    """Our class for a protobuf message or an enum. For one of Flyte 1 it may be Flyte 2's, see test_flyte1."""
    package = descriptor.file.package
    wanted = descriptor.full_name.removeprefix(package).replace(".", "").lower()
    classes = vars(importlib.import_module(f"connectrio.idl.{package}"))
    return next(value for name, value in classes.items() if name.lower() == wanted)


def mirror(message: Message) -> Any:
    """The same message in our class, set field by field, with no bytes in between."""
    cls = class_of(message.DESCRIPTOR)
    mirrored = cls()
    for field, value in message.ListFields():
        setattr(mirrored, cls._betterproto.field_name_by_number[field.number], mirrored_value(field, value))
    return mirrored


def mirrored_value(field: FieldDescriptor, value: Any) -> Any:
    if is_map(field):
        values = field.message_type.fields_by_name["value"]
        return {key: mirrored_item(values, value[key]) for key in value}
    if field.is_repeated:
        return [mirrored_item(field, item) for item in value]
    return mirrored_item(field, value)


def mirrored_item(field: FieldDescriptor, value: Any) -> Any:
    if is_wrapper(field.message_type):
        return value.value
    return mirror(value) if field.message_type else value


def canonical(message: Message) -> bytes:
    """Equal for equal messages, NaN and unknown fields included."""
    return message.SerializeToString(deterministic=True)
