"""What there can be in encoded bytes that betterproto2 treats otherwise than protobuf does.

`deviations` names the kinds. test_betterproto2_deviations.py shows what happens for each of them, and
test_betterproto2_agreement.py that there are no others.
"""

from __future__ import annotations

import contextlib
from enum import StrEnum

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from idl.messages import is_wrapper
from idl.wire import DELIMITED, FIXED32, FIXED64, VARINT

DEEPEST = 100
LONGEST_TAG = LONGEST_LENGTH = 5
LONGEST_VARINT = 10
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: FIXED64,
    FieldDescriptor.TYPE_STRING: DELIMITED,
    FieldDescriptor.TYPE_BYTES: DELIMITED,
    FieldDescriptor.TYPE_MESSAGE: DELIMITED,
}


class Deviation(StrEnum):
    # protobuf refuses these, betterproto2 reads something
    CUT_OFF = "a field is longer than what is left"
    CUT_OFF_TAG = "a tag is cut off"
    FIELD_NUMBER = "a field number is 0 or has more than 29 bits"
    LONG_VARINT = "a tag or a length takes more than 5 bytes"
    TOO_DEEP = "messages are nested more than 100 deep"
    # protobuf refuses some of these and keeps the others as unknown fields
    GROUP = "a wire type is that of a group, or undefined"
    # protobuf keeps these as unknown fields
    WIRE_TYPE = "a known field has another field's wire type"
    LOST = "a map entry or a wrapper has an unknown field"
    # both read these, and differently
    MERGED = "a message field that is not repeated comes twice"
    ONEOF = "two members of a oneof are there"
    NO_VALUE = "a map entry has no message in it"
    ENUM = "an enum value has more than 32 bits"
    BOOL = "a bool has more than 64 bits"


class BothRefuseError(Exception):
    """There is nothing to learn from what follows: both libraries refuse the bytes, or a deviation hides the rest."""


class Scanner:
    """Walks through the fields of one message and collects the deviations in it.

    :raises BothRefuseError: and leaves the deviations found until then in `found`
    """

    def __init__(self, data: bytes, message: Descriptor, found: set[Deviation], depth: int = 0) -> None:
        self.data = data
        self.message = message
        self.found = found
        self.depth = depth
        self.at = 0
        self.seen: set[int] = set()
        self.seen_of_oneof: dict[str, int] = {}

    def scan(self) -> None:
        if self.depth > DEEPEST:
            self.found.add(Deviation.TOO_DEEP)
        while self.at < len(self.data):
            number, wire_type = self.tag()
            field = self.message.fields_by_number.get(number)
            if field and wire_type == WIRE_TYPES.get(field.type, VARINT):
                self.known(field)
            else:
                self.unknown(field, wire_type)
        if self.is_map_entry and self.message.fields_by_number[2].message_type and 2 not in self.seen:
            self.found.add(Deviation.NO_VALUE)

    @property
    def is_map_entry(self) -> bool:
        return self.message.GetOptions().map_entry

    def tag(self) -> tuple[int, int]:
        try:
            value, length = self.varint()
        except BothRefuseError:
            if len(self.data) - self.at < LONGEST_VARINT:
                self.found.add(Deviation.CUT_OFF_TAG)
            raise
        if length > LONGEST_TAG:
            self.found.add(Deviation.LONG_VARINT)
        if not 1 <= value >> 3 < 2**29:
            self.found.add(Deviation.FIELD_NUMBER)
        return value >> 3, value & 7

    def varint(self) -> tuple[int, int]:
        """The value of a varint, and how many bytes it took."""
        value = 0
        for length, byte in enumerate(self.data[self.at : self.at + LONGEST_VARINT], start=1):
            value |= (byte & 0x7F) << 7 * (length - 1)
            if byte < 0x80:
                self.at += length
                return value, length
        raise BothRefuseError

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            self.found.add(Deviation.CUT_OFF)
            raise BothRefuseError
        self.at += length
        return self.data[self.at - length : self.at]

    def delimited(self) -> bytes:
        length, length_of_length = self.varint()
        if length_of_length > LONGEST_LENGTH:
            self.found.add(Deviation.LONG_VARINT)
        return self.take(length)

    def unknown(self, field: FieldDescriptor | None, wire_type: int) -> None:
        """A field that protobuf does not know, or not in this form: it is kept as it is."""
        if wire_type not in (VARINT, DELIMITED, *FIXED_SIZES):
            self.found.add(Deviation.GROUP)
            raise BothRefuseError
        if field:
            self.found.add(Deviation.WIRE_TYPE)
        elif self.is_map_entry or is_wrapper(self.message):
            self.found.add(Deviation.LOST)
        self.skip(wire_type)

    def skip(self, wire_type: int) -> None:
        if wire_type == VARINT:
            self.varint()
        elif wire_type == DELIMITED:
            self.delimited()
        else:
            self.take(FIXED_SIZES[wire_type])

    def known(self, field: FieldDescriptor) -> None:
        self.note(field)
        match field.type:
            case FieldDescriptor.TYPE_MESSAGE:
                Scanner(self.delimited(), field.message_type, self.found, self.depth + 1).scan()
            case FieldDescriptor.TYPE_STRING:
                self.string()
            case FieldDescriptor.TYPE_BYTES:
                self.delimited()
            case FieldDescriptor.TYPE_DOUBLE:
                self.take(FIXED_SIZES[FIXED64])
            case _:
                self.number(field)

    def note(self, field: FieldDescriptor) -> None:
        """Remember that the field was there."""
        if field.message_type and not field.is_repeated and field.number in self.seen:
            self.found.add(Deviation.MERGED)
        self.seen.add(field.number)
        if field.containing_oneof:
            before = self.seen_of_oneof.setdefault(field.containing_oneof.name, field.number)
            if before != field.number:
                self.found.add(Deviation.ONEOF)

    def string(self) -> None:
        try:
            self.delimited().decode()
        except UnicodeDecodeError as error:
            raise BothRefuseError from error

    def number(self, field: FieldDescriptor) -> None:
        value, _ = self.varint()
        if field.type == FieldDescriptor.TYPE_BOOL and value >= 2**64:
            self.found.add(Deviation.BOOL)
        if field.type == FieldDescriptor.TYPE_ENUM and 2**31 <= value % 2**64 < 2**64 - 2**31:
            self.found.add(Deviation.ENUM)


def deviations(data: bytes, message: Descriptor) -> set[Deviation]:
    """The kinds that occur in `data`, read as this message.

    If there are none, then both libraries refuse `data`, or both read the same from it.
    """
    found: set[Deviation] = set()
    with contextlib.suppress(BothRefuseError):
        Scanner(data, message, found).scan()
    return found
