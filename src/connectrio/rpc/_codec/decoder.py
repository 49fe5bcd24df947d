"""Decoders for betterproto2 messages: a function of straight-line Python for each class, written when first needed.

They are strict where betterproto2's own parser is not: truncated values, wrong wire types and invalid varints are
errors or unknown fields, as in protobuf's parsers; the last member of a oneof wins; a message field that comes twice is
merged; nesting is bounded. Nothing but `DecodeError` comes out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from betterproto2 import Message

from connectrio.rpc._codec.fields import FORMATS, Field, fields_of, wire_type_of
from connectrio.rpc._codec.wire import (
    FIXED64,
    LENGTH,
    MAX_DEPTH,
    VARINT,
    DecodeError,
    read_length,
    read_tag,
    read_varint,
    skip_field,
)

# Of one message, nested ones included. 4 MiB can hold two million empty ones, and each takes some 500 bytes of memory
# here; this keeps one request below about 200 MB.
MAX_MESSAGES = 400_000


class Budget:
    """How many more messages may be made."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_MESSAGES

    def take_one(self) -> None:
        """:raises DecodeError: there were as many as may be"""
        self.left -= 1
        if self.left < 0:
            raise DecodeError(f"made of more than {MAX_MESSAGES} messages")


# (message to fill or None for a new one, data, position, end, depth, budget or None where it cannot run out)
Decoder: TypeAlias = Callable[[Any, bytes, int, int, int, Budget | None], Any]

_decoders: dict[type[Message], Decoder] = {}


def decode(data: bytes, message_type: type[Any]) -> Any:
    """The message of type `message_type` that `data` encodes.

    :raises DecodeError: it encodes none
    """
    # each message inside another takes two bytes at least
    budget = Budget() if len(data) >= 2 * MAX_MESSAGES else None
    try:
        return decoder_for(message_type)(None, data, 0, len(data), 1, budget)
    except IndexError as error:
        raise DecodeError("a varint is cut short") from error
    except (UnicodeDecodeError, struct.error, OverflowError) as error:
        raise DecodeError(str(error)) from error


def received_size(message: Message) -> int | None:
    """How many bytes `message` took where it was decoded; None for one that was made in this process."""
    size: int | None = getattr(message, "_received_size", None)
    return size


def decoder_for(message_type: type[Message]) -> Decoder:
    """The decoder of a class, compiled on the first call."""
    decoder = _decoders.get(message_type)
    if decoder is None:
        decoder = _decoders[message_type] = _compile(message_type)
    return decoder


class _Source:
    """The lines of a function, and the objects they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {
            "DecodeError": DecodeError,
            "read_length": read_length,
            "read_tag": read_tag,
            "read_varint": read_varint,
            "skip_field": skip_field,
        }

    def add(self, indent: int, *lines: str) -> None:
        self.lines += ["    " * indent + line for line in lines]

    def bind(self, prefix: str, value: Any) -> str:
        """A name for `value` inside the function."""
        name = f"{prefix}{len(self.names)}"
        self.names[name] = value
        return name


def _compile(message_type: type[Message]) -> Decoder:
    source = _Source()
    source.names |= {"new": message_type.__new__, "Message": message_type}
    groups = sorted({_group(field) for field in fields_of(message_type) if field.siblings})
    source.add(
        0,
        "def decode(message, data, pos, end, depth, budget):",
        f"    if depth > {MAX_DEPTH}:",
        f"        raise DecodeError('nested more than {MAX_DEPTH} deep')",
        "    if budget is not None:",
        "        budget.take_one()",
        "    if message is None:",
        *("        " + line for line in _blank(message_type, source)),
        *(f"        {group} = False" for group in groups),
        "    else:",
        "        message._received_size += end - pos",
        *(f"        {group} = True" for group in groups),
        "    unknown = None",
        "    while pos < end:",
        "        start = pos",
        "        tag = data[pos]",
        "        pos += 1",
        "        if tag > 127:",
        "            tag, pos = read_tag(data, start, end)",
    )
    keyword = "if"
    for field in fields_of(message_type):
        for tag, body in _cases(field, source):
            source.add(2, f"{keyword} tag == {tag}:")
            source.add(3, *body)
            keyword = "elif"
    source.add(2, "if True:" if keyword == "if" else "else:", *("    " + line for line in _UNKNOWN))
    source.add(1, "if unknown is not None:", "    message._unknown_fields += b''.join(unknown)", "return message")
    exec(compile("\n".join(source.lines), f"<decoder of {message_type.__name__}>", "exec"), source.names)  # noqa: S102
    decoder: Decoder = source.names["decode"]
    return decoder


def _blank(message_type: type[Message], source: _Source) -> list[str]:
    """Lines that make a message with nothing set, faster than its dataclass' constructor does."""
    fields = [f"message.{field.name} = {_unset(field, source)}" for field in fields_of(message_type)]
    return ["message = new(Message)", *fields, "message._unknown_fields = b''", "message._received_size = end - pos"]


# kept, to be written again: collected first, because adding them up one by one would take quadratic time
_UNKNOWN = (
    "pos = skip_field(data, tag, pos, end, depth)",
    "if unknown is None:",
    "    unknown = []",
    "unknown.append(data[start:pos])",
)


def _unset(field: Field, source: _Source) -> str:
    """The value of a field that is not set."""
    if field.repeated:
        return "[]"
    if field.kind == "map":
        return "{}"
    return "None" if field.has_presence else _default(field.kind, field, source)


def _cases(field: Field, source: _Source) -> list[tuple[int, list[str]]]:
    """The tags that `field` may come under, and what to do for each."""
    if field.kind == "map":
        return [(field.tag(LENGTH), _map_entry(field, source))]
    single = (field.tag(), _single(field, source))
    return [single, (field.tag(LENGTH), _packed(field, source))] if field.packable else [single]


def _single(field: Field, source: _Source) -> list[str]:
    if field.kind == "message" and not field.repeated:
        return _merged_message(field, source)
    lines = _read(field.kind, field.element, field.wrapped, source)
    if field.repeated:
        return [*lines, f"message.{field.name}.append(value)"]
    return [*lines, *_clear(field), f"message.{field.name} = value"]


def _clear(field: Field) -> list[str]:
    """Lines that unset the other members of its oneof, if any may be set."""
    if not field.siblings:
        return []
    group = _group(field)
    return [f"if {group}:", *(f"    message.{sibling} = None" for sibling in field.siblings), f"{group} = True"]


def _group(field: Field) -> str:
    """A name for whether any member of its oneof may be set."""
    return f"set_{min(field.name, *field.siblings)}"


def _merged_message(field: Field, source: _Source) -> list[str]:
    """A message field: merged into what is there already."""
    current = before = f"message.{field.name}"
    after = "value"
    if field.wrapped:
        wrapper = source.bind("Wrapper_", field.element)
        before = f"None if {current} is None else {wrapper}.from_wrapped({current})"
        after = "value.to_wrapped()"
    return [*_message(field.element, before, source), *_clear(field), f"{current} = {after}"]


def _message(element: type[Any] | None, before: str, source: _Source) -> list[str]:
    """Lines that put a message into `value`.

    :param before: what it is merged into; "None" for nothing
    """
    decode = _nested(element, source)
    return [*_LENGTH, f"value = {decode}({before}, data, pos, stop, depth + 1, budget)", "pos = stop"]


def _nested(element: type[Any] | None, source: _Source) -> str:
    """A name for what decodes a message of a class; it is compiled when the first one comes."""
    message_type: type[Message] = element or Message

    def decode_first(*arguments: Any) -> Any:
        source.names[name] = decoder = decoder_for(message_type)
        return decoder(*arguments)

    name = source.bind("decode_", decode_first)
    return name


# Most lengths and numbers are one byte. The functions do the rest, and refuse what is cut short.
_LENGTH = (
    "size = data[pos]",
    "pos += 1",
    "stop = pos + size",
    "if size > 127 or stop > end:",
    "    pos, stop = read_length(data, pos - 1, end)",
)
_VARINT = (
    "value = data[pos]",
    "pos += 1",
    "if value > 127 or pos > end:",
    "    value, pos = read_varint(data, pos - 1, end)",
)


def _read(kind: str, element: type[Any] | None, wrapped: bool, source: _Source) -> list[str]:
    """Lines that put the value at `pos` into `value`, and move `pos` behind it."""
    if kind == "message":
        lines = _message(element, "None", source)
        return [*lines, "value = value.to_wrapped()"] if wrapped else lines
    if kind == "string":
        return [*_LENGTH, "value = data[pos:stop].decode()", "pos = stop"]
    if kind == "bytes":
        return [*_LENGTH, "value = data[pos:stop]", "pos = stop"]
    if wire_type_of(kind) == VARINT:
        return [*_VARINT, *_from_varint(kind, element, source)]
    unpack = source.bind("unpack_", struct.Struct(FORMATS[kind]).unpack)
    size = 8 if wire_type_of(kind) == FIXED64 else 4
    return [f"stop = pos + {size}", f"(value,) = {unpack}(data[pos:min(stop, end)])", "pos = stop"]


def _from_varint(kind: str, element: type[Any] | None, source: _Source) -> list[str]:
    """Lines that follow `_VARINT`, and turn the 64 bits in `value` into a value of that type.

    Those that are indented belong to numbers of more than one byte.
    """
    if kind == "bool":
        return ["value = value != 0"]
    if kind == "uint64":
        return []
    if kind == "uint32":
        return ["    value &= 0xFFFFFFFF"]
    if kind in ("sint32", "sint64"):
        cut = ["    value &= 0xFFFFFFFF"] if kind == "sint32" else []
        return [*cut, "value = (value >> 1) ^ -(value & 1)"]
    if kind == "int64":
        return ["    if value > 0x7FFFFFFFFFFFFFFF:", "        value -= 1 << 64"]
    lines = ["    value &= 0xFFFFFFFF", "    if value > 0x7FFFFFFF:", "        value -= 1 << 32"]
    return [*lines, *_enum_member(element, source)] if kind == "enum" else lines


def _enum_member(element: Any, source: _Source) -> list[str]:
    """Lines that turn a number into a member of an enum, which the enum makes up where it has none."""
    members = source.bind("members_", {member.value: member for member in element})
    enum = source.bind("Enum_", element)
    return [f"member = {members}.get(value)", f"value = {enum}(value) if member is None else member"]


def _packed(field: Field, source: _Source) -> list[str]:
    read = _read(field.kind, field.element, field.wrapped, source)
    return [
        "outer = end",
        *_LENGTH,
        "end = stop",
        f"items = message.{field.name}",
        "while pos < end:",
        *("    " + line for line in read),
        "    items.append(value)",
        "end = outer",
    ]


def _map_entry(field: Field, source: _Source) -> list[str]:
    """An entry with anything else in it is kept as a whole among the unknown fields, as protobuf's parser does it."""
    key_tag = 1 << 3 | wire_type_of(field.key_kind)
    value_tag = 2 << 3 | wire_type_of(field.value_kind)
    return [
        "outer, known = end, True",
        *_LENGTH,
        "end = stop",
        f"key, entry = {_default(field.key_kind, None, source)}, None",
        "while pos < end:",
        "    tag = data[pos]",
        "    pos += 1",
        "    if tag > 127:",
        "        tag, pos = read_tag(data, pos - 1, end)",
        f"    if tag == {key_tag}:",
        *("        " + line for line in _read(field.key_kind, None, False, source)),
        "        key = value",
        f"    elif tag == {value_tag}:",
        *("        " + line for line in _read(field.value_kind, field.element, field.wrapped, source)),
        "        entry = value",
        "    else:",
        "        pos = skip_field(data, tag, pos, end, depth)",
        "        known = False",
        "end = outer",
        "if known:",
        "    if entry is None:",
        f"        entry = {_default(field.value_kind, field, source)}",
        f"    message.{field.name}[key] = entry",
        "elif unknown is None:",
        "    unknown = [data[start:pos]]",
        "else:",
        "    unknown.append(data[start:pos])",
    ]


_DEFAULTS = {"string": "''", "bytes": "b''", "bool": "False", "double": "0.0", "float": "0.0"}


def _default(kind: str, field: Field | None, source: _Source) -> str:
    if field is not None and kind in ("message", "enum"):
        element = source.bind("Default_", field.element)
        value = f"{element}()" if kind == "message" else f"{element}(0)"
        return f"{value}.to_wrapped()" if field.wrapped else value
    return _DEFAULTS.get(kind, "0")
