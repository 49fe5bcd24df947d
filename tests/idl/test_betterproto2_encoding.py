"""What betterproto2 writes for values that do not fit their fields, and other ways in which its messages surprise.

As with decoding: nothing here is wanted, all of it is known. Values are not checked when they are set, only used when
they are encoded; so what is built from outside data has to be in range before.
"""

from __future__ import annotations

import copy
import struct

import betterproto2
import pytest
from google.protobuf.message import DecodeError

from connectrio.idl.flyteidl2.connector import Resource, TaskCategory
from connectrio.idl.flyteidl2.core import (
    Binary,
    Connection,
    EnumType,
    KeyValuePair,
    Literal,
    LiteralCollection,
    LiteralMap,
    LiteralOffloadedMetadata,
    Primitive,
    RetryStrategy,
    Scalar,
    TaskMetadata,
    Void,
)
from connectrio.idl.google.protobuf import DoubleValue, Timestamp
from connectrio.idl.message_pool import default_message_pool
from idl.readers import MESSAGES
from idl.wire import delimited, number


def protobuf_class(message):
    url = default_message_pool.type_to_url[type(message)]
    return MESSAGES[url.removeprefix("type.googleapis.com/")]


# Another value than the one set is written, and nobody is told: the message, and what protobuf reads.
CHANGED = {
    "int64, 2⁶³": (Primitive(integer=2**63), {"integer": -(2**63)}),
    "int64, 2⁶⁴": (Primitive(integer=2**64), {"integer": 0}),
    "int32, 2³¹": (TaskCategory(version=2**31), {"version": -(2**31)}),
    "int32, 2³²": (TaskCategory(version=2**32), {"version": 0}),
    "int32, -2³¹-1": (TaskCategory(version=-(2**31) - 1), {"version": 2**31 - 1}),
    "int32, nanoseconds": (Timestamp(nanos=2**40), {"nanos": 0}),
    "uint32, -1": (RetryStrategy(retries=-1), {"retries": 2**32 - 1}),
    "uint64, -1": (LiteralOffloadedMetadata(size_bytes=-1), {"size_bytes": 2**64 - 1}),
    "enum, 2⁴⁰": (Resource(phase=2**40), {"phase": 0}),
    "bool, 7": (Primitive(boolean=7), {"boolean": True}),
    "two members of a oneof: the one with the higher number": (
        Primitive(string_value="a", integer=5),
        {"integer": 0, "string_value": "a"},
    ),
    "a string where a list of strings belongs": (EnumType(values="abc"), {"values": ["a", "b", "c"]}),
    "None in place of bytes": (Binary(value=None), {"value": b""}),
}


@pytest.mark.parametrize(("message", "read"), CHANGED.values(), ids=CHANGED)
def test_changed(message, read):
    decoded = protobuf_class(message).FromString(bytes(message))
    assert {name: getattr(decoded, name) for name in read} == read


def test_a_message_of_another_class_is_written_as_it_is():
    written = bytes(Literal(scalar=Primitive(integer=1)))
    assert written == delimited(1, number(1, 1))
    assert Literal.parse(written).scalar.primitive == 1


# Bytes are written that protobuf refuses to read.
UNREADABLE = {
    "int64, 2⁷⁰": Primitive(integer=2**70),
    "a number in place of a message": Literal(scalar=3),
}


@pytest.mark.parametrize("message", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable(message):
    written = bytes(message)
    with pytest.raises(DecodeError):
        protobuf_class(message).FromString(written)


# Encoding raises, each time something else, and never says which field it was.
RAISES = {
    "int64, -2⁶³-1": (Primitive(integer=-(2**63) - 1), ValueError),
    "a float in place of an int": (Primitive(integer=3.0), TypeError),
    "a str in place of an int": (Primitive(integer="3"), TypeError),
    "a str in place of a float": (Primitive(float_value="3"), struct.error),
    "an int too large for a float": (Primitive(float_value=10**400), struct.error),
    "an int in place of a str": (Primitive(string_value=3), AttributeError),
    "half of a UTF-16 pair": (Primitive(string_value="\ud800"), UnicodeEncodeError),
    "a str in place of bytes": (Binary(value="a"), TypeError),
    "a str in place of an enum": (Resource(phase="RUNNING"), TypeError),
    "a str in place of a message": (Literal(scalar="a"), TypeError),
    "None in a list": (LiteralCollection(literals=[None]), TypeError),
    "None as a message of a map": (LiteralMap(literals={"k": None}), TypeError),
    "None as a string of a map": (Connection(secrets={"k": None}), AttributeError),
    "an int as key of a map": (Connection(secrets={1: "v"}), AttributeError),
}


@pytest.mark.parametrize(("message", "error"), RAISES.values(), ids=RAISES)
def test_raises(message, error):
    with pytest.raises(error) as raised:
        bytes(message)
    assert type(raised.value) is error


def test_a_misspelt_attribute_is_set_and_never_written():
    message = Primitive(integer=1)
    message.integre = 2
    assert bytes(message) == number(1, 1)
    with pytest.raises(TypeError, match="integre"):
        Primitive(integre=2)


def test_minus_zero_is_lost_where_a_field_has_no_presence():
    """Of all messages here only DoubleValue and FloatValue, which Flyte does not use, have such a field."""
    assert bytes(DoubleValue(value=-0.0)) == b""
    has_no_presence = [
        field.full_name
        for cls in MESSAGES.values()
        for field in cls.DESCRIPTOR.fields
        if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT) and not field.has_presence
    ]
    assert has_no_presence == []


def test_a_message_with_nothing_set_is_false():
    """`if scalar.none_type:` is wrong, `is not None` is right."""
    assert not Void()
    assert not Scalar(none_type=None)
    assert Scalar(none_type=Void())


def test_copies_lose_unknown_fields():
    message = KeyValuePair.parse(delimited(1, b"a") + number(15, 5))
    assert bytes(message) == delimited(1, b"a") + number(15, 5)
    assert bytes(copy.copy(message)) == delimited(1, b"a")
    assert bytes(copy.deepcopy(message)) == delimited(1, b"a")


def test_unknown_fields_do_not_count():
    assert KeyValuePair.parse(number(15, 5)) == KeyValuePair()
    assert not KeyValuePair.parse(number(15, 5))


def test_messages_have_no_hash():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Void())


def test_wrappers_are_plain_values():
    assert TaskMetadata().generates_deck is None
    assert TaskMetadata.parse(bytes(TaskMetadata(generates_deck=False))).generates_deck is False


def test_which_one_of_sees_a_second_member_that_was_set():
    """Setting a member of a oneof does not clear the others."""
    message = Primitive(integer=1)
    message.boolean = True
    with pytest.raises(RuntimeError, match="more than one field set in oneof"):
        betterproto2.which_one_of(message, "value")
