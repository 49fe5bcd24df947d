"""What betterproto2 reads from bytes that a protobuf library would not write.

Nothing here is wanted. It is known, and this file says exactly what happens, so that whoever decodes with betterproto2
can guard against it, and learns when a release changes it. "protobuf" is Google's library, on the same .proto files.
"""

from __future__ import annotations

import struct

import betterproto2
import pytest
from google.protobuf.message import DecodeError

from idl.messages import canonical, class_of
from idl.readers import Read, named, read_by_betterproto2, read_by_protobuf
from idl.wire import GROUP_END, GROUP_START, delimited, fixed32, fixed64, number, tag, varint
from idl.wire_deviations import Deviation, deviations

EIGHT = b"abcdefgh"

# What happens: the message, its bytes, what protobuf makes of them (re-encoded, or an error), what betterproto2 makes.
EXAMPLES = {
    Deviation.CUT_OFF: {
        "a string": (
            "core.KeyValuePair",
            tag(1, 2) + varint(5) + b"abc",
            DecodeError,
            Read("KeyValuePair(key='abc')", delimited(1, b"abc")),
        ),
        "a string with nothing left of it": (
            "core.KeyValuePair",
            tag(1, 2) + varint(5),
            DecodeError,
            Read("KeyValuePair()", b""),
        ),
        "a string of 4 GiB": (
            "core.KeyValuePair",
            tag(1, 2) + varint(2**32 - 1) + b"abc",
            DecodeError,
            Read("KeyValuePair(key='abc')", delimited(1, b"abc")),
        ),
        "bytes": (
            "core.Binary",
            tag(1, 2) + varint(5) + b"abc",
            DecodeError,
            Read("Binary(value=b'abc')", delimited(1, b"abc")),
        ),
        "a message": (
            "core.Literal",
            tag(1, 2) + varint(5) + delimited(1),
            DecodeError,
            Read("Literal(scalar=Scalar(primitive=Primitive()))", delimited(1, delimited(1))),
        ),
        "a map entry": (
            "core.Connection",
            tag(2, 2) + varint(9) + delimited(1, b"k") + tag(2, 2) + varint(4) + b"v",
            DecodeError,
            Read("Connection(secrets={'k': 'v'})", delimited(2, delimited(1, b"k") + delimited(2, b"v"))),
        ),
        "an unknown field": (
            "core.KeyValuePair",
            tag(15, 2) + varint(5) + b"abc",
            DecodeError,
            Read("KeyValuePair()", tag(15, 2) + varint(5) + b"abc"),
        ),
        "an unknown fixed32": (
            "core.KeyValuePair",
            fixed32(15, b"abc"),
            DecodeError,
            Read("KeyValuePair()", fixed32(15, b"abc")),
        ),
        "an unknown fixed64": (
            "core.KeyValuePair",
            fixed64(15, b"abc"),
            DecodeError,
            Read("KeyValuePair()", fixed64(15, b"abc")),
        ),
    },
    Deviation.CUT_OFF_TAG: {
        "after a field": (
            "core.KeyValuePair",
            delimited(1, b"a") + b"\x92",
            DecodeError,
            Read("KeyValuePair(key='a')", delimited(1, b"a")),
        ),
        "alone": ("core.KeyValuePair", b"\x92", DecodeError, Read("KeyValuePair()", b"")),
    },
    Deviation.FIELD_NUMBER: {
        "0": ("core.KeyValuePair", number(0, 1), DecodeError, Read("KeyValuePair()", number(0, 1))),
        "30 bits": ("core.KeyValuePair", number(2**29, 1), DecodeError, Read("KeyValuePair()", number(2**29, 1))),
    },
    Deviation.LONG_VARINT: {
        "a tag": (
            "core.KeyValuePair",
            varint(1 << 3 | 2, length=6) + varint(1) + b"a",
            DecodeError,
            Read("KeyValuePair(key='a')", delimited(1, b"a")),
        ),
        "a length": (
            "core.KeyValuePair",
            tag(1, 2) + varint(1, length=6) + b"a",
            DecodeError,
            Read("KeyValuePair(key='a')", delimited(1, b"a")),
        ),
    },
    Deviation.TOO_DEEP: {},  # see test_depth
    Deviation.GROUP: {
        "a group: its fields count as the message's": (
            "core.KeyValuePair",
            tag(15, GROUP_START) + delimited(1, b"a") + tag(15, GROUP_END),
            tag(15, GROUP_START) + delimited(1, b"a") + tag(15, GROUP_END),
            Read("KeyValuePair(key='a')", delimited(1, b"a") + tag(15, GROUP_START) + tag(15, GROUP_END)),
        ),
        "a group in place of a known field": (
            "core.KeyValuePair",
            tag(1, GROUP_START) + tag(1, GROUP_END),
            tag(1, GROUP_START) + tag(1, GROUP_END),
            Read("KeyValuePair(key=None)", b""),
        ),
        "the start of a group": (
            "core.KeyValuePair",
            tag(15, GROUP_START),
            DecodeError,
            Read("KeyValuePair()", tag(15, GROUP_START)),
        ),
        "the end of a group": (
            "core.KeyValuePair",
            tag(15, GROUP_END),
            DecodeError,
            Read("KeyValuePair()", tag(15, GROUP_END)),
        ),
        "wire type 6": ("core.KeyValuePair", tag(15, 6), DecodeError, Read("KeyValuePair()", tag(15, 6))),
        "wire type 7 in a known field": (
            "core.KeyValuePair",
            tag(1, 7),
            DecodeError,
            Read("KeyValuePair(key=None)", b""),
        ),
    },
    Deviation.WIRE_TYPE: {
        "a string as a varint": (
            "core.KeyValuePair",
            number(1, 7),
            number(1, 7),
            Read("KeyValuePair(key=7)", AttributeError),
        ),
        "a string as fixed64": ("core.KeyValuePair", fixed64(1, EIGHT), fixed64(1, EIGHT), KeyError),
        "bytes as a varint": ("core.Binary", number(1, 7), number(1, 7), Read("Binary(value=7)", TypeError)),
        "an int32 with a length": (
            "connector.TaskCategory",
            delimited(2, b"\5\6"),
            delimited(2, b"\5\6"),
            Read("TaskCategory(version=[5, 6])", TypeError),
        ),
        "an int32 as fixed64": ("connector.TaskCategory", fixed64(2, EIGHT), fixed64(2, EIGHT), KeyError),
        "an enum with a length": (
            "connector.Resource",
            delimited(5, b"\1"),
            delimited(5, b"\1"),
            Read("Resource(phase=[<TaskExecutionPhase.QUEUED: 1>])", TypeError),
        ),
        "a double as a varint": (
            "core.Primitive",
            number(2, 1),
            number(2, 1),
            Read("Primitive(float_value=1)", fixed64(2, struct.pack("<d", 1.0))),
        ),
        "a double as fixed32": ("core.Primitive", fixed32(2, b"abcd"), fixed32(2, b"abcd"), struct.error),
        "a message as a varint: encoded as so many zeros": (
            "core.Literal",
            number(1, 3),
            number(1, 3),
            Read("Literal(scalar=3)", delimited(1, b"\0\0\0")),
        ),
        "a message of a list as a varint": (
            "core.LiteralCollection",
            number(1, 3),
            number(1, 3),
            Read("LiteralCollection(literals=[3])", delimited(1, b"\0\0\0")),
        ),
        "a map as a varint": ("core.Connection", number(2, 3), number(2, 3), AttributeError),
        "a key of a map as a varint": (
            "core.Connection",
            delimited(2, number(1, 3)),
            delimited(2, number(1, 3)),
            Read("Connection(secrets={3: ''})", AttributeError),
        ),
    },
    # protobuf takes the whole map entry for an unknown field, and the map has no such key
    Deviation.LOST: {
        "in a map entry": (
            "core.Connection",
            delimited(2, delimited(1, b"k") + delimited(2, b"v") + number(3, 1)),
            delimited(2, delimited(1, b"k") + delimited(2, b"v") + number(3, 1)),
            Read("Connection(secrets={'k': 'v'})", delimited(2, delimited(1, b"k") + delimited(2, b"v"))),
        ),
        "in a wrapper": (
            "core.TaskMetadata",
            delimited(15, number(1, 1) + number(2, 1)),
            delimited(15, number(1, 1) + number(2, 1)),
            Read("TaskMetadata(generates_deck=True)", delimited(15, number(1, 1))),
        ),
    },
    Deviation.MERGED: {
        "a message: the later takes all": (
            "core.TaskExecutionIdentifier",
            delimited(1, delimited(2, b"p")) + delimited(1, delimited(4, b"n")),
            delimited(1, delimited(2, b"p") + delimited(4, b"n")),
            Read("TaskExecutionIdentifier(task_id=Identifier(name='n'))", delimited(1, delimited(4, b"n"))),
        ),
        "a list in a message": (
            "core.Literal",
            delimited(2, delimited(1)) + delimited(2, delimited(1)),
            delimited(2, delimited(1) + delimited(1)),
            Read("Literal(collection=LiteralCollection(literals=[Literal()]))", delimited(2, delimited(1))),
        ),
        "a wrapper": (
            "core.TaskMetadata",
            delimited(15, number(1, 1)) + delimited(15),
            delimited(15, number(1, 1)),
            Read("TaskMetadata(generates_deck=False)", delimited(15)),
        ),
        "a value of a map": (
            "core.LiteralMap",
            delimited(1, delimited(1, b"k") + delimited(2, delimited(4, b"h")) + delimited(2)),
            delimited(1, delimited(1, b"k") + delimited(2, delimited(4, b"h"))),
            Read("LiteralMap(literals={'k': Literal()})", delimited(1, delimited(1, b"k") + delimited(2))),
        ),
    },
    Deviation.ONEOF: {
        "both are kept, the later does not replace the earlier": (
            "core.Primitive",
            delimited(3, b"a") + number(1, 5),
            number(1, 5),
            Read("Primitive(integer=5, string_value='a')", number(1, 5) + delimited(3, b"a")),
        ),
    },
    Deviation.NO_VALUE: {
        "a key alone": (
            "core.LiteralMap",
            delimited(1, delimited(1, b"k")),
            delimited(1, delimited(1, b"k") + delimited(2)),
            Read("LiteralMap(literals={'k': None})", TypeError),
        ),
        "nothing at all": (
            "google.protobuf.Struct",
            delimited(1),
            delimited(1, delimited(1) + delimited(2)),
            Read("Struct(fields={'': None})", TypeError),
        ),
    },
    Deviation.ENUM: {
        "2³¹": (
            "connector.Resource",
            number(5, 2**31),
            number(5, 2**64 - 2**31),
            Read("Resource(phase=<TaskExecutionPhase.~UNKNOWN: 2147483648>)", number(5, 2**31)),
        ),
        "-1 in 32 bits": (
            "connector.Resource",
            number(5, 2**32 - 1),
            number(5, 2**64 - 1),
            Read("Resource(phase=<TaskExecutionPhase.~UNKNOWN: 4294967295>)", number(5, 2**32 - 1)),
        ),
        "2³² and a known value": (
            "connector.Resource",
            number(5, 2**32 + 3),
            number(5, 3),
            Read("Resource(phase=<TaskExecutionPhase.~UNKNOWN: 4294967299>)", number(5, 2**32 + 3)),
        ),
    },
    Deviation.BOOL: {
        "2⁶⁴": ("core.Primitive", number(4, 2**64), number(4, 0), Read("Primitive(boolean=True)", number(4, 1))),
    },
}

CASES = [
    pytest.param(kind, *example, id=f"{kind.name}: {title}")
    for kind, examples in EXAMPLES.items()
    for title, example in examples.items()
]


@pytest.mark.parametrize(("kind", "name", "data", "protobuf", "betterproto2"), CASES)
def test_deviation(kind, name, data, protobuf, betterproto2):
    cls = named(name)
    assert deviations(data, cls.DESCRIPTOR) == {kind}
    assert read_by_protobuf(cls, data) == protobuf
    assert read_by_betterproto2(cls, data) == betterproto2


def test_every_deviation_is_shown():
    assert EXAMPLES.keys() == set(Deviation)


def test_two_members_of_a_oneof_break_which_one_of():
    message = class_of(named("core.Primitive").DESCRIPTOR).parse(number(1, 5) + delimited(3, b"a"))
    with pytest.raises(RuntimeError, match="more than one field set in oneof"):
        betterproto2.which_one_of(message, "value")


def nested_types(depth):
    """A LiteralType: a list of lists of lists …"""
    data = b""
    for _ in range(depth):
        data = delimited(3, data)
    return data


def test_depth():
    """protobuf stops at 100 levels. betterproto2 stops at Python's recursion limit, encoding sooner than decoding."""
    cls = named("core.LiteralType")
    ours = class_of(cls.DESCRIPTOR)
    assert bytes(ours.parse(nested_types(100))) == canonical(cls.FromString(nested_types(100))) == nested_types(100)

    assert deviations(nested_types(101), cls.DESCRIPTOR) == {Deviation.TOO_DEEP}
    assert read_by_protobuf(cls, nested_types(101)) == DecodeError
    assert bytes(ours.parse(nested_types(101))) == nested_types(101)

    with pytest.raises(RecursionError):
        ours.parse(nested_types(1000))
