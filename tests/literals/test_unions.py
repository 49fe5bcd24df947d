"""A literal belongs to one variant of a union."""

import pytest

from connectrio.idl.flyteidl2 import core
from connectrio.idl.flyteidl2.core import LiteralType, Scalar, StructuredDatasetType, StructuredDatasetTypeDatasetColumn
from connectrio.literals import DataFrame, Dir, File, LiteralError, literal_to_python, type_name
from literals.makers import (
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
    PICKLE,
    STRING,
    STRUCT,
    binary,
    blob,
    boolean,
    collection,
    dict_of,
    integer,
    list_of,
    mapping,
    msgpack,
    nested,
    number,
    sent,
    string,
    table,
    tagged,
    timestamp,
    union_literal,
    union_of,
)

INT = tagged("int", INTEGER)
STR = tagged("str", STRING)
NO = tagged("none", NONE)
INTS = tagged("Typed List", list_of(INTEGER))
STRS = tagged("Typed List", list_of(STRING))

BY_TYPE = [
    pytest.param(union_of(INT, STR), integer(5), INT, 5, id="tag"),
    pytest.param(union_of(INT, NO), NOTHING, NO, None, id="none"),
    pytest.param(union_of(INT, STR), integer(5), INTEGER, 5, id="equal type without a tag"),
    pytest.param(union_of(INTEGER, STRING), string("x"), STR, "x", id="equal type under another tag"),
    pytest.param(union_of(INTS, STRS), collection(), STRS, [], id="shared tag, equal type"),
    pytest.param(union_of(INTS, STRS), collection(string("x")), STRS, ["x"], id="shared tag, equal type, items"),
    pytest.param(union_of(INT, STR), integer(5), LiteralType(), 5, id="a type that says nothing"),
    pytest.param(union_of(INT, STR), integer(5), None, 5, id="no type"),
    pytest.param(union_of(dict_of(INTEGER), dict_of(STRING)), mapping(), dict_of(STRING), {}, id="maps"),
    pytest.param(union_of(union_of(INTEGER, NONE), STRING), integer(1), union_of(INTEGER, NONE), 1, id="union in it"),
    pytest.param(union_of(FILE, DIR, NONE), blob("a/b", dimensionality=1), DIR, Dir("a/b"), id="blobs"),
    pytest.param(union_of(DATAFRAME, NONE), table("u"), DATAFRAME, DataFrame("u"), id="structured dataset"),
    pytest.param(union_of(COLOURS, INTEGER), string("RED"), COLOURS, "RED", id="enum"),
    pytest.param(union_of(STRUCT, NONE), msgpack({"a": 1}), STRUCT, {"a": 1}, id="struct"),
]


@pytest.mark.parametrize(("declared", "literal", "variant", "value"), BY_TYPE)
def test_a_union_literal_says_which_variant_it_is_of(declared, literal, variant, value):
    assert literal_to_python(union_literal(literal, variant), declared) == value


def test_a_tag_decides_before_types_do():
    kelvin, celsius = tagged("kelvin", FLOAT), tagged("celsius", FLOAT)
    assert literal_to_python(union_literal(integer(5), celsius), union_of(kelvin, celsius)) == 5.0


def test_data_frames_with_other_columns_or_formats_are_other_types():
    def csv(*columns):
        parts = [StructuredDatasetTypeDatasetColumn(name=column) for column in columns]
        return LiteralType(structured_dataset_type=StructuredDatasetType(columns=parts, format="csv"))

    declared = union_of(csv("a"), csv("b"), DATAFRAME)
    assert literal_to_python(union_literal(table("u"), csv("b")), declared) == DataFrame("u")
    with pytest.raises(LiteralError, match="not among them"):
        literal_to_python(union_literal(table("u"), csv("c")), declared)


BARE = [
    (union_of(INTEGER, FLOAT), integer(5), 5),
    (union_of(FLOAT, INTEGER), integer(5), 5),
    (union_of(INTEGER, FLOAT), number(5.0), 5.0),
    (union_of(INTEGER, FLOAT), msgpack(5), 5),
    (union_of(FLOAT, STRING), integer(5), 5.0),
    (union_of(INTEGER, STRING), number(5.0), 5),
    (union_of(BOOLEAN, INTEGER), boolean(True), True),
    (union_of(INTEGER, NONE), NOTHING, None),
    (union_of(INTEGER, NONE), msgpack(None), None),
    (union_of(DATETIME, STRING), msgpack("2024-05-01"), "2024-05-01"),
    (union_of(FILE, DIR), blob("a/b"), File("a/b")),
    (union_of(STRUCT, NONE), msgpack({"a": 1}), {"a": 1}),
    (union_of(list_of(INTEGER), list_of(FLOAT)), collection(integer(1), integer(2)), [1, 2]),
    (union_of(list_of(INTEGER), list_of(FLOAT)), collection(number(1.0), number(2.0)), [1.0, 2.0]),
    (union_of(list_of(INTEGER), list_of(FLOAT)), collection(integer(1), number(2.5)), [1.0, 2.5]),
    (union_of(dict_of(INTEGER), dict_of(FLOAT)), mapping(a=integer(1)), {"a": 1}),
    (union_of(list_of(union_of(INTEGER, FLOAT)), NONE), collection(integer(1), number(1.5)), [1, 1.5]),
    (list_of(union_of(INTEGER, STRING)), collection(integer(1), string("a")), [1, "a"]),
    (list_of(union_of(INTEGER, STRING)), msgpack([1, "a"]), [1, "a"]),
    (union_of(union_of(INTEGER, STRING), NONE), string("a"), "a"),
    (union_of(PICKLE, INTEGER), integer(1), 1),
]


@pytest.mark.parametrize(
    ("declared", "literal", "value"), BARE, ids=lambda part: type_name(part) if hasattr(part, "simple") else ""
)
def test_a_bare_literal_is_of_the_variant_that_takes_it_as_it_is(declared, literal, value):
    converted = literal_to_python(literal, declared)
    assert repr(converted) == repr(value)


REFUSALS = [
    (union_of(INTEGER, STRING), boolean(True), "expected int | str, got bool True"),
    (union_of(INTEGER, NONE), number(5.9), "expected int | None, got float 5.9"),
    (union_of(INTEGER, NONE), msgpack(True), "expected int | None, got bool True"),
    (union_of(INTEGER, NONE), union_literal(None, INTEGER), "expected int, got an empty literal"),
    (union_of(INT, STR), union_literal(string("x"), INT), "expected int, got str 'x'"),
    (
        union_of(INTEGER, STRING),
        union_literal(boolean(True), BOOLEAN),
        "expected int | str, got a union value of a type that is not among them (bool True)",
    ),
    (
        union_of(INTS, STRS),
        union_literal(collection(), tagged("Typed List", list_of(BOOLEAN))),
        "expected list[int] | list[str], got a union value of a type that is not among them (list of length 0)",
    ),
    (
        union_of(COLOURS, STRING),
        string("RED"),
        "str 'RED' is ambiguous: enum['RED', 'BLUE'] and str match; send a union value that names its variant",
    ),
    (
        union_of(list_of(INTEGER), list_of(STRING)),
        collection(),
        "list of length 0 is ambiguous: list[int] and list[str] match; send a union value that names its variant",
    ),
    (
        union_of(list_of(INTEGER), NONE),
        collection(integer(1), string("a")),
        "value[1]: expected int, got str 'a' (declared as list[int] | None)",
    ),
    (
        union_of(DATETIME, DURATION),
        timestamp(10**12),
        "a timestamp of 1000000000000 s and 0 ns is out of range (years 1 to 9999)",
    ),
    (
        union_of(INTEGER, NONE),
        binary(b"\x80\x04."),
        (
            "got untagged binary data, which is a Python pickle: it is refused, because reading it would run code"
            " that the sender chose"
        ),
    ),
]


@pytest.mark.parametrize(("declared", "literal", "message"), REFUSALS)
def test_what_is_of_no_variant_or_of_several_is_an_error(declared, literal, message):
    with pytest.raises(LiteralError) as caught:
        literal_to_python(literal, declared)
    assert str(caught.value) == message


def test_a_union_literal_for_a_type_that_is_no_union_is_an_error():
    with pytest.raises(LiteralError, match="expected int, got a union value"):
        literal_to_python(union_literal(integer(1), INTEGER), INTEGER)


def test_unions_of_unions_do_not_take_exponential_time():
    deep = nested(50, lambda inner: union_of(inner, NONE), INTEGER)
    with pytest.raises(LiteralError):
        literal_to_python(string("x"), deep)


def test_many_variants_are_named_in_part():
    many = union_of(*(LiteralType(enum_type=core.EnumType(values=[f"v{number}"])) for number in range(50)))
    assert type_name(many).endswith("enum['v9'] | …")


def test_the_type_in_a_union_literal_may_be_nested_as_deeply_as_it_likes():
    deep = nested(90, list_of, INTEGER)
    literal = core.Literal(scalar=Scalar(union=core.Union(value=integer(1), type=deep)))
    with pytest.raises(LiteralError, match="not among them"):
        literal_to_python(sent(literal), union_of(deep, STRING))
