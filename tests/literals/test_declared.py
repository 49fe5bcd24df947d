"""Python values, and what JSON has in their place, become literals of a declared type."""

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from enum import Enum
from pathlib import PurePosixPath

import pytest

from connectrio.idl.flyteidl2.core import (
    BlobType,
    LiteralType,
    StructuredDatasetType,
    StructuredDatasetTypeDatasetColumn,
)
from connectrio.literals import DataFrame, Dir, File, LiteralError, python_to_literal_as, type_name
from literals.makers import (
    BINARY,
    BOOLEAN,
    COLOURS,
    DATAFRAME,
    DATETIME,
    DIR,
    DURATION,
    FILE,
    FLOAT,
    INTEGER,
    NONE,
    NOTHING,
    STRING,
    STRUCT,
    blob,
    boolean,
    collection,
    dict_of,
    duration,
    integer,
    list_of,
    mapping,
    msgpack,
    number,
    sent,
    string,
    table,
    tagged,
    timestamp,
    union_literal,
    union_of,
)


class Colour(Enum):
    RED = "#f00"
    GREEN = "#0f0"


@dataclass
class Point:
    x: int


INT, STR, NO = tagged("int", INTEGER), tagged("str", STRING), tagged("none", NONE)
CSV_FILE = LiteralType(blob=BlobType(format="csv"))
ONE_DAY = timestamp(86_400)

VALUES = [
    (INTEGER, 5, integer(5)),
    (INTEGER, 5.0, integer(5)),
    (FLOAT, 5.5, number(5.5)),
    (FLOAT, 5, number(5.0)),
    (STRING, "5", string("5")),
    (BOOLEAN, True, boolean(True)),
    (NONE, None, NOTHING),
    (DATETIME, "1970-01-02T00:00:00Z", ONE_DAY),
    (DATETIME, "1970-01-02T02:00:00+02:00", ONE_DAY),
    (DATETIME, "1970-01-02", ONE_DAY),
    (DATETIME, "1970-01-02T00:00:00.123456789", timestamp(86_400, 123_456_000)),
    (DATETIME, datetime(1970, 1, 2, 2, tzinfo=timezone(timedelta(hours=2))), ONE_DAY),
    (DATETIME, date(1970, 1, 2), ONE_DAY),
    (DURATION, "1.5s", duration(1, 500_000_000)),
    (DURATION, "-1.5s", duration(-1, -500_000_000)),
    (DURATION, "+90s", duration(90)),
    (DURATION, "0.123456789s", duration(0, 123_456_000)),
    (DURATION, "PT1.5S", duration(1, 500_000_000)),
    (DURATION, "P1DT1H", duration(90_000)),
    (DURATION, 90, duration(90)),
    (DURATION, -1.5, duration(-1, -500_000_000)),
    (DURATION, timedelta(minutes=1), duration(60)),
    (COLOURS, "RED", string("RED")),
    (COLOURS, Colour.RED, string("RED")),
    (STRUCT, {"a": [1, 2.5, None]}, msgpack({"a": [1, 2.5, None]})),
    (STRUCT, Point(1), msgpack({"x": 1})),
    (BINARY, b"b", msgpack(b"b")),
    (BINARY, {"a": 1}, msgpack({"a": 1})),
    (FILE, "s3://a/b", blob("s3://a/b")),
    (FILE, File("s3://a/b", format="csv", hash="h"), blob("s3://a/b", "csv", hash="h")),
    (FILE, {"path": "s3://a/b", "hash": "h"}, blob("s3://a/b", hash="h")),
    (CSV_FILE, "s3://a/b", blob("s3://a/b", "csv")),
    (CSV_FILE, File("s3://a/b", format="tsv"), blob("s3://a/b", "tsv")),
    (DIR, "s3://a/b", blob("s3://a/b", dimensionality=1)),
    (DATAFRAME, "s3://a/t", table("s3://a/t")),
    (DATAFRAME, DataFrame("s3://a/t", "parquet", "h"), table("s3://a/t", "parquet", "h")),
    (DATAFRAME, {"uri": "s3://a/t", "format": "csv"}, table("s3://a/t", "csv")),
    (list_of(INTEGER), [], collection()),
    (list_of(FLOAT), [1, 2.5], collection(number(1.0), number(2.5))),
    (list_of(FLOAT), (1,), collection(number(1.0))),
    (dict_of(list_of(DATETIME)), {"a": ["1970-01-02"]}, mapping(a=collection(ONE_DAY))),
    (union_of(INT, STR), 5, union_literal(integer(5), INT)),
    (union_of(INT, STR), "x", union_literal(string("x"), STR)),
    (union_of(INT, NO), None, union_literal(NOTHING, NO)),
    (union_of(FLOAT, INTEGER), 5, union_literal(integer(5), INTEGER)),
    (union_of(INTEGER, FLOAT), 5.0, union_literal(number(5.0), FLOAT)),
    (union_of(DATETIME, NONE), "1970-01-02", union_literal(ONE_DAY, DATETIME)),
    (union_of(FILE, STRING), "a/b", union_literal(string("a/b"), STRING)),
    (union_of(FILE, NONE), "a/b", union_literal(blob("a/b"), FILE)),
    (union_of(FILE, STRUCT), {"path": "a/b"}, union_literal(msgpack({"path": "a/b"}), STRUCT)),
    (union_of(list_of(INTEGER), STRING), [1], union_literal(collection(integer(1)), list_of(INTEGER))),
    (list_of(union_of(INT, NO)), [1, None], collection(union_literal(integer(1), INT), union_literal(NOTHING, NO))),
]


@pytest.mark.parametrize(
    ("literal_type", "value", "literal"), VALUES, ids=lambda part: type_name(part) if hasattr(part, "simple") else ""
)
def test_json_and_python_values_become_literals_of_the_declared_type(literal_type, value, literal):
    assert bytes(python_to_literal_as(value, literal_type)) == bytes(sent(literal))


def test_a_data_frame_keeps_the_declared_columns():
    columns = [StructuredDatasetTypeDatasetColumn(name="a", literal_type=INTEGER)]
    declared = LiteralType(structured_dataset_type=StructuredDatasetType(columns=columns, format="csv"))
    dataset = python_to_literal_as("s3://a/t", declared).scalar.structured_dataset
    assert dataset.metadata.structured_dataset_type == declared.structured_dataset_type


REFUSALS = [
    (INTEGER, "5", "expected int, got str '5'"),
    (INTEGER, True, "expected int, got bool True"),
    (INTEGER, 2**63, "int 9223372036854775808 is out of range (64 bits with sign)"),
    (FLOAT, 10**400, "int of 1329 bits is out of range for a float"),
    (FLOAT, False, "expected float, got bool False"),
    (FLOAT, None, "expected float, got None"),
    (STRING, 5, "expected str, got int 5"),
    (STRING, b"x", "expected str, got bytes of length 1"),
    (STRING, Colour.RED, "expected str, got Colour.RED"),
    (BOOLEAN, 1, "expected bool, got int 1"),
    (BOOLEAN, "true", "expected bool, got str 'true'"),
    (NONE, 0, "expected None, got int 0"),
    (DATETIME, "yesterday", "expected datetime, got str 'yesterday', which is not ISO 8601"),
    (DATETIME, 5, "expected datetime, got int 5"),
    (DURATION, "1.5", "expected timedelta, got str '1.5', which is neither seconds ('1.5s') nor ISO 8601 ('PT1.5S')"),
    (DURATION, "P1Y", "expected timedelta, got str 'P1Y', which is neither seconds ('1.5s') nor ISO 8601 ('PT1.5S')"),
    (
        DURATION,
        "\ud800",
        "expected timedelta, got str '\\ud800', which is neither seconds ('1.5s') nor ISO 8601 ('PT1.5S')",
    ),
    (DURATION, "999999999999999s", "a duration of 999999999999999s is out of range (10000 years)"),
    (DURATION, "400000000000s", "timedelta 4629629 days, 15:06:40 is out of range (10000 years)"),
    (DURATION, math.inf, "float inf is out of range for seconds (10000 years)"),
    (DURATION, True, "expected timedelta, got bool True"),
    (COLOURS, "GREEN", "expected enum['RED', 'BLUE'], got str 'GREEN'"),
    (COLOURS, Colour.GREEN, "expected enum['RED', 'BLUE'], got Colour.GREEN"),
    (STRUCT, [1], "expected dict, got list of length 1"),
    (STRUCT, {"a": {1}}, "value['a']: set is not data that a struct can hold (declared as dict)"),
    (FILE, 5, "expected File, got int 5"),
    (FILE, Dir("a"), "expected File, got Dir 'a'"),
    (FILE, {}, "expected File, got dict of length 0: Object missing required field `path`"),
    (DATAFRAME, File("a"), "expected DataFrame, got File 'a'"),
    (DATAFRAME, File(PurePosixPath("a")), "expected DataFrame, got File 'a'"),
    (DATAFRAME, "", "a DataFrame needs the uri at which its data are stored"),
    (list_of(INTEGER), "abc", "expected list[int], got str 'abc'"),
    (list_of(INTEGER), [1, "a"], "value[1]: expected int, got str 'a' (declared as list[int])"),
    (dict_of(INTEGER), {"a": None}, "value['a']: expected int, got None (declared as dict[str, int])"),
    (dict_of(INTEGER), {1: 1}, "the keys of dict[str, int] are str, not int"),
    (dict_of(INTEGER), {"\ud800": 1}, "str '\\ud800' is not valid Unicode: surrogates not allowed"),
    (union_of(INTEGER, NONE), "x", "expected int | None, got str 'x'"),
    (union_of(DATETIME, NONE), "yesterday", "expected datetime, got str 'yesterday', which is not ISO 8601"),
    (
        union_of(FILE, DIR),
        "a/b",
        "str 'a/b' is ambiguous: File and Dir match; send a union value that names its variant",
    ),
]


@pytest.mark.parametrize(("literal_type", "value", "message"), REFUSALS)
def test_what_means_nothing_of_the_declared_type_is_an_error(literal_type, value, message):
    with pytest.raises(LiteralError) as caught:
        python_to_literal_as(value, literal_type)
    assert str(caught.value) == message


def test_long_texts_are_described_and_not_shown():
    with pytest.raises(LiteralError, match=r"^expected datetime, got str of 60 characters, which is not ISO 8601$"):
        python_to_literal_as("x" * 60, DATETIME)
