"""Decoders for betterproto2 messages: for each class a function of straight-line Python, generated on first use.

They are strict where betterproto2's own parser is not: truncated values, wrong wire types and invalid varints are
errors or unknown fields, as in protobuf's parsers; the last member of a oneof wins; a message field that comes twice is
merged; nesting is bounded. The only error they raise is `DecodeError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from betterproto2 import Message

from connectrio.rpc._codec.fields import STRUCT_FORMATS, WIRE_TYPES, MessageField, fields_of
from connectrio.rpc._codec.times import TimeField, is_time, item_to_python
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

# In one message, nested ones included. 4 MiB can hold two million empty ones, and each takes some 500 bytes of memory
# here; this keeps one request below about 200 MB.
MAX_MESSAGES = 400_000


# (message to fill or None for a new one, data, position, end, depth, [how many more messages may be made])
Decoder: TypeAlias = Callable[[Any, bytes, int, int, int, list[int]], Any]
Names: TypeAlias = dict[str, Any]  # the global names of a generated function


def decode(data: bytes, message_type: type[Any]) -> Any:
    """Return the message of type `message_type` that `data` encodes.

    :raises DecodeError: `data` is not such a message
    """
    left = [MAX_MESSAGES]
    try:
        message = decoder_for(message_type)(None, data, 0, len(data), 1, left)  # type: ignore[arg-type]  # every class is hashable
    except IndexError as error:
        raise DecodeError("a varint is cut short") from error
    except (UnicodeDecodeError, struct.error, OverflowError) as error:
        raise DecodeError(str(error)) from error
    message._received_messages = MAX_MESSAGES - left[0]  # noqa: SLF001 - our own addition
    return message


def received_messages(message: object) -> int:
    """Return of how many messages `message` was made when it was decoded, nested ones included; 0 if it was not."""
    return getattr(message, "_received_messages", 0)


def received_size(message: Message) -> int | None:
    """Return how many bytes `message` was decoded from; None if it was made in this process."""
    size: int | None = getattr(message, "_received_size", None)
    return size


@cache
def decoder_for(message_type: type[Message]) -> Decoder:
    """Return the decoder of a class; the first call compiles it."""
    fields = fields_of(message_type)
    groups = sorted({_group(field) for field in fields if field.siblings})
    names: Names = {
        "DecodeError": DecodeError,
        "read_length": read_length,
        "read_tag": read_tag,
        "read_varint": read_varint,
        "skip_field": skip_field,
        "new": message_type.__new__,
        "Message": message_type,
    }
    lines = [
        "def decode(message, data, pos, end, depth, left):",
        f"    if depth > {MAX_DEPTH}:",
        f"        raise DecodeError('nested more than {MAX_DEPTH} deep')",
        "    left[0] -= 1",
        "    if left[0] < 0:",
        f"        raise DecodeError('made of more than {MAX_MESSAGES} messages')",
        "    if message is None:",
        # an unset message, made faster than by the constructor of its dataclass
        "        message = new(Message)",
        *(f"        message.{field.name} = {_unset_value(field, names)}" for field in fields),
        "        message._unknown_fields = b''",
        "        message._received_size = end - pos",
        *(f"        {group} = False" for group in groups),
        "    else:",
        # the size of a message that was made here, for a value that this one is merged with, is not known
        "        message._received_size = getattr(message, '_received_size', 0) + end - pos",
        *(f"        {group} = True" for group in groups),
        "    unknown = None",
        "    while pos < end:",
        "        start = pos",
        "        tag = data[pos]",
        "        pos += 1",
        "        if tag > 127:",
        "            tag, pos = read_tag(data, start, end)",
    ]
    keyword = "if"
    for field in fields:
        for tag, body in _tag_cases(message_type, field, names):
            lines += [f"        {keyword} tag == {tag}:", *("            " + line for line in body)]
            keyword = "elif"
    lines += [
        "        if True:" if keyword == "if" else "        else:",
        # unknown fields are kept, to be written again: in a list, because joining them one by one takes quadratic time
        "            pos = skip_field(data, tag, pos, end, depth)",
        "            if unknown is None:",
        "                unknown = []",
        "            unknown.append(data[start:pos])",
        "    if unknown is not None:",
        "        message._unknown_fields += b''.join(unknown)",
        "    return message",
    ]
    exec(compile("\n".join(lines), f"<decoder of {message_type.__name__}>", "exec"), names)  # noqa: S102
    decoder: Decoder = names["decode"]
    return decoder


def _bind(names: Names, prefix: str, value: Any) -> str:
    """Return a new name for `value` inside the generated function."""
    name = f"{prefix}{len(names)}"
    names[name] = value
    return name


def _group(field: MessageField) -> str:
    """Return the name of the local variable that says whether any member of the field's oneof may be set."""
    return f"set_{min(field.name, *field.siblings)}"


def _unset_value(field: MessageField, names: Names) -> str:
    """Return the expression for the value of a field that is not set."""
    if field.repeated:
        return "[]"
    if field.kind == "map":
        return "{}"
    return "None" if field.has_presence else _default(field.kind, field, names)


def _tag_cases(message_type: type[Message], field: MessageField, names: Names) -> list[tuple[int, list[str]]]:
    """Return the tags that `field` may come under, and the lines that read it after each."""
    if field.kind == "map":
        return [(field.tag(LENGTH), _map_entry(field, names))]
    target = f"message.{field.name}"
    if field.repeated:
        read = [*_read_value(field.kind, field.element, "None", names), *_unwrap(field, "value", names)]
        cases = [(field.tag(), [*read, f"{target}.append(value)"])]
        if field.packable:
            items = [
                f"items = {target}",
                "while pos < end:",
                *("    " + line for line in read),
                "    items.append(value)",
            ]
            cases.append((field.tag(LENGTH), ["outer = end", *_LENGTH, "end = stop", *items, "end = outer"]))
        return cases
    clear = []
    if field.siblings:
        group = _group(field)
        clear = [f"if {group}:", *(f"    message.{sibling} = None" for sibling in field.siblings), f"{group} = True"]
    if field.kind != "message":
        return [(field.tag(), [*_read_value(field.kind, field.element, "", names), *clear, f"{target} = value"])]
    # merged into the message that the field holds already
    if is_time(field):
        time = _bind(names, "time_", TimeField.of(message_type, field))
        read = _read_message(field.element, f"{time}.read_message(message)", names)
        return [(field.tag(), [*read, *clear, f"{time}.write(message, value)"])]
    before = target
    if field.wrapped:
        wrapper = _bind(names, "Wrapper_", field.element)
        before = f"None if {target} is None else {wrapper}.from_wrapped({target})"
    read = [*_read_message(field.element, before, names), *_unwrap(field, "value", names)]
    return [(field.tag(), [*read, *clear, f"{target} = value"])]


def _unwrap(field: MessageField, variable: str, names: Names) -> list[str]:
    """Return the lines that turn a wrapper in that variable, an item of a list or map, into Python's value."""
    if is_time(field):
        return [f"{variable} = {_bind(names, 'item_', item_to_python)}(message, {variable})"]
    return [f"{variable} = {variable}.to_wrapped()"] if field.wrapped else []


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


def _read_value(kind: str, element: type[Any] | None, before: str, names: Names) -> list[str]:
    """Return the lines that put the value at `pos` into `value`, and move `pos` behind it.

    :param before: for a message, what it is merged into, as in `_read_message`
    """
    if kind == "message":
        return _read_message(element, before, names)
    if kind == "string":
        return [*_LENGTH, "value = data[pos:stop].decode()", "pos = stop"]
    if kind == "bytes":
        return [*_LENGTH, "value = data[pos:stop]", "pos = stop"]
    if WIRE_TYPES[kind] == VARINT:
        return [*_VARINT, *_convert_varint(kind, element, names)]
    unpack = _bind(names, "unpack_", struct.Struct(STRUCT_FORMATS[kind]).unpack)
    size = 8 if WIRE_TYPES[kind] == FIXED64 else 4
    return [f"stop = pos + {size}", f"(value,) = {unpack}(data[pos:min(stop, end)])", "pos = stop"]


def _read_message(element: type[Any] | None, before: str, names: Names) -> list[str]:
    """Return the lines that put a message into `value`.

    :param before: the message that it is merged into; "None" for none
    """
    message_type: type[Message] = element or Message

    def decode_first(*arguments: Any) -> Any:
        # compiled when the first one comes: a message may contain its own class
        names[name] = decoder = decoder_for(message_type)
        return decoder(*arguments)

    name = _bind(names, "decode_", decode_first)
    return [*_LENGTH, f"value = {name}({before}, data, pos, stop, depth + 1, left)", "pos = stop"]


def _convert_varint(kind: str, element: Any, names: Names) -> list[str]:
    """Return the lines that follow `_VARINT`, and turn the 64 bits in `value` into a value of that type.

    The indented ones belong to numbers of more than one byte.
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
    if kind != "enum":
        return lines
    members = _bind(names, "members_", {member.value: member for member in element})
    enum = _bind(names, "Enum_", element)  # makes a new member for a number that has none
    return [*lines, f"member = {members}.get(value)", f"value = {enum}(value) if member is None else member"]


def _map_entry(field: MessageField, names: Names) -> list[str]:
    """Return the lines that read a map's entry.

    An entry that holds an unknown field is kept as a whole among the unknown fields, as in protobuf's parser.
    """
    key_tag = 1 << 3 | WIRE_TYPES[field.key_kind]
    value_tag = 2 << 3 | WIRE_TYPES[field.value_kind]
    return [
        "outer, known = end, True",
        *_LENGTH,
        "end = stop",
        f"key, entry = {_default(field.key_kind, None, names)}, None",
        "while pos < end:",
        "    tag = data[pos]",
        "    pos += 1",
        "    if tag > 127:",
        "        tag, pos = read_tag(data, pos - 1, end)",
        f"    if tag == {key_tag}:",
        *("        " + line for line in _read_value(field.key_kind, None, "", names)),
        "        key = value",
        f"    elif tag == {value_tag}:",
        *("        " + line for line in _read_value(field.value_kind, field.element, "entry", names)),
        "        entry = value",
        "    else:",
        "        pos = skip_field(data, tag, pos, end, depth)",
        "        known = False",
        "end = outer",
        "if known:",
        "    if entry is None:",
        f"        entry = {_default(field.value_kind, field, names)}",
        *("    " + line for line in _unwrap(field, "entry", names)),
        f"    message.{field.name}[key] = entry",
        "elif unknown is None:",
        "    unknown = [data[start:pos]]",
        "else:",
        "    unknown.append(data[start:pos])",
    ]


_DEFAULTS = {"string": "''", "bytes": "b''", "bool": "False", "double": "0.0", "float": "0.0"}


def _default(kind: str, field: MessageField | None, names: Names) -> str:
    """Return the expression for the default value of a type.

    :param field: the field whose `element` a message or an enum is; None for the key of a map
    """
    if field is not None and kind in ("message", "enum"):
        element = _bind(names, "Default_", field.element)
        return f"{element}()" if kind == "message" else f"{element}(0)"
    return _DEFAULTS.get(kind, "0")
