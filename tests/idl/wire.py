"""Writes protobuf's wire format piece by piece, right or wrong."""

from __future__ import annotations

VARINT, FIXED64, DELIMITED, GROUP_START, GROUP_END, FIXED32 = range(6)


def varint(value: int, *, length: int = 0) -> bytes:
    """A varint, made at least `length` bytes long with leading zeros."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < length:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def number(field: int, value: int) -> bytes:
    """A field that holds a varint."""
    return tag(field, VARINT) + varint(value)


def delimited(field: int, content: bytes = b"") -> bytes:
    """A field that holds a string, bytes, a message or a map entry."""
    return tag(field, DELIMITED) + varint(len(content)) + content


def fixed32(field: int, content: bytes) -> bytes:
    return tag(field, FIXED32) + content


def fixed64(field: int, content: bytes) -> bytes:
    return tag(field, FIXED64) + content
