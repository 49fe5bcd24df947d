"""Errors name the input, the place inside it, the declared type and what came, and keep long texts to themselves."""

import pytest

from connectrio.literals import LiteralError, inputs_to_python, literal_to_python
from literals.makers import (
    DATAFRAME,
    FILE,
    INTEGER,
    STRING,
    blob,
    collection,
    dict_of,
    inputs,
    integer,
    interface,
    list_of,
    mapping,
    string,
    table,
)

SECRET = "hunter2-" * 6


def failure(literal, literal_type, name="xs"):
    with pytest.raises(LiteralError) as caught:
        inputs_to_python(inputs((name, literal)), interface(**{name: literal_type}))
    return caught.value


def test_a_literal_error_is_a_value_error():
    assert issubclass(LiteralError, ValueError)


def test_the_place_inside_a_collection_is_named_with_the_declared_type():
    error = failure(collection(integer(1), integer(2), integer(3), string("a")), list_of(INTEGER))
    assert str(error) == "input 'xs'[3]: expected int, got str 'a' (declared as list[int])"
    assert (error.subject, error.path, error.declared) == ("input 'xs'", "[3]", "list[int]")
    assert error.problem == "expected int, got str 'a'"


def test_the_place_inside_maps_and_collections_is_named_from_the_outside_in():
    error = failure(mapping(a=collection(integer(1)), b=collection(mapping())), dict_of(list_of(INTEGER)))
    assert str(error) == "input 'xs'['b'][0]: expected int, got map of length 0 (declared as dict[str, list[int]])"


def test_the_whole_input_needs_no_place_and_no_second_type():
    assert str(failure(string("a"), INTEGER)) == "input 'xs': expected int, got str 'a'"


@pytest.mark.parametrize(
    ("literal", "literal_type"),
    [(string(SECRET), INTEGER), (blob(SECRET), INTEGER), (table(SECRET), FILE), (blob(SECRET), DATAFRAME)],
)
def test_long_texts_are_described_and_not_shown(literal, literal_type):
    message = str(failure(literal, literal_type))
    assert "hunter2" not in message
    assert "of 48 characters" in message


def test_long_names_and_keys_are_cut():
    name = "n" * 500
    error = failure(mapping(**{"k" * 500: string("a")}), dict_of(INTEGER), name)
    assert str(error) == f"input '{'n' * 39}…'['{'k' * 39}…']: expected int, got str 'a' (declared as dict[str, int])"


def test_without_an_input_the_place_is_in_the_value():
    with pytest.raises(LiteralError) as caught:
        literal_to_python(collection(integer(1)), list_of(STRING))
    assert str(caught.value) == "value[0]: expected str, got int 1 (declared as list[str])"
