"""HPACK (RFC 7541) for the header blocks that gRPC repeats.

hpack decodes a field in some thirty microseconds and checks every character of it each time; h2 then walks over the
fields seven times. A gRPC call has ten fields, of which all but one are the same in every call. Here a field is decoded
and checked once, when it enters the table, and an encoded block is kept until the table changes. Results are the same
as hpack's: tests compare the two on arbitrary bytes.
"""

from __future__ import annotations

import enum
import math
import re
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from h2.exceptions import ProtocolError
from hpack.exceptions import (
    HPACKDecodingError,
    HPACKError,
    InvalidTableIndex,
    InvalidTableSizeError,
    OversizedHeaderListError,
)
from hpack.hpack import VARINT_MAX_LENGTH, Decoder, Encoder
from hpack.huffman_table import decode_huffman
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hpack.table import HeaderTable

# RFC 7541 §4.1: what an entry counts beside its bytes
_ENTRY_OVERHEAD = 32

# How many short literals are remembered that are not put into the table; nghttp2 sends paths like this.
_REMEMBERED_FIELDS = 512
_LONGEST_REMEMBERED = 128  # bytes

# Blocks are remembered per connection. A server has a handful: the response's headers, and the trailers of success.
_REMEMBERED_BLOCKS = 32

# characters; saving a quarter of a long text is not worth hpack's half a microsecond for each character of it
_LONGEST_HUFFMAN = 512

# These differ in each call: in the table they would push out what repeats.
_VOLATILE = frozenset(["grpc-timeout", "grpc-message", "grpc-status-details-bin"])

# digits of a content-length; Python refuses to convert thousands, and 2⁶³ has 19
_LONGEST_LENGTH = 19

# RFC 9113 §8.2.1 and §8.2.2
_NAME = re.compile(rb"[!-9;-@\[-~]+")
_FORBIDDEN_IN_VALUE = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]\Z")
_SPECIAL_NAMES = frozenset(
    [b"connection", b"cookie", b"host", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"]
)
_PSEUDO_NAMES = frozenset([b":method", b":scheme", b":authority", b":path", b":status"])


class OversizedListError(ProtocolError):
    """A whole header list was decoded, and is larger than we accept. It can be refused without harm to other streams.

    :ivar size: bytes, as RFC 9113 §6.5.2 counts them
    """

    def __init__(self, size: int, limit: float) -> None:
        super().__init__(f"headers of {size} bytes, more than the {limit} of max_header_list_size")
        self.size = size


class FieldKind(enum.IntEnum):
    """Whether a field can be accepted without h2's checks."""

    DOUBTFUL = 0  # it may be right, but h2 must check it and its block
    PLAIN = 1
    PSEUDO = 2
    CONTENT_LENGTH = 3


class HeaderField(NamedTuple):
    """A header field, decoded.

    :ivar name: as it came
    :ivar value: as it came
    :ivar text: name and value as text, latin-1, so that no byte is refused
    :ivar kind: what was found when it was examined
    :ivar is_secret: sent so that it is never put into a table
    """

    name: bytes
    value: bytes
    text: tuple[str, str]
    kind: FieldKind
    is_secret: bool

    def as_header(self, *, raw: bool) -> HeaderTuple:
        """Return the field as hpack does.

        :param raw: bytes, not text
        :raises UnicodeDecodeError: text was asked for, and the field is not UTF-8
        """
        kind = NeverIndexedHeaderTuple if self.is_secret else HeaderTuple
        return kind(self.name, self.value) if raw else kind(self.name.decode(), self.value.decode())


def _examine(name: bytes, value: bytes, is_secret: bool = False) -> HeaderField:
    return HeaderField(name, value, (name.decode("latin-1"), value.decode("latin-1")), _kind_of(name, value), is_secret)


def _kind_of(name: bytes, value: bytes) -> FieldKind:
    if _FORBIDDEN_IN_VALUE.search(value) is not None:
        return FieldKind.DOUBTFUL
    if name in _PSEUDO_NAMES:
        return FieldKind.PSEUDO if value else FieldKind.DOUBTFUL
    if name == b"content-length":
        return FieldKind.CONTENT_LENGTH if value.isdigit() and len(value) <= _LONGEST_LENGTH else FieldKind.DOUBTFUL
    if _NAME.fullmatch(name) is None or name in _SPECIAL_NAMES or (name == b"te" and value != b"trailers"):
        return FieldKind.DOUBTFUL
    return FieldKind.PLAIN


_remembered_field = lru_cache(_REMEMBERED_FIELDS)(_examine)
_remembered_text = lru_cache(_REMEMBERED_FIELDS)(decode_huffman)

_STATIC = tuple(_examine(name, value) for name, value in HeaderTable.STATIC_TABLE)
_STATIC_LENGTH = len(_STATIC)


class HeaderDecoder(Decoder):
    """A decoder whose table holds fields that are decoded and checked already.

    A list larger than `max_header_list_size` is not decoded to its end, so that the connection cannot go on.

    :ivar accepted_list_size: bytes, as RFC 9113 §6.5.2 counts them; a larger list is decoded, and then refused
    :ivar list_size: bytes of the list that was decoded last
    """

    def __init__(self) -> None:
        super().__init__()
        self.accepted_list_size: float = math.inf
        self.list_size = 0
        self._entries: deque[HeaderField] = deque()
        self._size = 0
        self._max_size = HeaderTable.DEFAULT_SIZE
        self._decoded: tuple[bytes, list[HeaderField] | HPACKError] | None = None

    @property
    def header_table_size(self) -> int:
        """Bytes, as RFC 7541 §4.1 counts them; what the table may hold."""
        return self._max_size

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        self._max_size = value
        self._evict()

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """Decode a block, as `hpack.Decoder.decode` does. A block that was given to `remember` is not decoded twice.

        :raises HPACKError: the block is malformed, or larger than it may be; the connection cannot go on
        :raises OversizedListError: the list is larger than `accepted_list_size`
        """
        decoded, self._decoded = self._decoded, None
        fields = decoded[1] if decoded is not None and decoded[0] is data else self.decode_fields(data)
        if isinstance(fields, HPACKError):
            raise fields
        if self.list_size > self.accepted_list_size:
            raise OversizedListError(self.list_size, self.accepted_list_size)
        try:
            return [field.as_header(raw=raw) for field in fields]
        except UnicodeDecodeError as error:
            raise HPACKDecodingError("Unable to decode headers as UTF-8") from error

    def remember(self, data: bytes, outcome: list[HeaderField] | HPACKError) -> None:
        """Keep the result of `decode_fields` for the next `decode`, if that gets the same block."""
        self._decoded = data, outcome

    def decode_fields(self, data: bytes) -> list[HeaderField]:  # noqa: C901 - each call here would cost as much as a field
        """Return the fields of a whole block, in order. Call it once for each block, because it changes the table.

        :raises HPACKError: see `decode`
        """
        fields: list[HeaderField] = []
        entries = self._entries
        position, end, size = 0, len(data), 0
        while position < end:
            byte = data[position]
            if byte > 0x80 and byte != 0xFF:  # the whole index is in this byte, as most are
                position += 1
                index = byte & 0x7F
                if index <= _STATIC_LENGTH:
                    field = _STATIC[index - 1]
                elif index <= _STATIC_LENGTH + len(entries):
                    field = entries[index - _STATIC_LENGTH - 1]
                else:
                    field = self._entry(index)
            elif byte >= 0x80:
                index, position = _integer(data, position, 0x7F)
                field = self._entry(index)
            elif byte >= 0x40:
                field, position = self._literal(data, position, 0x3F)
                self._insert(field)
            elif byte >= 0x20:
                if fields:
                    raise HPACKDecodingError("Table size update not at the start of the block")
                position = self._resize(data, position)
                continue
            else:
                field, position = self._literal(data, position, 0x0F)
            fields.append(field)
            size += _ENTRY_OVERHEAD + len(field.name) + len(field.value)
            if size > self.max_header_list_size:
                raise OversizedHeaderListError(
                    f"A header list larger than {self.max_header_list_size} has been received"
                )
        if self._max_size > self.max_allowed_table_size:
            raise InvalidTableSizeError("Encoder did not shrink table size to within the max")
        self.list_size = size
        return fields

    def _entry(self, index: int) -> HeaderField:
        if 0 < index <= _STATIC_LENGTH:
            return _STATIC[index - 1]
        if not 0 < index <= _STATIC_LENGTH + len(self._entries):
            raise InvalidTableIndex(f"Invalid table index {index}")
        return self._entries[index - _STATIC_LENGTH - 1]

    def _literal(self, data: bytes, position: int, mask: int) -> tuple[HeaderField, int]:
        is_secret = mask == 0x0F and bool(data[position] & 0x10)
        if data[position] & mask:
            index, position = _integer(data, position, mask)
            name = self._entry(index).name
        else:
            name, position = _string(data, position + 1, is_secret)
        value, position = _string(data, position, is_secret)
        remember = not is_secret and len(name) + len(value) <= _LONGEST_REMEMBERED
        return (_remembered_field if remember else _examine)(name, value, is_secret), position

    def _insert(self, field: HeaderField) -> None:
        self._entries.appendleft(field)
        self._size += _ENTRY_OVERHEAD + len(field.name) + len(field.value)
        if self._size > self._max_size:
            self._evict()

    def _evict(self) -> None:
        while self._size > self._max_size:
            field = self._entries.pop()
            self._size -= _ENTRY_OVERHEAD + len(field.name) + len(field.value)

    def _resize(self, data: bytes, position: int) -> int:
        size, position = _integer(data, position, 0x1F)
        if size > self.max_allowed_table_size:
            raise InvalidTableSizeError("Encoder exceeded max allowable table size")
        self.header_table_size = size
        return position


def _integer(data: bytes, position: int, mask: int) -> tuple[int, int]:
    """Return the integer that begins in the bits of `mask`, and the position after it (RFC 7541 §5.1)."""
    try:
        number = data[position] & mask
        position += 1
        if number < mask:
            return number, position
        for shift in range(0, 7 * VARINT_MAX_LENGTH, 7):
            byte = data[position]
            position += 1
            number += (byte & 0x7F) << shift
            if byte < 0x80:
                return number, position
    except IndexError as error:
        raise HPACKDecodingError("Unable to decode HPACK integer representation: the block ends in it") from error
    raise HPACKDecodingError("Variable integer representation is too long")


def _string(data: bytes, position: int, is_secret: bool) -> tuple[bytes, int]:
    """Return the string at `position`, and the position after it (RFC 7541 §5.2)."""
    is_huffman = position < len(data) and data[position] >= 0x80
    length, position = _integer(data, position, 0x7F)
    text = data[position : position + length]
    if len(text) != length:
        raise HPACKDecodingError("Truncated header block")
    if is_huffman:
        text = (decode_huffman if is_secret or length > _LONGEST_REMEMBERED else _remembered_text)(text)
    return text, position + length


class _CountingTable(HeaderTable):
    """A table that counts its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)


class HeaderEncoder(Encoder):
    """An encoder that keeps the blocks it has made, and leaves out of its table what no other call will send."""

    def __init__(self) -> None:
        super().__init__()
        self.header_table: _CountingTable = _CountingTable()
        self._blocks: dict[tuple[tuple[str, str], ...], bytes] = {}
        self._changes = 0

    def encode_block(self, headers: Iterable[tuple[str, str]]) -> bytes:
        """Return the header block of `headers`; what repeats goes into the table, so that it takes one byte next time.

        Spaces around values are stripped: gRPC allows it, and HTTP/2 peers may end the connection over them (RFC 9113
        §8.2.1).

        :param headers: lower-case names, latin-1 values
        """
        table, key = self.header_table, tuple(headers)
        if table.resized:
            self._changes = -1
        if self._changes == table.changes:
            block = self._blocks.get(key)
            if block is not None:
                return block
        changes = table.changes
        is_short = sum(len(value) for _, value in key) <= _LONGEST_HUFFMAN
        block = self.encode([_for_encoding(name, value) for name, value in key], huffman=is_short)
        if changes != table.changes or self._changes != changes or len(self._blocks) >= _REMEMBERED_BLOCKS:
            self._blocks.clear()
            self._changes = table.changes
        if changes == table.changes and not any(name in _VOLATILE for name, _ in key):
            self._blocks[key] = block
        return block


def _for_encoding(name: str, value: str) -> HeaderTuple:
    kind = NeverIndexedHeaderTuple if name in _VOLATILE else HeaderTuple
    return kind(name.encode("latin-1"), value.strip(" ").encode("latin-1"))
