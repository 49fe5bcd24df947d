"""Any value survives out and back; any literal is converted or refused with a `LiteralError`."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectrio.idl.flyteidl2.core import Literal, LiteralType, VariableMap
from connectrio.idl.flyteidl2.task import Inputs, Outputs
from connectrio.literals import (
    DataFrame,
    Dir,
    File,
    LiteralError,
    inputs_to_python,
    literal_to_python,
    literal_type_of,
    outputs_to_literals,
    python_to_literal,
    python_to_literal_as,
)
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
    STRING,
    STRUCT,
    blob,
    boolean,
    collection,
    dict_of,
    duration,
    generic,
    inputs,
    interface,
    list_of,
    mapping,
    msgpack,
    number,
    primitive,
    sent,
    string,
    table,
    timestamp,
    union_literal,
    union_of,
)

integers = st.integers(min_value=-(2**63), max_value=2**63 - 1)
texts = st.text(max_size=10)
datetimes = st.datetimes(timezones=st.just(UTC), allow_imaginary=False).map(lambda value: value.replace(fold=0))
durations = st.timedeltas(min_value=timedelta(seconds=-315_576_000_000), max_value=timedelta(seconds=315_576_000_000))
hashes = st.none() | st.text(min_size=1, max_size=5)
files = st.builds(File, path=texts, format=texts, hash=hashes)
dirs = st.builds(Dir, path=texts, format=texts, hash=hashes)
tables = st.builds(DataFrame, uri=st.text(min_size=1, max_size=10), format=texts, hash=hashes)
plain_scalars = st.none() | st.booleans() | integers | st.floats() | texts | st.binary(max_size=10)
structs = st.dictionaries(
    texts | integers,
    st.recursive(plain_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)),
    max_size=4,
)
scalars = st.one_of(
    st.none(), st.booleans(), integers, st.floats(), texts, datetimes, durations, structs, files, dirs, tables
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=10)


def same(one: Any, other: Any) -> bool:
    """Whether both are equal in type and value at every level; NaN equals itself."""
    return repr(one) == repr(other)


@settings(deadline=None)  # a busy machine is no failure
@given(st.dictionaries(texts, values | st.binary(max_size=10), max_size=5))
def test_outputs_come_back_as_they_were_without_a_declared_type(outputs):
    literals = Outputs.parse(bytes(outputs_to_literals(outputs))).literals
    assert same({named.name: literal_to_python(named.value) for named in literals}, outputs)


@settings(deadline=None)  # a busy machine is no failure
@given(st.dictionaries(texts, values, max_size=5))
def test_values_come_back_as_they_were_by_their_guessed_types(everything):
    types = {name: literal_type_of(value) for name, value in everything.items()}
    declared = VariableMap.parse(bytes(interface(**types)))
    for write in (lambda name: python_to_literal(everything[name]), lambda name: as_guessed(everything[name])):
        came = inputs(*[(name, write(name)) for name in reversed(everything)])
        assert same(inputs_to_python(came, declared), everything)


def as_guessed(value):
    return python_to_literal_as(value, literal_type_of(value))


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(), st.integers(min_value=0, max_value=999_999_999))
def test_every_timestamp_is_a_datetime_or_out_of_range(seconds, nanos):
    seconds %= 2**62
    try:
        value = literal_to_python(timestamp(seconds, nanos), DATETIME)
    except LiteralError:
        assert seconds > datetime.max.replace(tzinfo=UTC).timestamp()
    else:
        assert python_to_literal(value) == timestamp(seconds, nanos // 1000 * 1000)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_every_duration_is_a_timedelta_or_out_of_range(seconds, nanos):
    try:
        value = literal_to_python(duration(seconds, nanos), DURATION)
    except LiteralError:
        assert abs(seconds) > 86_399_999_999_990
    else:
        assert value // timedelta(microseconds=1) == seconds * 1_000_000 + math.trunc(nanos / 1000)


types = st.recursive(
    st.sampled_from(
        [INTEGER, FLOAT, STRING, BOOLEAN, DATETIME, DURATION, NONE, STRUCT, BINARY, COLOURS, FILE, DIR, DATAFRAME]
    ),
    lambda inner: st.one_of(
        st.builds(list_of, inner),
        st.builds(dict_of, inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda variants: union_of(*variants)),
    ),
    max_leaves=6,
)
literals = st.recursive(
    st.one_of(
        st.builds(primitive),
        integers.map(lambda value: primitive(integer=value)),
        st.floats().map(number),
        (texts | st.sampled_from(["RED", "1.5s", "2024-05-01"])).map(string),
        st.booleans().map(boolean),
        st.builds(timestamp, st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)),
        st.builds(duration, st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)),
        st.builds(blob, texts, st.sampled_from(["", "csv", "PythonPickle"]), st.integers(0, 2)),
        st.builds(table, texts, texts),
        st.builds(msgpack, structs | values.filter(lambda value: isinstance(value, str | int | list | None))),
        st.builds(generic, st.dictionaries(texts, st.floats() | texts, max_size=3)),
        st.just(Literal()),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: collection(*items)),
        st.dictionaries(texts, inner, max_size=3).map(lambda items: mapping(**items)),
        st.builds(union_literal, inner, types),
    ),
    max_leaves=6,
)


def converted(convert, *arguments):
    """Whether it was converted, not refused. Any other error than `LiteralError` fails the test."""
    try:
        repr(convert(*arguments))
    except LiteralError:
        return False
    return True


@settings(deadline=None)  # a busy machine is no failure
@given(types, literals)
def test_any_literal_of_any_declared_type_is_converted_or_refused(declared, literal):
    converted(literal_to_python, literal, declared)
    converted(literal_to_python, literal)


@settings(deadline=None)  # a busy machine is no failure
@given(types, types, literals, literals)
def test_messages_that_hold_several_kinds_at_once_are_converted_or_refused(one, other, first, second):
    declared = LiteralType.parse(bytes(one) + bytes(other))
    literal = Literal.parse(bytes(first) + bytes(second))
    converted(literal_to_python, literal, declared)
    converted(literal_to_python, literal)


@settings(deadline=None)  # a busy machine is no failure
@given(types, values)
def test_any_value_as_any_declared_type_is_readable_as_that_type_or_refused(declared, value):
    if converted(python_to_literal_as, value, declared):
        literal_to_python(sent(python_to_literal_as(value, declared)), declared)


@pytest.mark.parametrize("value", [Inputs(), None])
def test_nothing_is_nothing(value):
    assert inputs_to_python(value, None) == {}
