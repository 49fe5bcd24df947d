"""Literals without a declared type, for showing outputs."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from connectrio.idl.flyteidl2.core import Error, Literal, Scalar, Schema
from connectrio.idl.google.protobuf import ListValue, Struct, Value
from connectrio.literals import MAX_DEPTH, DataFrame, Dir, File, LiteralError, literal_to_python
from literals.makers import (
    EMPTY,
    INTEGER,
    NOTHING,
    binary,
    blob,
    boolean,
    collection,
    duration,
    generic,
    integer,
    mapping,
    msgpack,
    nested,
    number,
    primitive,
    string,
    table,
    timestamp,
    union_literal,
)

VALUES = [
    (integer(5), 5),
    (integer(0), 0),
    (number(5.0), 5.0),
    (string(""), ""),
    (boolean(False), False),
    (NOTHING, None),
    (timestamp(0), datetime(1970, 1, 1, tzinfo=UTC)),
    (duration(1, 500_000_000), timedelta(seconds=1.5)),
    (collection(integer(1), string("a"), collection()), [1, "a", []]),
    (mapping(a=integer(1), b=mapping()), {"a": 1, "b": {}}),
    (union_literal(integer(5), INTEGER), 5),
    (generic({"a": [1, None]}), {"a": [1.0, None]}),
    (msgpack({"a": [1, None]}), {"a": [1, None]}),
    (binary(b"\x80\x04."), b"\x80\x04."),
    (blob("a/b", "csv", hash="h"), File("a/b", "b", "csv", "h")),
    (blob("a/b", "PythonPickle"), File("a/b", "b", "PythonPickle")),
    (blob("a/b", dimensionality=1), Dir("a/b")),
    (table("u", "parquet"), DataFrame("u", "parquet")),
]


@pytest.mark.parametrize(("literal", "value"), VALUES)
def test_a_literals_own_form_says_what_it_is(literal, value):
    converted = literal_to_python(literal)
    assert repr(converted) == repr(value)


def test_not_a_number_stays_one():
    assert math.isnan(literal_to_python(number(math.nan)))


REFUSALS = [
    (EMPTY, "got an empty literal, which has no value here"),
    (Literal(scalar=Scalar()), "got an empty literal, which has no value here"),
    (primitive(), "got an empty literal, which has no value here"),
    (union_literal(None, INTEGER), "got an empty literal, which has no value here"),
    (Literal(scalar=Scalar(schema=Schema(uri="u"))), "got schema 'u', which has no value here"),
    (Literal(scalar=Scalar(error=Error(message="no"))), "got an error value, which has no value here"),
    (collection(integer(1), EMPTY), "value[1]: got an empty literal, which has no value here"),
    (mapping(a=timestamp(0, -1)), "value['a']: a timestamp of 0 s and -1 ns is out of range (years 1 to 9999)"),
    (binary(b"", "cbor"), "got binary data with tag 'cbor'; only 'msgpack' is understood"),
]  # fmt: skip


@pytest.mark.parametrize(("literal", "message"), REFUSALS)
def test_a_literal_without_a_value_is_an_error(literal, message):
    with pytest.raises(LiteralError) as caught:
        literal_to_python(literal)
    assert str(caught.value) == message


def in_a_list(value):
    return Value(list_value=ListValue(values=[value]))


def in_a_struct(value):
    return Value(struct_value=Struct(fields={"a": value}))


class TestDepth:
    @pytest.mark.parametrize("wrap", [collection, lambda x: mapping(a=x), lambda x: union_literal(x, INTEGER)])
    def test_literals_may_be_nested_to_the_limit_and_no_deeper(self, wrap):
        deepest = nested(MAX_DEPTH, wrap, integer(1))
        literal_to_python(deepest)
        with pytest.raises(LiteralError, match=r"nested more than 64 levels deep$"):
            literal_to_python(wrap(deepest))

    @pytest.mark.parametrize("wrap", [in_a_list, in_a_struct])
    def test_structs_may_be_nested_to_the_limit_and_no_deeper(self, wrap):
        def literal(levels):
            fields = {"a": nested(levels - 1, wrap, Value(number_value=1.0))}
            return Literal(scalar=Scalar(generic=Struct(fields=fields)))

        literal_to_python(literal(MAX_DEPTH))
        for levels in (MAX_DEPTH + 1, 5000):
            with pytest.raises(LiteralError, match=r"^nested more than 64 levels deep$"):
                literal_to_python(literal(levels))

    @pytest.mark.parametrize(("head", "tail"), [(b"\x91", b"\x01"), (b"\x81\xa1a", b"\x01")])
    def test_messagepack_may_be_nested_to_the_limit_and_no_deeper(self, head, tail):
        literal_to_python(binary(head * MAX_DEPTH + tail, "msgpack"))
        for levels in (MAX_DEPTH + 1, 100_000):
            with pytest.raises(LiteralError, match=r"^nested more than 64 levels deep$"):
                literal_to_python(binary(head * levels + tail, "msgpack"))
