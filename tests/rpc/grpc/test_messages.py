"""gRPC's message framing."""

from __future__ import annotations

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from hypothesis import given
from hypothesis import strategies as st

from connectrio.rpc._grpc import MessageReader, frame_message


def test_a_frame_is_a_flag_a_length_and_the_message():
    assert frame_message(b"abc") == b"\0\0\0\0\3abc"
    assert frame_message(b"abc", compressed=True) == b"\1\0\0\0\3abc"
    assert frame_message(b"") == b"\0\0\0\0\0"


@given(messages=st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=5), data=st.data())
def test_messages_come_out_as_they_went_in_however_the_bytes_are_split(messages, data):
    rest = b"".join(frame_message(message, compressed=compressed) for compressed, message in messages)
    reader = MessageReader(limit=40)
    read = []

    while rest:
        size = data.draw(st.integers(1, len(rest)))
        reader.feed(rest[:size])
        rest = rest[size:]
        while (message := reader.next_message()) is not None:
            read.append(message)

    assert read == messages
    assert not len(reader)


@pytest.mark.parametrize("size", range(1, 8))
def test_part_of_a_message_is_no_message(size: int):
    reader = MessageReader(limit=10)
    reader.feed(frame_message(b"abc")[:size])
    assert reader.next_message() is None
    assert len(reader)


def test_a_reader_that_was_fed_nothing_is_empty():
    reader = MessageReader(limit=10)
    reader.feed(b"")
    assert reader.next_message() is None
    assert not len(reader)


@pytest.mark.parametrize("flag", [2, 0x80, 0xFF])
def test_a_flag_that_is_neither_0_nor_1_is_an_error(flag: int):
    reader = MessageReader(limit=10)
    reader.feed(bytes([flag, 0, 0, 0, 0]))
    with pytest.raises(GRPCError, match=f"flag is {flag}") as raised:
        reader.next_message()
    assert raised.value.status is Status.INTERNAL


def test_a_message_over_the_limit_is_refused_by_its_prefix_alone():
    reader = MessageReader(limit=10)
    reader.feed(b"\0\xff\xff\xff\xff")
    with pytest.raises(GRPCError, match=r"larger than max \(4294967295 vs. 10 bytes\)") as raised:
        reader.next_message()
    assert raised.value.status is Status.RESOURCE_EXHAUSTED


def test_a_message_of_exactly_the_limit_is_taken():
    reader = MessageReader(limit=10)
    reader.feed(frame_message(bytes(10)))
    assert reader.next_message() == (False, bytes(10))


def test_messages_before_one_over_the_limit_are_read():
    reader = MessageReader(limit=3)
    reader.feed(frame_message(b"abc") + frame_message(b"abcd"))
    assert reader.next_message() == (False, b"abc")
    with pytest.raises(GRPCError):
        reader.next_message()
