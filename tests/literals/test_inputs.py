"""Literals become Python values by their declared types."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from connectrio.idl.flyteidl2.core import Blob, Literal, Scalar, StructuredDataset
from connectrio.literals import DataFrame, Dir, File, LiteralError, inputs_to_python, literal_to_python, type_name
from literals.makers import (
    BINARY,
    BOOLEAN,
    COLOURS,
    DATAFRAME,
    DATETIME,
    DIR,
    DURATION,
    EMPTY,
    FILE,
    FLOAT,
    INTEGER,
    NONE,
    NOTHING,
    STRING,
    STRUCT,
    binary,
    blob,
    boolean,
    collection,
    dict_of,
    duration,
    generic,
    inputs,
    integer,
    interface,
    list_of,
    mapping,
    msgpack,
    number,
    primitive,
    string,
    table,
    timestamp,
    union_literal,
)

VALUES = [
    (INTEGER, integer(5), 5),
    (INTEGER, integer(0), 0),
    (INTEGER, integer(-(2**63)), -(2**63)),
    (INTEGER, number(5.0), 5),
    (INTEGER, msgpack(5), 5),
    (INTEGER, msgpack(5.0), 5),
    (FLOAT, number(5.5), 5.5),
    (FLOAT, number(0.0), 0.0),
    (FLOAT, number(math.inf), math.inf),
    (FLOAT, integer(5), 5.0),
    (FLOAT, msgpack(5.5), 5.5),
    (FLOAT, msgpack(5), 5.0),
    (STRING, string("abc"), "abc"),
    (STRING, string(""), ""),
    (STRING, msgpack("abc"), "abc"),
    (BOOLEAN, boolean(True), True),
    (BOOLEAN, boolean(False), False),
    (BOOLEAN, msgpack(False), False),
    (NONE, NOTHING, None),
    (NONE, msgpack(None), None),
    (DATETIME, timestamp(0), datetime(1970, 1, 1, tzinfo=UTC)),
    (DATETIME, timestamp(1_700_000_000, 123_456_789), datetime(2023, 11, 14, 22, 13, 20, 123_456, tzinfo=UTC)),
    (DATETIME, timestamp(-1, 999_999_999), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    (DATETIME, timestamp(-62_135_596_800), datetime(1, 1, 1, tzinfo=UTC)),
    (DATETIME, timestamp(253_402_300_799, 999_999_999), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    (DATETIME, msgpack("2024-05-01T02:00:00+02:00"), datetime(2024, 5, 1, tzinfo=UTC)),
    (DATETIME, msgpack(datetime(2024, 5, 1, tzinfo=UTC)), datetime(2024, 5, 1, tzinfo=UTC)),
    (DURATION, duration(1, 500_000_999), timedelta(seconds=1, microseconds=500_000)),
    (DURATION, duration(-1, -500_000_999), timedelta(seconds=-1, microseconds=-500_000)),
    (DURATION, duration(0), timedelta(0)),
    (DURATION, duration(315_576_000_000), timedelta(seconds=315_576_000_000)),
    (DURATION, msgpack(1.5), timedelta(seconds=1.5)),
    (list_of(INTEGER), collection(), []),
    (list_of(INTEGER), collection(integer(1), number(2.0)), [1, 2]),
    (list_of(list_of(STRING)), collection(collection(string("a")), collection()), [["a"], []]),
    (list_of(INTEGER), msgpack([1, 2]), [1, 2]),
    (dict_of(INTEGER), mapping(), {}),
    (dict_of(INTEGER), mapping(b=integer(1), a=integer(2)), {"a": 2, "b": 1}),
    (dict_of(list_of(BOOLEAN)), mapping(a=collection(boolean(True))), {"a": [True]}),
    (dict_of(FLOAT), msgpack({"a": 1}), {"a": 1.0}),
    (COLOURS, string("RED"), "RED"),
    (COLOURS, msgpack("BLUE"), "BLUE"),
    (STRUCT, generic({}), {}),
    (
        STRUCT,
        generic({"n": 1, "xs": [1, "x", None, True, {"y": 1.5}]}),
        {"n": 1.0, "xs": [1.0, "x", None, True, {"y": 1.5}]},
    ),
    (STRUCT, msgpack({"n": 1, "xs": [1.5, b"b", None]}), {"n": 1, "xs": [1.5, b"b", None]}),
    (STRUCT, msgpack({1: 2}), {1: 2}),
    (BINARY, msgpack([1, {"a": b"b"}]), [1, {"a": b"b"}]),
    (FILE, blob("s3://a/b.csv", "csv", hash="h"), File("s3://a/b.csv", "b.csv", "csv", "h")),
    (FILE, Literal(scalar=Scalar(blob=Blob(uri="/tmp/x"))), File("/tmp/x", "x")),
    (FILE, msgpack({"path": "/a/b", "name": "c", "format": "", "hash": None}), File("/a/b", "c")),
    (DIR, blob("s3://a/b/", dimensionality=1), Dir("s3://a/b/", "b")),
    (DATAFRAME, table("s3://a/t", "parquet", "h"), DataFrame("s3://a/t", "parquet", "h")),
    (DATAFRAME, Literal(scalar=Scalar(structured_dataset=StructuredDataset(uri="u"))), DataFrame("u")),
    (DATAFRAME, msgpack({"uri": "u", "format": "csv"}), DataFrame("u", "csv")),
]


@pytest.mark.parametrize(
    ("literal_type", "literal", "value"), VALUES, ids=lambda part: type_name(part) if hasattr(part, "simple") else ""
)
def test_literals_become_values_of_their_declared_type(literal_type, literal, value):
    converted = literal_to_python(literal, literal_type)
    assert converted == value
    assert type(converted) is type(value)


def test_not_a_number_stays_one():
    assert math.isnan(literal_to_python(number(math.nan), FLOAT))


def test_datetimes_are_aware_and_in_utc():
    assert literal_to_python(timestamp(0), DATETIME).tzinfo is UTC
    assert literal_to_python(msgpack("2024-05-01T02:00:00+02:00"), DATETIME).tzinfo is UTC


OUT_OF_RANGE_IN_UTC = "datetime 0001-01-01T00:00:00+01:00 is out of range in UTC (years 1 to 9999)"

REFUSALS = [
    (INTEGER, number(5.9), "expected int, got float 5.9"),
    (INTEGER, number(math.nan), "expected int, got float nan"),
    (INTEGER, number(math.inf), "expected int, got float inf"),
    (INTEGER, number(1e300), "int of 997 bits is out of range (64 bits with sign)"),
    (INTEGER, string("5"), "expected int, got str '5'"),
    (INTEGER, boolean(True), "expected int, got bool True"),
    (INTEGER, NOTHING, "expected int, got None"),
    (INTEGER, EMPTY, "expected int, got an empty literal"),
    (INTEGER, Literal(scalar=Scalar()), "expected int, got an empty literal"),
    (INTEGER, primitive(), "expected int, got an empty literal"),
    (INTEGER, msgpack(True), "expected int, got bool True"),
    (INTEGER, msgpack(2**63), "int 9223372036854775808 is out of range (64 bits with sign)"),
    (INTEGER, union_literal(integer(1), INTEGER), "expected int, got a union value"),
    (FLOAT, string("5"), "expected float, got str '5'"),
    (FLOAT, boolean(False), "expected float, got bool False"),
    (FLOAT, msgpack(True), "expected float, got bool True"),
    (FLOAT, EMPTY, "expected float, got an empty literal"),
    (STRING, EMPTY, "expected str, got an empty literal"),
    (STRING, integer(5), "expected str, got int 5"),
    (STRING, duration(1), "expected str, got timedelta"),
    (STRING, generic({"a": 1}), "expected str, got struct of length 1"),
    (BOOLEAN, EMPTY, "expected bool, got an empty literal"),
    (BOOLEAN, string("true"), "expected bool, got str 'true'"),
    (BOOLEAN, integer(0), "expected bool, got int 0"),
    (NONE, EMPTY, "expected None, got an empty literal"),
    (NONE, integer(0), "expected None, got int 0"),
    (NONE, msgpack(0), "expected None, got int 0"),
    (DATETIME, string("2024-05-01"), "expected datetime, got str '2024-05-01'"),
    (DATETIME, timestamp(253_402_300_800), "a timestamp of 253402300800 s and 0 ns is out of range (years 1 to 9999)"),
    (DATETIME, timestamp(-62_135_596_801), "a timestamp of -62135596801 s and 0 ns is out of range (years 1 to 9999)"),
    (DATETIME, timestamp(0, -1), "a timestamp of 0 s and -1 ns is out of range (years 1 to 9999)"),
    (DATETIME, timestamp(0, 10**9), "a timestamp of 0 s and 1000000000 ns is out of range (years 1 to 9999)"),
    (DATETIME, msgpack("yesterday"), "expected datetime, got str 'yesterday', which is not ISO 8601"),
    (DATETIME, msgpack("0001-01-01T00:00:00+01:00"), OUT_OF_RANGE_IN_UTC),
    (DURATION, duration(2**62), "a duration of 4611686018427387904 s is out of range (999999999 days)"),
    (DURATION, integer(1), "expected timedelta, got int 1"),
    (DURATION, msgpack(True), "expected timedelta, got bool True"),
    (DURATION, msgpack(math.nan), "float nan is out of range for seconds (10000 years)"),
    (list_of(INTEGER), integer(1), "expected list[int], got int 1"),
    (list_of(INTEGER), EMPTY, "expected list[int], got an empty literal"),
    (list_of(INTEGER), mapping(a=integer(1)), "expected list[int], got map of length 1"),
    (list_of(INTEGER), msgpack("abc"), "expected list[int], got str 'abc'"),
    (dict_of(INTEGER), EMPTY, "expected dict[str, int], got an empty literal"),
    (dict_of(INTEGER), collection(integer(1)), "expected dict[str, int], got list of length 1"),
    (dict_of(INTEGER), msgpack({1: 2}), "the keys of dict[str, int] are str, not int"),
    (COLOURS, string("GREEN"), "expected enum['RED', 'BLUE'], got str 'GREEN'"),
    (COLOURS, integer(1), "expected enum['RED', 'BLUE'], got int 1"),
    (STRUCT, EMPTY, "expected dict, got an empty literal"),
    (STRUCT, mapping(a=integer(1)), "expected dict, got map of length 1"),
    (STRUCT, msgpack([1]), "expected dict, got list of length 1"),
    (FILE, blob("s3://a/b/", dimensionality=1), "expected File, got Dir 's3://a/b/'"),
    (FILE, blob("x", dimensionality=7), "expected File or Dir, got a blob of the unknown kind 7"),
    (FILE, string("s3://a/b"), "expected File, got str 's3://a/b'"),
    (FILE, msgpack({"name": "x"}), "expected File, got dict of length 1: Object missing required field `path`"),
    (DIR, blob("s3://a/b"), "expected Dir, got File 's3://a/b'"),
    (DATAFRAME, integer(5), "expected DataFrame, got int 5"),
    (DATAFRAME, blob("s3://a/b"), "expected DataFrame, got File 's3://a/b'"),
    (DATAFRAME, EMPTY, "expected DataFrame, got an empty literal"),
    (STRING, binary(b"abc", "cbor"), "got binary data with tag 'cbor'; only 'msgpack' is understood"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("literal_type", "literal", "message"), REFUSALS, ids=lambda part: part if isinstance(part, str) else ""
)
def test_what_is_not_of_the_declared_type_is_an_error_that_says_what_came(literal_type, literal, message):
    with pytest.raises(LiteralError) as caught:
        literal_to_python(literal, literal_type)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x01\x02", b"\xa1\xff", b"\xdd\xff\xff\xff\xff", b"\x81\x81\x01\x02\x03", b"\xd4\x05\x00"]
)
def test_messagepack_that_is_malformed_or_of_unknown_extensions_is_an_error(data):
    with pytest.raises(LiteralError, match=r"^got malformed MessagePack: "):
        literal_to_python(binary(data, "msgpack"), STRUCT)


class TestInterface:
    def test_inputs_come_in_the_interfaces_order(self):
        converted = inputs_to_python(
            inputs(c=string("x"), a=integer(1), b=boolean(True)), interface(a=INTEGER, b=BOOLEAN, c=STRING)
        )
        assert list(converted.items()) == [("a", 1), ("b", True), ("c", "x")]

    def test_an_input_that_did_not_come_is_absent(self):
        assert inputs_to_python(inputs(b=integer(1)), interface(a=INTEGER, b=INTEGER)) == {"b": 1}

    @pytest.mark.parametrize("came", [None, inputs()])
    @pytest.mark.parametrize("declared", [None, interface(), interface(a=INTEGER)])
    def test_without_inputs_there_are_no_values(self, came, declared):
        assert inputs_to_python(came, declared) == {}

    def test_of_several_literals_with_one_name_the_last_counts(self):
        came = inputs(("a", string("not even an integer")), ("a", integer(1)), ("a", integer(2)))
        assert inputs_to_python(came, interface(a=INTEGER)) == {"a": 2}

    def test_a_literal_that_is_missing_altogether_is_an_empty_one(self):
        with pytest.raises(LiteralError, match=r"^input 'a': expected int, got an empty literal$"):
            inputs_to_python(inputs(a=None), interface(a=INTEGER))

    @pytest.mark.parametrize(
        ("came", "declared", "message"),
        [
            (
                inputs(z=integer(1)),
                interface(a=INTEGER, b=INTEGER),
                "input 'z' is not declared in the task's interface: it declares 'a', 'b'",
            ),
            (
                inputs(a=integer(1), y=integer(1), z=integer(1)),
                interface(a=INTEGER),
                "inputs 'y', 'z' are not declared in the task's interface: it declares 'a' (3 came for 1 declared)",
            ),
            (
                inputs(z=integer(1)),
                None,
                "input 'z' is not declared in the task's interface: it declares none (1 came for 0 declared)",
            ),
        ],
    )
    def test_an_undeclared_input_is_an_error_that_names_it_and_the_declared_ones(self, came, declared, message):
        with pytest.raises(LiteralError) as caught:
            inputs_to_python(came, declared)
        assert str(caught.value) == message

    def test_a_list_of_names_in_an_error_is_short(self):
        declared = interface(**{f"input_{number}": INTEGER for number in range(1000)})
        with pytest.raises(LiteralError, match=r"'input_9' and 990 more$"):
            inputs_to_python(inputs(z=integer(1)), declared)
