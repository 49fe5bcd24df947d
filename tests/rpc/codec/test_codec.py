"""Our codec reads what protobuf reads, refuses what protobuf refuses, and writes what betterproto2 writes."""

from __future__ import annotations

import math
import struct
import sys
from dataclasses import make_dataclass
from typing import Any

import betterproto2
import pytest
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.struct_pb2 import Struct as StructMessage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectrio.idl.flyteidl2.connector import GetTaskRequest, Resource, TaskCategory
from connectrio.idl.flyteidl2.core import (
    Backoff,
    Connection,
    KeyValuePair,
    Literal,
    LiteralCollection,
    LiteralType,
    Primitive,
    RetryStrategy,
    TaskMetadata,
    TaskTemplate,
)
from connectrio.idl.flyteidl2.task import Inputs
from connectrio.idl.google.protobuf import Struct, Timestamp
from connectrio.rpc._codec import decoder
from connectrio.rpc._codec.wire import MAX_DEPTH, SMALL_VARINTS
from connectrio.rpc.codec import DecodeError, EncodeError, MessageCodec, decode, encode
from idl.messages import canonical, class_of, messages, mirror
from idl.readers import MAIN_MESSAGES, named
from idl.wire import VARINT, delimited, number, tag, varint
from idl.wire_deviations import Deviation, deviations

MAIN = [pytest.param(cls, id=cls.DESCRIPTOR.name) for cls in map(named, MAIN_MESSAGES)]
MANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("cls", MAIN)
class TestAgainstProtobuf:
    @MANY
    @given(st.data())
    def test_reads_what_protobuf_writes(self, cls, data):
        message = data.draw(messages(cls))
        ours = decode(message.SerializeToString(), class_of(cls.DESCRIPTOR))
        assert ours == mirror(message) or canonical(cls.FromString(encode(ours))) == canonical(message)

    @MANY
    @given(st.data())
    def test_protobuf_reads_what_it_writes(self, cls, data):
        message = data.draw(messages(cls))
        assert canonical(cls.FromString(encode(mirror(message)))) == canonical(message)

    @MANY
    @given(st.data())
    def test_writes_the_bytes_that_betterproto2_writes(self, cls, data):
        ours = mirror(data.draw(messages(cls)))
        assert encode(ours) == bytes(ours)

    @MANY
    @given(st.data())
    def test_mangled_bytes_are_taken_or_refused_as_by_protobuf(self, cls, data):
        mangled = data.draw(mangled_bytes(data.draw(messages(cls)).SerializeToString()))
        try:
            theirs = cls.FromString(mangled)
        except ProtobufDecodeError:
            theirs = None
        try:
            ours = decode(mangled, class_of(cls.DESCRIPTOR))
        except DecodeError as error:
            ours = None
            if str(error) == "0 is not a field number" and has_no_known_fields(cls, mangled):
                return
        assert (ours is None) == (theirs is None)
        if ours is not None and not loses_unknown_fields(cls, mangled):
            assert canonical(cls.FromString(encode(ours))) == canonical(theirs)


@st.composite
def mangled_bytes(draw, data):
    """`data` with a few bytes changed, dropped, doubled or put in."""
    mangled = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(mangled)))
        match draw(st.sampled_from(["change", "cut", "double", "insert"])):
            case "change" if at < len(mangled):
                mangled[at] = draw(st.integers(0, 255))
            case "cut":
                del mangled[at : at + draw(st.integers(1, 8))]
            case "double":
                mangled[at:at] = mangled[at : at + draw(st.integers(1, 16))]
            case _:
                mangled[at:at] = draw(st.binary(min_size=1, max_size=4))
    return bytes(mangled)


def has_no_known_fields(cls, data):
    """Whether this is a message without fields, or has a group: there protobuf's parser takes a field number 0."""
    return not cls.DESCRIPTOR.fields or Deviation.GROUP in deviations(data, cls.DESCRIPTOR)


def loses_unknown_fields(cls, data):
    """Whether there is an unknown field in a wrapper, which is a plain value here and cannot keep it."""
    return Deviation.LOST in deviations(data, cls.DESCRIPTOR)


@pytest.mark.parametrize(
    ("cls", "data"),
    [
        (KeyValuePair, delimited(1, b"ab")[:-1]),
        (KeyValuePair, b"\x0a"),
        (KeyValuePair, tag(1, 2) + varint(2**63)),
        (KeyValuePair, tag(1, 2) + varint(1, length=6) + b"a"),
        (KeyValuePair, varint(1 << 3 | 2, length=6) + varint(1) + b"a"),
        (KeyValuePair, delimited(1, b"\xff")),
        (KeyValuePair, b"\x00\x00"),
        (KeyValuePair, b"\x0e\x00"),
        (KeyValuePair, b"\x0c"),
        (KeyValuePair, varint(2**29 << 3) + b"\x00"),
        (KeyValuePair, tag(9, 3) + tag(8, 4)),
        (KeyValuePair, tag(9, 3) + b"\x00\x00" + tag(9, 4)),
        (TaskCategory, tag(2, VARINT)),
        (TaskCategory, tag(2, VARINT) + varint(0, length=11)),
        (Primitive, tag(2, 1) + b"abc"),
        (Literal, delimited(1, b"\x0a")),
    ],
)
def test_refused(cls, data):
    with pytest.raises(DecodeError):
        decode(data, cls)


def test_the_last_member_of_a_oneof_wins():
    assert decode(number(1, 5) + delimited(3, b"x"), Primitive) == Primitive(string_value="x")


def test_a_message_that_comes_twice_is_merged():
    once, again = delimited(3, delimited(1, b"duckdb")), delimited(3, number(2, 7))
    assert decode(once + again, GetTaskRequest).task_category == TaskCategory(name="duckdb", version=7)


@pytest.mark.parametrize(
    ("inner", "value"),
    [
        ([number(1, 1), number(1, 1)], True),
        ([number(1, 1), b""], True),
        ([b"", number(1, 1)], True),
        ([number(1, 1), number(1, 0)], False),
    ],
)
def test_a_wrapper_that_comes_twice_is_merged(inner, value):
    data = b"".join(delimited(15, each) for each in inner)
    assert decode(data, TaskMetadata).generates_deck is value
    template = b"".join(delimited(3, delimited(15, each)) for each in inner)
    assert decode(template, TaskTemplate).metadata.generates_deck is value


def test_the_value_of_a_map_entry_that_comes_twice_is_merged():
    twice = delimited(2, delimited(6, delimited(1, number(2, 0))))
    again = delimited(2, delimited(6, delimited(1, delimited(3, b"x"))))
    data = delimited(1, delimited(1, b"k") + twice + again)
    assert canonical(StructMessage.FromString(encode(decode(data, Struct)))) == canonical(
        StructMessage.FromString(data)
    )
    assert len(decode(data, Struct).fields["k"].list_value.values) == 2


def test_a_map_entry_whose_value_comes_twice_keeps_the_last_scalar():
    data = delimited(2, delimited(1, b"k") + delimited(2, b"a") + delimited(2, b"b"))
    assert decode(data, Connection).secrets == {"k": "b"}


def test_a_field_of_another_wire_type_is_unknown_and_kept():
    data = number(1, 5) + delimited(2, b"v")
    message = decode(data, KeyValuePair)
    assert message == KeyValuePair(value="v")
    assert encode(message) == delimited(2, b"v") + number(1, 5)


def test_the_largest_field_number_is_unknown_and_kept():
    data = varint((2**29 - 1) << 3) + b"\x05"
    assert encode(decode(data, KeyValuePair)) == data


def test_a_group_is_unknown_and_kept():
    group = tag(9, 3) + number(1, 5) + tag(9, 4)
    message = decode(group + delimited(1, b"k"), KeyValuePair)
    assert message == KeyValuePair(key="k")
    assert encode(message) == delimited(1, b"k") + group


def test_wrappers_are_plain_values():
    assert decode(delimited(15, number(1, 1)), TaskMetadata).generates_deck is True
    assert decode(delimited(15), TaskMetadata).generates_deck is False
    assert decode(b"", TaskMetadata).generates_deck is None
    assert encode(TaskMetadata(generates_deck=False)) == delimited(15)


def test_map_entries_default_what_they_leave_out():
    assert decode(delimited(2), Connection).secrets == {"": ""}
    assert decode(delimited(1, delimited(1, b"k")), Struct).fields["k"] is not None


def test_a_negative_zero_is_a_value():
    data = b"\x11" + struct.pack("<d", -0.0)
    assert encode(decode(data, Backoff)) == data


def nested(levels):
    data = b""
    for _ in range(levels):
        data = delimited(1, delimited(2, data)) if data else delimited(1)
    return data


def test_nesting_is_bounded():
    deep = b""
    for _ in range(MAX_DEPTH - 1):
        deep = delimited(3, deep)
    assert encode(decode(deep, LiteralType)) == deep
    with pytest.raises(DecodeError, match="nested more than 100 deep"):
        decode(delimited(3, deep), LiteralType)
    with pytest.raises(DecodeError):
        decode(b"\x4b" * 10_000, LiteralType)


def test_the_number_of_messages_is_bounded(monkeypatch):
    monkeypatch.setattr(decoder, "MAX_MESSAGES", 1000)
    assert len(decode(delimited(1) * 999, Inputs).literals) == 999
    with pytest.raises(DecodeError, match="made of more than"):
        decode(delimited(1) * 1000, Inputs)


def test_unknown_fields_take_linear_time():
    data = number(1000, 1) * 200_000
    assert decode(data, TaskCategory)._unknown_fields == data


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Resource(message=5), "Resource.message: expected str, got int"),
        (Resource(custom_info={"a": 1}), "Resource.custom_info: expected Struct, got dict"),
        (Resource(log_links=[TaskCategory()]), "Resource.log_links: expected TaskLog, got TaskCategory"),
        (TaskCategory(version=2**31), "TaskCategory.version: 2147483648 is not between -2147483648 and 2147483647"),
        (RetryStrategy(retries=-1), "RetryStrategy.retries: -1 is not between 0 and 4294967295"),
        (TaskCategory(name="\ud800"), "TaskCategory.name: 'utf-8' codec can't encode"),
        (Connection(secrets={"a": b"b"}), "Connection.secrets: expected str, got bytes"),
        (GetTaskRequest(resource_meta="text"), "GetTaskRequest.resource_meta: expected bytes, got str"),
        (GetTaskRequest(task_category=TaskCategory(name=1)), "TaskCategory.name: expected str, got int"),
        (Primitive(datetime=Timestamp(seconds=2**63)), "Timestamp.seconds: 9223372036854775808 is not between"),
    ],
)
def test_what_cannot_be_encoded_is_named(message, text):
    with pytest.raises(EncodeError) as caught:
        encode(message)
    assert str(caught.value).startswith(text)


def test_endless_nesting_cannot_be_encoded():
    literal = Literal()
    for _ in range(sys.getrecursionlimit()):
        literal = Literal(collection=LiteralCollection(literals=[literal]))
    with pytest.raises(EncodeError, match="nested too deeply"):
        encode(literal)


class Foreign:
    """A message that encodes itself, as protobuf's do."""

    def __init__(self, text=""):
        self.text = text

    def SerializeToString(self):
        return self.text.encode()

    @classmethod
    def FromString(cls, data):
        return cls(data.decode())


def test_messages_that_encode_themselves():
    codec = MessageCodec()
    assert codec.encode(Foreign("x"), Foreign) == b"x"
    assert codec.decode(b"x", Foreign).text == "x"


def test_a_message_of_another_type():
    with pytest.raises(TypeError, match="expected TaskCategory, got Resource"):
        MessageCodec().encode(Resource(), TaskCategory)


_BITS32, _BITS64 = (0, 1, 127, 128, 2**31 - 1), (0, 1, 127, 128, 2**31, 2**63 - 1)
# values of each scalar type, among them some that Flyte's messages have no field of
SCALARS = {
    **dict.fromkeys(("int32", "sint32", "sfixed32"), (*_BITS32, -1, -64, -65, -(2**31))),
    **dict.fromkeys(("int64", "sint64", "sfixed64"), (*_BITS64, -1, -64, -65, -(2**31), -(2**63))),
    **dict.fromkeys(("uint32", "fixed32"), (*_BITS32, 2**32 - 1)),
    **dict.fromkeys(("uint64", "fixed64"), (*_BITS64, 2**64 - 1)),
    "bool": [False, True],
    "double": [0.0, 1.5, -math.inf, 1e300],
    "float": [0.0, 1.5, math.inf, -math.inf],
    "string": ["", "x", "é漢", "x" * 200],
    "bytes": [b"", b"\0", b"x" * 200],
}


@pytest.mark.parametrize("kind", SCALARS)
def test_every_scalar_type(kind):
    values = SCALARS[kind]
    cls: Any = type(values[0])
    key, key_class = ("string", str) if kind in ("double", "float", "bytes") else (kind, cls)
    every_class = make_dataclass(
        "Every",
        [
            ("one", cls, betterproto2.field(1, kind)),
            ("maybe", cls | None, betterproto2.field(2, kind, optional=True)),
            ("many", list[cls], betterproto2.field(3, kind, repeated=True)),
            (
                "keyed",
                dict[key_class, cls],
                betterproto2.field(4, betterproto2.TYPE_MAP, map_meta=betterproto2.map_meta(key, kind)),
            ),
        ],
        bases=(betterproto2.Message,),
        eq=False,
        repr=False,
    )
    for value in values:
        keyed = {value: value} if key == kind else {"k": value}
        message = every_class(one=value, maybe=value, many=[value, *values], keyed=keyed)
        assert encode(message) == bytes(message)
        assert decode(bytes(message), every_class) == message
    assert decode(b"", every_class) == every_class()


def test_varints_that_are_kept_and_others():
    """Each process keeps them, so they are few."""
    kept = len(SMALL_VARINTS)
    assert sum(map(sys.getsizeof, SMALL_VARINTS)) < 100_000
    for value in (kept - 1, kept):
        message = TaskCategory(name="n" * value, version=value)
        assert encode(message) == bytes(message)
