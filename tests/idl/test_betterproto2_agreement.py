"""On all other bytes betterproto2 and protobuf agree: what one refuses the other refuses, what both read is the same.

"Other" means: without any of the deviations that test_betterproto2_deviations.py shows.
"""

from __future__ import annotations

import struct

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idl.messages import canonical, class_of, messages
from idl.readers import MAIN_MESSAGES, Read, named, read_by_betterproto2, read_by_protobuf
from idl.wire import VARINT, delimited, fixed64, number, tag, varint
from idl.wire_deviations import deviations

# Both refuse these; with what error betterproto2 does is its own affair.
REFUSED = {
    "a varint cut off": ("connector.TaskCategory", tag(2, VARINT) + b"\x80", EOFError),
    "a varint missing": ("connector.TaskCategory", tag(2, VARINT), EOFError),
    "a length cut off": ("core.KeyValuePair", tag(1, 2) + b"\x80", EOFError),
    "a double cut off": ("core.Primitive", fixed64(2, b"abc"), struct.error),
    "a varint of 11 bytes": ("connector.TaskCategory", tag(2, VARINT) + varint(0, length=11), ValueError),
    "a tag of 11 bytes": ("connector.TaskCategory", varint(0, length=11), ValueError),
    "a length of 2⁶³": ("core.KeyValuePair", tag(1, 2) + varint(2**63), OverflowError),
    "a string that is not UTF-8": ("core.KeyValuePair", delimited(1, b"\xff"), UnicodeDecodeError),
    "half of a UTF-16 pair": ("core.KeyValuePair", delimited(1, b"\xed\xa0\x80"), UnicodeDecodeError),
    "a key of a map that is not UTF-8": ("core.Connection", delimited(2, delimited(1, b"\xff")), UnicodeDecodeError),
}


@pytest.mark.parametrize(("name", "data", "error"), REFUSED.values(), ids=REFUSED)
def test_both_refuse(name, data, error):
    assert read_by_protobuf(named(name), data) == DecodeError
    assert read_by_betterproto2(named(name), data) == error


# Unusual, and read alike.
AGREED = {
    "a tag of 5 bytes": ("core.KeyValuePair", varint(1 << 3 | 2, length=5) + varint(1) + b"a"),
    "a varint of 10 bytes": ("connector.TaskCategory", tag(2, VARINT) + varint(3, length=10)),
    "an int64 of 70 bits": ("core.Primitive", number(1, 2**70 - 1)),
    "an int32 of 34 bits": ("connector.TaskCategory", number(2, 2**33 + 5)),
    "an int32 of -1 in 5 bytes": ("connector.TaskCategory", number(2, 2**32 - 1)),
    "a uint32 of 33 bits": ("core.RetryStrategy", number(5, 2**32 + 5)),
    "a bool of 2": ("core.Primitive", number(4, 2)),
    "an enum value nobody defined": ("connector.Resource", number(5, 99)),
    "a negative enum value": ("connector.Resource", number(5, 2**64 - 1)),
    "-0.0": ("core.Primitive", fixed64(2, struct.pack("<d", -0.0))),
    "an optional -0.0": ("core.Backoff", fixed64(2, struct.pack("<d", -0.0))),
    "a signalling NaN": ("core.Primitive", fixed64(2, bytes.fromhex("010000000000f07f"))),
    "a string twice": ("core.KeyValuePair", delimited(1, b"a") + delimited(1, b"b")),
    "a string, then an empty one": ("core.KeyValuePair", delimited(1, b"a") + delimited(1)),
    "a member of a oneof twice": ("core.Primitive", number(1, 5) + number(1, 6)),
    "a member of a oneof at its default": ("core.Primitive", number(4, 0)),
    "a wrapper at its default": ("core.TaskMetadata", delimited(15)),
    "a map's value before its key": ("core.Connection", delimited(2, delimited(2, b"v") + delimited(1, b"k"))),
    "a key of a map twice": (
        "core.Connection",
        2 * delimited(2, delimited(1, b"k")) + delimited(2, delimited(1, b"j")),
    ),
    "an empty map entry": ("core.Connection", delimited(2)),
    "a map entry with an empty message": ("core.LiteralMap", delimited(1, delimited(1, b"k") + delimited(2))),
    "a null in a struct": ("google.protobuf.Struct", delimited(1, delimited(1, b"k") + delimited(2, number(1, 0)))),
    "a string with a NUL": ("core.KeyValuePair", delimited(1, b"\0")),
    "a reserved field": ("core.Literal", delimited(6, b"x")),
    "an unknown field before a known one": ("core.KeyValuePair", number(15, 5) + delimited(1, b"a")),
    "an unknown varint with leading zeros": ("core.KeyValuePair", tag(15, VARINT) + varint(5, length=10)),
}


@pytest.mark.parametrize(("name", "data"), AGREED.values(), ids=AGREED)
def test_both_read_the_same(name, data):
    cls = named(name)
    assert deviations(data, cls.DESCRIPTOR) == set()
    assert canonical(cls.FromString(bytes(class_of(cls.DESCRIPTOR).parse(data)))) == canonical(cls.FromString(data))


# Messages of this size are slow to draw.
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
SLICES = st.tuples(st.integers(0, 400), st.integers(0, 8))


@st.composite
def mangled(draw, cls):
    """The bytes of a message with a few things done to them, or any bytes."""
    data = draw(messages(cls)).SerializeToString()
    for _ in range(draw(st.integers(0, 3))):
        start, length = draw(SLICES)
        start %= len(data) + 1
        end = start + length
        replacement = draw(st.binary(max_size=8) | st.sampled_from([data[start:end], data[start:end] * 2, data]))
        data = data[:start] + replacement + data[end:]
    return draw(st.just(data) | st.just(data[: draw(st.integers(0, len(data)))]) | st.binary(max_size=16))


@pytest.mark.parametrize("cls", MAIN_MESSAGES.values(), ids=MAIN_MESSAGES)
@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(st.data())
def test_there_are_no_other_deviations(cls, data):
    raw = data.draw(mangled(cls))
    if deviations(raw, cls.DESCRIPTOR):
        return
    expected = read_by_protobuf(cls, raw)
    found = read_by_betterproto2(cls, raw)
    if isinstance(found, Read):
        assert canonical(cls.FromString(found.encoded)) == expected
    else:
        assert expected is DecodeError


@pytest.mark.parametrize("cls", MAIN_MESSAGES.values(), ids=MAIN_MESSAGES)
@settings(max_examples=10, deadline=None, suppress_health_check=SLOW)
@given(st.data())
def test_what_protobuf_writes_has_no_deviations(cls, data):
    assert deviations(data.draw(messages(cls)).SerializeToString(), cls.DESCRIPTOR) == set()
