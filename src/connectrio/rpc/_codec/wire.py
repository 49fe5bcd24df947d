"""Protobuf's wire format: varints, tags, and how to skip unknown fields.

Source: protobuf's encoding document. Malformed data raise `DecodeError`; there are no other errors.
"""

from __future__ import annotations

VARINT, FIXED64, LENGTH, GROUP, GROUP_END, FIXED32 = range(6)

# levels of messages in messages, as in protobuf's own parsers
MAX_DEPTH = 100

_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
_LARGEST_TAG = (1 << 32) - 1
_LONGEST_TAG = 5  # bytes, which hold 32 bits; the same for lengths


class DecodeError(ValueError):
    """The bytes are not a message of the expected type."""


def read_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Return the varint at `pos`, cut to 64 bits, and the position after it."""
    if pos < end and data[pos] < 0x80:
        return data[pos], pos + 1
    result = shift = 0
    while pos < end:
        byte = data[pos]
        pos += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, pos
        shift += 7
        if shift > 63:
            raise DecodeError("a varint is longer than ten bytes")
    raise DecodeError("a varint is cut short")


def read_tag(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Return the tag at `pos`, and the position after it."""
    tag, stop = read_varint(data, pos, end)
    if stop - pos > _LONGEST_TAG:
        raise DecodeError(f"a tag is longer than {_LONGEST_TAG} bytes")
    return tag, stop


def read_length(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Return where the length-delimited value at `pos` begins and ends."""
    size, begin = read_varint(data, pos, end)
    if begin - pos > _LONGEST_TAG:
        raise DecodeError(f"a length is longer than {_LONGEST_TAG} bytes")
    if begin + size > end:
        raise DecodeError(f"a value of {size} bytes is cut short: {end - begin} are left")
    return begin, begin + size


def skip_field(data: bytes, tag: int, pos: int, end: int, depth: int) -> int:
    """Return the position after the value of an unknown field.

    :param pos: where the value begins, after its tag
    """
    if tag > _LARGEST_TAG or tag >> 3 == 0:
        raise DecodeError(f"{tag >> 3} is not a field number")
    kind = tag & 7
    if kind == VARINT:
        return read_varint(data, pos, end)[1]
    if kind == LENGTH:
        return read_length(data, pos, end)[1]
    if kind == GROUP:
        return _skip_group(data, tag >> 3, pos, end, depth + 1)
    size = _FIXED_SIZES.get(kind)
    if size is None:
        raise DecodeError(f"field {tag >> 3} has wire type {kind}, which does not exist")
    if pos + size > end:
        raise DecodeError(f"a value of {size} bytes is cut short: {end - pos} are left")
    return pos + size


def _skip_group(data: bytes, number: int, pos: int, end: int, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise DecodeError(f"nested more than {MAX_DEPTH} deep")
    while True:
        tag, pos = read_tag(data, pos, end)
        if tag & 7 == GROUP_END:
            if tag >> 3 != number:
                raise DecodeError(f"group {number} is ended by group {tag >> 3}")
            return pos
        pos = skip_field(data, tag, pos, end, depth)


def encode_varint(value: int) -> bytes:
    """Return `value`, at most 64 bits, as a varint; negative numbers in two's complement."""
    if value < 0:
        value += 1 << 64
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# the lengths and tags that most messages have; every thousand takes 55 kB
SMALL_VARINTS = tuple(encode_varint(value) for value in range(1 << 11))
