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

from connectrio.rpc._fields import FORMATS, Field, fields_of, wire_type_of
from connectrio.rpc._wire import (
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


# (message to fill, data, position, end, depth, budget)
Decoder: TypeAlias = Callable[[Any, bytes, int, int, int, Budget], None]
Blank: TypeAlias = Callable[[], Any]

_decoders: dict[type[Message], Decoder] = {}
_blanks: dict[type[Message], Blank] = {}


def decode(data: bytes, message_type: type[Any]) -> Any:
    """The message of type `message_type` that `data` encodes.

    :raises DecodeError: it encodes none
    """
    message = blank_for(message_type)()
    try:
        decoder_for(message_type)(message, data, 0, len(data), 1, Budget())
    except (UnicodeDecodeError, struct.error, IndexError, OverflowError) as error:
        raise DecodeError(str(error)) from error
    return message


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


def blank_for(message_type: type[Message]) -> Blank:
    """A function that makes a message of a class with nothing set, faster than its dataclass' constructor does."""
    blank = _blanks.get(message_type)
    if blank is None:
        blank = _blanks[message_type] = _compile_blank(message_type)
    return blank


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
    source.add(
        0,
        "def decode(message, data, pos, end, depth, budget):",
        f"    if depth > {MAX_DEPTH}:",
        f"        raise DecodeError('nested more than {MAX_DEPTH} deep')",
        "    message._received_size += end - pos",
        "    budget.left -= 1",
        "    if budget.left < 0:",
        f"        raise DecodeError('made of more than {MAX_MESSAGES} messages')",
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
    source.add(1, "if unknown is not None:", "    message._unknown_fields += b''.join(unknown)")
    exec(compile("\n".join(source.lines), f"<decoder of {message_type.__name__}>", "exec"), source.names)  # noqa: S102
    decoder: Decoder = source.names["decode"]
    return decoder


# kept, to be written again: collected first, because adding them up one by one would take quadratic time
_UNKNOWN = (
    "pos = skip_field(data, tag, pos, end, depth)",
    "if unknown is None:",
    "    unknown = []",
    "unknown.append(data[start:pos])",
)


def _compile_blank(message_type: type[Message]) -> Blank:
    source = _Source()
    source.names |= {"new": message_type.__new__, "Message": message_type}
    source.add(0, "def blank():", "    message = new(Message)")
    for field in fields_of(message_type):
        source.add(1, f"message.{field.name} = {_unset(field, source)}")
    source.add(1, "message._unknown_fields = b''", "message._received_size = 0", "return message")
    exec(compile("\n".join(source.lines), f"<blank {message_type.__name__}>", "exec"), source.names)  # noqa: S102
    blank: Blank = source.names["blank"]
    return blank


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
    return [f"message.{sibling} = None" for sibling in field.siblings]


def _merged_message(field: Field, source: _Source) -> list[str]:
    """A message field: merged into what is there already."""
    blank, decode_into = _nested(field.element, source)
    current = f"message.{field.name}"
    if field.wrapped:
        wrapper = source.bind("Wrapper_", field.element)
        before = f"{blank}() if {current} is None else {wrapper}.from_wrapped({current})"
        after = [f"{current} = value.to_wrapped()"]
    else:
        before = f"{current} if {current} is not None else {blank}()"
        after = [f"{current} = value"]
    return [
        "pos, stop = read_length(data, pos, end)",
        f"value = {before}",
        f"{decode_into}(value, data, pos, stop, depth + 1, budget)",
        "pos = stop",
        *_clear(field),
        *after,
    ]


def _nested(element: type[Any] | None, source: _Source) -> tuple[str, str]:
    """Names for what makes and what decodes a message of a class; both are compiled when the first one comes."""
    message_type: type[Message] = element or Message

    def blank_first() -> Any:
        source.names[blank_name] = blank = blank_for(message_type)
        return blank()

    def decode_first(message: Any, data: bytes, pos: int, end: int, depth: int, budget: Budget) -> None:
        source.names[decode_name] = decoder = decoder_for(message_type)
        decoder(message, data, pos, end, depth, budget)

    blank_name, decode_name = source.bind("blank_", blank_first), source.bind("decode_", decode_first)
    return blank_name, decode_name


def _read(kind: str, element: type[Any] | None, wrapped: bool, source: _Source) -> list[str]:
    """Lines that put the value at `pos` into `value`, and move `pos` behind it."""
    if kind == "message":
        blank, decode_into = _nested(element, source)
        lines = ["pos, stop = read_length(data, pos, end)", f"value = {blank}()"]
        lines += [f"{decode_into}(value, data, pos, stop, depth + 1, budget)", "pos = stop"]
        return [*lines, "value = value.to_wrapped()"] if wrapped else lines
    if kind == "string":
        return ["pos, stop = read_length(data, pos, end)", "value = data[pos:stop].decode()", "pos = stop"]
    if kind == "bytes":
        return ["pos, stop = read_length(data, pos, end)", "value = data[pos:stop]", "pos = stop"]
    if wire_type_of(kind) == VARINT:
        return ["value, pos = read_varint(data, pos, end)", *_from_varint(kind, element, source)]
    unpack = source.bind("unpack_", struct.Struct(FORMATS[kind]).unpack)
    size = 8 if wire_type_of(kind) == FIXED64 else 4
    return [f"stop = pos + {size}", f"(value,) = {unpack}(data[pos:min(stop, end)])", "pos = stop"]


def _from_varint(kind: str, element: type[Any] | None, source: _Source) -> list[str]:
    """Lines that turn the 64 bits in `value` into a value of that type."""
    if kind == "bool":
        return ["value = value != 0"]
    if kind == "uint64":
        return []
    if kind == "uint32":
        return ["value &= 0xFFFFFFFF"]
    if kind in ("sint32", "sint64"):
        cut = ["value &= 0xFFFFFFFF"] if kind == "sint32" else []
        return [*cut, "value = (value >> 1) ^ -(value & 1)"]
    if kind == "int64":
        return ["if value > 0x7FFFFFFFFFFFFFFF:", "    value -= 1 << 64"]
    lines = ["value &= 0xFFFFFFFF", "if value > 0x7FFFFFFF:", "    value -= 1 << 32"]
    return [*lines, f"value = {source.bind('Enum_', element)}(value)"] if kind == "enum" else lines


def _packed(field: Field, source: _Source) -> list[str]:
    read = _read(field.kind, field.element, field.wrapped, source)
    return [
        "outer = end",
        "pos, end = read_length(data, pos, end)",
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
        "pos, end = read_length(data, pos, end)",
        f"key, entry = {_default(field.key_kind, None, source)}, {_default(field.value_kind, field, source)}",
        "while pos < end:",
        "    tag, pos = read_tag(data, pos, end)",
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
