"""Types as they are written on the command line."""

from __future__ import annotations

import pytest

from connectrio.cli.errors import UsageError
from connectrio.cli.options.type_names import parse_type
from connectrio.idl.flyteidl2.core import BlobTypeBlobDimensionality, SimpleType
from connectrio.literals import literal_type_of, type_name


@pytest.mark.parametrize(
    "name",
    [
        "int", "float", "str", "bool", "datetime", "timedelta", "None", "dict", "bytes", "File", "Dir", "DataFrame",
        "list[int]", "list[list[float]]", "dict[str, int]", "dict[str, list[File]]", "int | None",
        "list[int | str]", "str | list[int] | dict[str, bool]",
    ],
)  # fmt: skip
def test_what_literals_call_a_type_is_read_as_that_type(name):
    assert type_name(parse_type(name)) == name


@pytest.mark.parametrize(
    ("text", "simple"),
    [
        ("INTEGER", SimpleType.INTEGER),
        (" string ", SimpleType.STRING),
        ("boolean", SimpleType.BOOLEAN),
        ("duration", SimpleType.DURATION),
        ("struct", SimpleType.STRUCT),
        ("binary", SimpleType.BINARY),
    ],
)
def test_flytes_own_names_do_as_well(text, simple):
    assert parse_type(text).simple is simple


def test_enums_and_formats():
    assert parse_type("enum(red| green )").enum_type.values == ["red", "green"]
    assert parse_type("file(csv)").blob.format == "csv"
    assert parse_type("dir").blob.dimensionality is BlobTypeBlobDimensionality.MULTIPART
    assert parse_type("dataframe(parquet)").structured_dataset_type.format == "parquet"


def test_the_variants_of_a_union_have_the_tags_that_guessed_ones_have():
    guessed = literal_type_of([1, "a", None, 1.5, True, {"a": 1}]).collection_type
    assert parse_type("int|str|none|float|bool|dict") == guessed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a type is missing"),
        ("strnig", "there is no type 'strnig'"),
        ("list", "'[' is missing"),
        ("list[int", "']' is missing"),
        ("list[]", "a type is missing before ']'"),
        ("dict[int, str]", "the keys of a dict are str"),
        ("dict[str]", "',' is missing"),
        ("int str", "'str' is left over"),
        ("int|", "a type is missing"),
        ("enum", "an enum needs its members"),
        ("enum()", "an enum needs its members"),
    ],
)
def test_what_is_no_type(text, reason):
    with pytest.raises(UsageError) as raised:
        parse_type(text)
    assert str(raised.value) == f"cannot read the type {text!r}: {reason}" or reason in str(raised.value)
    assert "list[type]" in raised.value.hint
