"""Our classes and those of the flyteidl2 wheel read each other's bytes and mean the same by them.

What betterproto2 makes of bytes that no protobuf library writes is in test_betterproto2_deviations.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idl.messages import canonical, class_of, is_map, messages, mirror, parts, unknown_fields
from idl.wire_contract import PUBLISHED, main_messages, message_classes

SERVICES = [service for services in PUBLISHED.values() for service in services]
MESSAGES = message_classes(SERVICES)

MAIN_MESSAGES = {name: MESSAGES[name] for name in main_messages(SERVICES)}

each_type = pytest.mark.parametrize("cls", MAIN_MESSAGES.values(), ids=MAIN_MESSAGES)
# The first message of a class is slow: betterproto2 inspects the class then. Messages of this size are slow to draw.
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
unhurried = settings(max_examples=25, deadline=None, suppress_health_check=SLOW)

EXTREMES = {
    FieldDescriptor.TYPE_INT32: [0, -(2**31), 2**31 - 1],
    FieldDescriptor.TYPE_INT64: [0, -(2**63), 2**63 - 1],
    FieldDescriptor.TYPE_UINT32: [0, 2**32 - 1],
    FieldDescriptor.TYPE_UINT64: [0, 2**64 - 1],
    FieldDescriptor.TYPE_BOOL: [False, True],
    FieldDescriptor.TYPE_DOUBLE: [0.0, 5e-324, -math.inf, math.nan],
    FieldDescriptor.TYPE_STRING: ["", "\0", "é€𝄞"],
    FieldDescriptor.TYPE_BYTES: [b"", b"\0", b"\xff"],
}


def messages_with_one_field(cls) -> Iterator[Message]:
    """For each field of a message: the message with nothing set but this field, to each of a few values."""
    for field in cls.DESCRIPTOR.fields:
        for value in extremes(field):
            yield cls(**{field.name: value})


def extremes(field: FieldDescriptor) -> list[Any]:
    if is_map(field):
        key, value = field.message_type.fields
        return [dict.fromkeys(extremes(key), v) for v in extremes(value)]
    if field.message_type:
        values = [GetMessageClass(field.message_type)()]
    elif field.enum_type:
        values = [-(2**31), 2**31 - 1, *(value.number for value in field.enum_type.values)]
    else:
        values = EXTREMES[field.type]
    return [values] if field.is_repeated else values


@pytest.mark.parametrize("cls", MESSAGES.values(), ids=MESSAGES)
def test_every_field_of_every_message(cls):
    for message in messages_with_one_field(cls):
        assert class_of(cls.DESCRIPTOR).parse(message.SerializeToString()) == mirror(message)
        assert canonical(cls.FromString(bytes(mirror(message)))) == canonical(message)


@each_type
@unhurried
@given(st.data())
def test_ours_read_what_protobuf_writes(cls, data):
    message = data.draw(messages(cls))
    assert class_of(cls.DESCRIPTOR).parse(message.SerializeToString()) == mirror(message)


@each_type
@unhurried
@given(st.data())
def test_protobuf_reads_what_ours_write(cls, data):
    message = data.draw(messages(cls))
    assert canonical(cls.FromString(bytes(mirror(message)))) == canonical(message)


@each_type
@unhurried
@given(st.data())
def test_ours_hand_on_the_fields_that_they_do_not_know(cls, data):
    message = data.draw(messages(cls))
    for part in parts(message):
        part.MergeFromString(data.draw(unknown_fields()))
    through = bytes(class_of(cls.DESCRIPTOR).parse(message.SerializeToString()))
    assert canonical(cls.FromString(through)) == canonical(message)
