"""Python values become literals by their classes, without a declared type."""

import math
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import msgspec
import pytest

from connectrio.idl.flyteidl2 import core
from connectrio.idl.flyteidl2.core import Literal, Scalar
from connectrio.idl.flyteidl2.task import NamedLiteral, Outputs
from connectrio.idl.google.protobuf import Struct
from connectrio.literals import (
    MAX_DEPTH,
    DataFrame,
    Dir,
    File,
    LiteralError,
    literal_to_python,
    outputs_to_literals,
    python_to_literal,
)
from literals.makers import (
    EMPTY,
    NOTHING,
    binary,
    blob,
    boolean,
    collection,
    duration,
    integer,
    nested,
    number,
    sent,
    string,
    table,
    timestamp,
)


class Colour(Enum):
    RED = "#f00"
    BLUE = 2


class Level(IntEnum):
    LOW = 1


class Name(str):
    __slots__ = ()


@dataclass
class Point:
    x: int
    y: float = 0.5
    tags: list[str] = field(default_factory=list)


class Pair(NamedTuple):
    left: int
    right: str


class Model:
    """Has the one method by which pydantic's models are known."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self._fields


VALUES = [
    (5, integer(5)),
    (-(2**63), integer(-(2**63))),
    (2**63 - 1, integer(2**63 - 1)),
    (True, boolean(True)),
    (False, boolean(False)),
    (5.0, number(5.0)),
    (-math.inf, number(-math.inf)),
    ("", string("")),
    ("Grüße 🐍", string("Grüße 🐍")),
    (Name("x"), string("x")),
    (None, NOTHING),
    (Colour.RED, string("RED")),
    (Level.LOW, string("LOW")),
    (datetime(2023, 11, 14, 22, 13, 20, 123_456, tzinfo=UTC), timestamp(1_700_000_000, 123_456_000)),
    (datetime(2023, 11, 14, 22, 13, 20), timestamp(1_700_000_000)),  # noqa: DTZ001 - naive on purpose
    (datetime(2023, 11, 15, 0, 13, 20, tzinfo=timezone(timedelta(hours=2))), timestamp(1_700_000_000)),
    (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), timestamp(-1, 999_999_000)),
    (datetime.min.replace(tzinfo=UTC), timestamp(-62_135_596_800)),
    (datetime.max.replace(tzinfo=UTC), timestamp(253_402_300_799, 999_999_000)),
    (date(1970, 1, 2), timestamp(86_400)),
    (timedelta(seconds=1.5), duration(1, 500_000_000)),
    (timedelta(seconds=-1.5), duration(-1, -500_000_000)),
    (timedelta(microseconds=-1), duration(0, -1000)),
    (timedelta(seconds=315_576_000_000), duration(315_576_000_000)),
    ([], collection()),
    ([1, "a", [None]], collection(integer(1), string("a"), collection(NOTHING))),
    ((1, 2.0), collection(integer(1), number(2.0))),
    (b"\x00\xff", binary(b"\x00\xff")),
    (File("s3://a/b.csv", format="csv", hash="h"), blob("s3://a/b.csv", "csv", hash="h")),
    (Dir("s3://a/b"), blob("s3://a/b", dimensionality=1)),
    (DataFrame("s3://a/t", "parquet", "h"), table("s3://a/t", "parquet", "h")),
    (Struct.from_dict({"a": 1}), Literal(scalar=Scalar(generic=Struct.from_dict({"a": 1})))),
    (integer(7), integer(7)),
    ([string("x")], collection(string("x"))),
    (EMPTY, EMPTY),
]


@pytest.mark.parametrize(("value", "literal"), VALUES)
def test_values_become_literals_by_their_class(value, literal):
    assert bytes(python_to_literal(value)) == bytes(sent(literal))


def test_not_a_number_stays_one():
    assert math.isnan(python_to_literal(math.nan).scalar.primitive.float_value)


STRUCTS = [
    ({}, {}),
    ({"a": 1, "b": [1.5, None, True, b"b", ("x",)]}, {"a": 1, "b": [1.5, None, True, b"b", ["x"]]}),
    ({1: "a", Colour.BLUE: "b"}, {1: "a", 2: "b"}),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (Point(1, tags=["a"]), {"x": 1, "y": 0.5, "tags": ["a"]}),
    ({"points": [Point(1), Point(2)]}, {"points": [{"x": 1, "y": 0.5, "tags": []}, {"x": 2, "y": 0.5, "tags": []}]}),
    (Pair(1, "a"), {"left": 1, "right": "a"}),
    (namedtuple("Old", "a b")(1, 2), {"a": 1, "b": 2}),  # noqa: PYI024 - the old form counts too
    (Model(a=1, b=Model(c=[Colour.RED])), {"a": 1, "b": {"c": ["#f00"]}}),
    ({"file": File("a/b", hash="h")}, {"file": {"path": "a/b", "name": "b", "format": "", "hash": "h"}}),
    ({"at": datetime(2024, 5, 1, tzinfo=UTC)}, {"at": "2024-05-01T00:00:00+00:00"}),
    ({"on": date(2024, 5, 1), "for": timedelta(seconds=1.5)}, {"on": "2024-05-01", "for": 1.5}),
    ({"level": Level.LOW, "name": Name("n")}, {"level": 1, "name": "n"}),
]


@pytest.mark.parametrize(("value", "data"), STRUCTS)
def test_dictionaries_and_objects_become_messagepack(value, data):
    packed = python_to_literal(value).scalar.binary
    assert packed.tag == "msgpack"
    assert msgspec.msgpack.decode(packed.value) == data


REFUSALS = [
    (2**63, "int 9223372036854775808 is out of range (64 bits with sign)"),
    (-(2**63) - 1, "int -9223372036854775809 is out of range (64 bits with sign)"),
    pytest.param(10**5000, "int of 16610 bits is out of range (64 bits with sign)", id="an integer that has no text"),
    (timedelta.max, "timedelta 999999999 days, 23:59:59.999999 is out of range (10000 years)"),
    (
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        "datetime 0001-01-01T00:00:00+01:00 is out of range in UTC (years 1 to 9999)",
    ),
    ("\ud800", "str '\\ud800' is not valid Unicode: surrogates not allowed"),
    (File("a\udcff"), "str 'a\\udcff' is not valid Unicode: surrogates not allowed"),
    (DataFrame(""), "a DataFrame needs the uri at which its data are stored"),
    ({(1, 2): 3}, "value[…]: the keys of a struct are str or int, not tuple"),
    ({"a": [{1, 2}]}, "value['a'][0]: set is not data that a struct can hold"),
    ({"a": {2: object()}}, "value['a'][2]: object is not data that a struct can hold"),
    ({"a": integer(1)}, "value['a']: connectrio.idl.flyteidl2.core.Literal is not data that a struct can hold"),
]


@pytest.mark.parametrize(("value", "message"), REFUSALS)
def test_what_no_literal_can_hold_is_an_error(value, message):
    with pytest.raises(LiteralError) as caught:
        python_to_literal(value)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [{"a": 2**64}, {"a": "\ud800"}, {"\ud800": 1}])
def test_what_messagepack_cannot_hold_is_an_error(value):
    with pytest.raises(LiteralError, match=r"^cannot be written as MessagePack: "):
        python_to_literal(value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({1, 2}, "set"),
        (object(), "object"),
        (bytearray(b"x"), "bytearray"),
        (Point, "type"),
        (core.TaskLog(), "connectrio.idl.flyteidl2.core.TaskLog"),
        (Decimal(1), "decimal.Decimal"),
    ],
)
def test_an_object_without_a_literal_is_named_with_its_output(value, name):
    with pytest.raises(LiteralError) as caught:
        outputs_to_literals({"good": 1, "bad": [0, value]})
    assert str(caught.value) == (
        f"output 'bad'[1]: Flyte has no literal for {name}: store it and return a File, Dir or DataFrame,"
        " or return numbers, texts, times, lists, dicts or dataclasses"
    )


def test_a_path_object_is_no_path():
    with pytest.raises(LiteralError, match=r"^expected str, got pathlib\.\S*PurePosixPath$"):
        python_to_literal(File(PurePosixPath("a/b")))


class TestOutputs:
    def test_outputs_keep_their_names_and_order(self):
        assert outputs_to_literals({"b": 1, "a": "x"}) == Outputs(
            literals=[NamedLiteral(name="b", value=integer(1)), NamedLiteral(name="a", value=string("x"))]
        )

    def test_no_outputs_are_none(self):
        assert outputs_to_literals({}) == Outputs()

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (1, "output '1': expected str, got int 1"),
            ("\ud800", "output '\\ud800': str '\\ud800' is not valid Unicode: surrogates not allowed"),
        ],
    )
    def test_a_name_that_cannot_be_sent_is_an_error(self, name, message):
        with pytest.raises(LiteralError) as caught:
            outputs_to_literals({name: 1})
        assert str(caught.value) == message


class TestDepth:
    @pytest.mark.parametrize("wrap", [lambda item: [item], lambda item: (item,), lambda item: {"a": item}])
    def test_values_may_be_nested_to_the_limit_and_no_deeper(self, wrap):
        deepest = nested(MAX_DEPTH, wrap, 1)
        literal = sent(python_to_literal(deepest))
        assert repr(literal_to_python(literal)) == repr(deepest).replace("(", "[").replace(",)", "]")
        with pytest.raises(LiteralError, match=r"nested more than 64 levels deep$"):
            python_to_literal(wrap(deepest))

    def test_a_value_that_contains_itself_is_an_error(self):
        items: list[Any] = []
        items.append([items, items])
        with pytest.raises(LiteralError, match=r"nested more than 64 levels deep$"):
            python_to_literal(items)
        with pytest.raises(LiteralError, match=r"nested more than 64 levels deep$"):
            python_to_literal({"a": items})
