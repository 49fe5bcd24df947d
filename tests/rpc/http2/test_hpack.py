"""Our HPACK beside hpack's: the same fields for any block, the same errors, and blocks that hpack reads."""

from __future__ import annotations

import itertools

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError, InvalidTableIndex
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectrio.rpc._http2.hpack import HeaderDecoder, HeaderEncoder

unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck))

NAMES = st.sampled_from([b":path", b":method", b"te", b"grpc-timeout", b"x-id", b"authorization", b"cookie", b"", b"X"])
VALUES = st.one_of(
    st.sampled_from([b"", b"POST", b"trailers", b" padded ", b"1S", b"\xff\x00", b"v" * 200]), st.binary(max_size=12)
)
FIELDS = st.builds(
    lambda kind, name, value: kind(name, value), st.sampled_from([HeaderTuple, NeverIndexedHeaderTuple]), NAMES, VALUES
)  # fmt: skip
TABLE_SIZES = st.sampled_from([None, 0, 40, 100, 4096])


@st.composite
def blocks(draw: st.DrawFn) -> list[bytes]:
    """What one encoder makes of some header lists, one after the other; some of it damaged."""
    encoder, made = Encoder(), []
    for fields in draw(st.lists(st.lists(FIELDS, max_size=6), max_size=6)):
        size = draw(TABLE_SIZES)
        if size is not None:
            encoder.header_table_size = size
        block = bytearray(encoder.encode(fields, huffman=draw(st.booleans())))
        if block and draw(st.integers(0, 4)) == 0:
            block[draw(st.integers(0, len(block) - 1))] = draw(st.integers(0, 255))
        made.append(bytes(block[: draw(st.integers(0, len(block)))] if draw(st.integers(0, 9)) == 0 else block))
    return made


def outcome(decoder: Decoder, block: bytes, *, raw: bool):
    try:
        return [(type(field), *field) for field in decoder.decode(block, raw=raw)]
    except HPACKError as error:
        return type(error)


def decoders(**limits: int) -> tuple[HeaderDecoder, Decoder]:
    ours, theirs = HeaderDecoder(), Decoder()
    for decoder in (ours, theirs):
        for name, value in limits.items():
            setattr(decoder, name, value)
    return ours, theirs


@given(st.one_of(blocks(), st.lists(st.binary(max_size=20), max_size=4)), st.booleans(), st.sampled_from([150, 65536]))
@unhurried
def test_any_blocks_are_what_hpack_makes_of_them(received: list[bytes], raw: bool, limit: int):
    ours, theirs = decoders(max_header_list_size=limit)
    for block in received:
        expected = outcome(theirs, block, raw=raw)
        assert outcome(ours, block, raw=raw) == expected
        if not isinstance(expected, list):
            break  # the connection is over
        assert ours.header_table_size == theirs.header_table_size


@pytest.mark.parametrize(
    "block", [b"\x80", b"\xbe", b"\xff\xff\xff\xff\xff\xff\x01", b"\x41", b"\x82\x20", b"\x3f\xe2\x1f"]
)
def test_blocks_that_break_the_rules(block: bytes):
    ours, theirs = decoders()
    expected = outcome(theirs, block, raw=True)
    assert outcome(ours, block, raw=True) == expected
    assert isinstance(expected, type)


def test_a_table_that_must_shrink():
    ours, theirs = decoders(max_allowed_table_size=100)
    for block in (b"\x82", b"\x3f\x45\x82", b"\x82"):
        assert outcome(ours, block, raw=True) == outcome(theirs, block, raw=True)


def test_a_table_of_many_fields_is_hpacks():
    """Its indexes take two bytes from 127 on, and the oldest fields make room for new ones."""
    ours, theirs, encoder = *decoders(), Encoder()
    fields = [(b"x-id", b"%d" % number) for number in range(200)]
    for field in fields:
        block = encoder.encode([field])
        assert outcome(ours, block, raw=True) == outcome(theirs, block, raw=True)

    held = len(theirs.header_table.dynamic_entries)
    assert 70 < held < len(fields)
    for index in range(1, 62 + held + 1):
        block = bytes([0x80 | index] if index < 127 else [0xFF, index - 127])
        assert outcome(ours, block, raw=True) == outcome(theirs, block, raw=True)
    assert outcome(ours, block, raw=True) is InvalidTableIndex


def test_a_block_is_decoded_once():
    """What was decoded for the short way is there for the long one, and the table is not moved on twice."""
    ours, encoder = HeaderDecoder(), Encoder()
    block = encoder.encode([("x-id", "1")])
    fields = ours.decode_fields(block)
    ours.remember(block, fields)
    assert [tuple(field) for field in ours.decode(block, raw=True)] == [(b"x-id", b"1")]
    assert [field.text for field in fields] == [("x-id", "1")]
    again = encoder.encode([("x-id", "1")])
    assert len(again) == 1
    assert [field.text for field in ours.decode_fields(again)] == [("x-id", "1")]


def test_a_block_that_failed_fails_again():
    ours = HeaderDecoder()
    block = b"\x40\x01a\x01b\xc0"
    with pytest.raises(HPACKError) as raised:
        ours.decode_fields(block)
    ours.remember(block, raised.value)
    with pytest.raises(HPACKError):
        ours.decode(block, raw=True)


TEXT_FIELDS = st.tuples(
    st.sampled_from([":status", "content-type", "grpc-status", "grpc-message", "grpc-timeout", "x-id"]),
    st.one_of(st.sampled_from(["0", "200", "application/grpc", "x" * 300]), st.text("abc %é", max_size=8)),
)


@given(st.lists(st.tuples(st.lists(TEXT_FIELDS, max_size=5), TABLE_SIZES), max_size=12))
@unhurried
def test_what_we_encode_hpack_decodes(lists):
    encoder, decoder = HeaderEncoder(), Decoder()
    for headers, size in lists:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode_block(headers)
        expected = [(name.encode(), value.strip(" ").encode("latin-1")) for name, value in headers]
        assert [tuple(field) for field in decoder.decode(block, raw=True)] == expected


def test_what_repeats_takes_a_byte_each_and_is_remembered():
    encoder = HeaderEncoder()
    headers = ((":status", "200"), ("content-type", "application/grpc"))
    first, second, third = (encoder.encode_block(headers) for _ in range(3))
    assert len(first) > len(second) == 2
    assert third is second


def test_a_new_size_of_the_table_is_announced_with_the_next_block_even_a_remembered_one():
    encoder, decoder = HeaderEncoder(), Decoder()
    status = [(":status", "200")]
    assert encoder.encode_block(status) == encoder.encode_block(status) == b"\x88"

    encoder.header_table_size = 100
    decoder.decode(encoder.encode_block(status))

    assert decoder.header_table_size == 100


def test_what_differs_in_each_call_stays_out_of_the_table():
    encoder = HeaderEncoder()
    for number in range(100):
        encoder.encode_block([("grpc-status", "3"), ("grpc-message", f"error number {number}")])
    assert len(encoder.header_table.dynamic_entries) == 1


def test_long_texts_go_out_as_they_are():
    encoder, text = HeaderEncoder(), "why " * 1000
    block = encoder.encode_block([("grpc-message", text + ".")])
    assert text.encode() in block
    assert list(Decoder().decode(block)) == [("grpc-message", text + ".")]


def test_what_is_remembered_is_bounded():
    encoder = HeaderEncoder()
    for number in range(1000):
        encoder.encode_block([("x-id", str(number))])
        encoder.encode_block([("x-id", str(number))])
    assert len(encoder._blocks) <= 32


def test_blocks_that_change_no_table_are_bounded_too():
    encoder = HeaderEncoder()
    for headers in itertools.permutations([("x-id", str(number)) for number in range(5)]):
        encoder.encode_block(headers)
    assert len(encoder._blocks) <= 32
