"""Each Python value has a literal type."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum, IntEnum

import pytest

from connectrio.idl.flyteidl2.core import BlobType, LiteralType, StructuredDatasetType
from connectrio.literals import (
    MAX_DEPTH,
    DataFrame,
    Dir,
    File,
    LiteralError,
    literal_to_python,
    literal_type_of,
    python_to_literal,
    python_to_literal_as,
    type_name,
)
from literals.makers import DATAFRAME, FILE, INTEGER, integer, nested


class Colour(Enum):
    RED = "#f00"
    BLUE = 2


class Level(IntEnum):
    LOW = 1


@dataclass
class Point:
    x: int


NAMES = [
    (1, "int"),
    (True, "bool"),
    (1.5, "float"),
    ("a", "str"),
    (None, "None"),
    (datetime(2024, 5, 1, tzinfo=UTC), "datetime"),
    (date(2024, 5, 1), "datetime"),
    (timedelta(1), "timedelta"),
    (b"x", "bytes"),
    (Colour.RED, "enum['RED', 'BLUE']"),
    (Level.LOW, "enum['LOW']"),
    ({"a": 1}, "dict"),
    (Point(1), "dict"),
    (File("a"), "File"),
    (Dir("a"), "Dir"),
    (DataFrame("a"), "DataFrame"),
    ([1, 2], "list[int]"),
    ((1, 2), "list[int]"),
    ([], "list[None]"),
    ([None], "list[None]"),
    ([[], [[]]], "list[list[list[None]]]"),
    ([1, 2.5, 3], "list[int | float]"),
    ([None, 1, None], "list[None | int]"),
    ([[], [1], ["a"]], "list[list[int | str]]"),
    ([[1], None, [None]], "list[list[int | None] | None]"),
    ([[1, "a"], ["b", 2]], "list[list[int | str]]"),
    ([{}, {"a": 1}], "list[dict]"),
    ([[1, []], [[2]]], "list[list[int | list[int]]]"),
    ([[1, []], [2]], "list[list[int | list[None]]]"),
]


@pytest.mark.parametrize(("value", "name"), NAMES)
def test_a_values_type_is_guessed(value, name):
    assert type_name(literal_type_of(value)) == name


@pytest.mark.parametrize("value", [value for value, _ in NAMES])
def test_a_value_fits_its_guessed_type_written_either_way(value):
    guessed = literal_type_of(value)
    declared = literal_to_python(python_to_literal_as(value, guessed), guessed)
    if not contains_bytes(value):  # bytes go out untagged, and untagged ones that come in are refused
        assert repr(literal_to_python(python_to_literal(value), guessed)) == repr(declared)


def contains_bytes(value):
    return isinstance(value, bytes)


def test_formats_are_part_of_the_type_where_they_agree():
    assert literal_type_of(File("a", format="csv")) == LiteralType(blob=BlobType(format="csv"))
    assert literal_type_of([File("a", format="csv"), File("b", format="tsv")]).collection_type == FILE
    parquet = LiteralType(structured_dataset_type=StructuredDatasetType(format="parquet"))
    assert literal_type_of([DataFrame("a", "parquet"), DataFrame("b", "parquet")]).collection_type == parquet
    assert literal_type_of([DataFrame("a", "parquet"), DataFrame("b", "csv")]).collection_type == DATAFRAME


def test_the_variants_of_a_guessed_union_have_the_tags_by_which_flyte_sdk_finds_them():
    everything = [1, 1.5, "a", True, None, timedelta(1), datetime(2024, 5, 1, tzinfo=UTC), {}, [1], Colour.RED]
    references = [File("a"), Dir("a"), DataFrame("a"), b"x"]
    variants = literal_type_of([*everything, *references]).collection_type.union_type.variants
    assert [variant.structure.tag if variant.structure else None for variant in variants] == [
        "int",
        "float",
        "str",
        "bool",
        "none",
        "timedelta",
        "datetime",
        "Typed Dict",
        "Typed List",
        "DefaultEnumTransformer",
        "File",
        "Dir",
        "DataFrame Transformer",
        None,
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "Flyte has no type for set"),
        ([1, [object()]], "value[1][0]: Flyte has no type for object"),
        (integer(1), "Flyte has no type for connectrio.idl.flyteidl2.core.Literal"),
    ],
)
def test_what_has_no_type_is_an_error(value, message):
    with pytest.raises(LiteralError) as caught:
        literal_type_of(value)
    assert str(caught.value) == message


def test_values_may_be_nested_to_the_limit_and_no_deeper():
    deepest = nested(MAX_DEPTH, lambda item: [item], 1)
    assert literal_type_of(deepest) == nested(MAX_DEPTH, lambda item: LiteralType(collection_type=item), INTEGER)
    with pytest.raises(LiteralError, match=r"nested more than 64 levels deep$"):
        literal_type_of([deepest])
