"""Types and literals that have no values here: each says why, and names the input."""

import pytest

from connectrio.idl.flyteidl2 import core
from connectrio.idl.flyteidl2.core import (
    BlobType,
    BlobTypeBlobDimensionality,
    Literal,
    LiteralOffloadedMetadata,
    LiteralType,
    SchemaType,
    UnionType,
)
from connectrio.literals import (
    MAX_DEPTH,
    LiteralError,
    inputs_to_python,
    literal_to_python,
    python_to_literal_as,
    type_name,
)
from literals.makers import (
    BINARY,
    ERROR,
    INTEGER,
    PICKLE,
    binary,
    blob,
    collection,
    inputs,
    integer,
    interface,
    list_of,
    msgpack,
    nested,
    sent,
    string,
    union_of,
)

TYPES = [
    (ERROR, "the declared type error is not supported: errors are not passed to tasks"),
    (
        LiteralType(schema=SchemaType()),
        "the declared type schema is not supported: Flyte replaced schemas by structured datasets; declare a DataFrame",
    ),
    (LiteralType(), "the declared type unset type is not supported: the interface does not say what it is"),
    (
        LiteralType.parse(b"\x08\x63"),
        "the declared type simple type 99 is not supported: this version of connectrio does not know it",
    ),
    (
        PICKLE,
        (
            "the declared type pickle is not supported: reading a Python pickle would run code that the sender chose;"
            " declare a type that is data, or let the host trust those who send to it (--unsafe-pickle)"
        ),
    ),
    (
        LiteralType(blob=BlobType(dimensionality=BlobTypeBlobDimensionality(7))),
        "the declared type blob is not supported: its dimensionality 7 is not known",
    ),
    (LiteralType(union_type=UnionType()), "the declared type union is not supported: it has no variants"),
]


@pytest.mark.parametrize(("literal_type", "problem"), TYPES)
def test_a_declared_type_without_values_says_why(literal_type, problem):
    with pytest.raises(LiteralError) as caught:
        inputs_to_python(inputs(x=integer(1)), interface(x=literal_type))
    assert str(caught.value) == f"input 'x': {problem}"
    with pytest.raises(LiteralError) as caught:
        python_to_literal_as(1, sent(literal_type))
    assert str(caught.value) == problem


def test_such_a_type_inside_another_has_no_values_in_messagepack_either():
    with pytest.raises(LiteralError, match=r"^value\[0\]: the declared type pickle is not supported"):
        literal_to_python(msgpack([1]), list_of(PICKLE))


def test_a_variable_without_a_type_says_so():
    declared = core.VariableMap(variables=[core.VariableEntry(key="x")])
    with pytest.raises(LiteralError, match=r"^input 'x': the declared type unset type is not supported"):
        inputs_to_python(inputs(x=integer(1)), declared)


def test_declaring_such_a_type_is_no_error_while_nothing_comes_for_it():
    assert inputs_to_python(inputs(n=integer(1)), interface(x=PICKLE, n=INTEGER)) == {"n": 1}


def test_a_pickle_among_a_unions_variants_is_refused_where_it_is_meant():
    anything = union_of(PICKLE, BINARY)
    with pytest.raises(LiteralError, match="Python pickle"):
        literal_to_python(binary(b"\x80\x04."), anything)
    with pytest.raises(LiteralError, match="Python pickle"):
        literal_to_python(blob("s3://a/b", "PythonPickle"), anything)


def test_untagged_binary_data_is_never_unpickled():
    with pytest.raises(LiteralError, match="it is refused, because reading it would run code that the sender chose"):
        literal_to_python(binary(b"\x80\x04."), BINARY)


def test_a_literal_that_is_stored_elsewhere_is_refused_by_name():
    offloaded = Literal(offloaded_metadata=LiteralOffloadedMetadata(uri="s3://a/b", size_bytes=10))
    with pytest.raises(LiteralError) as caught:
        inputs_to_python(inputs(xs=offloaded), interface(xs=list_of(INTEGER)))
    assert str(caught.value) == (
        "input 'xs': expected list[int], got a literal stored at a URI 's3://a/b': stored literals are fetched only"
        " for a task's inputs"
    )
    with pytest.raises(LiteralError, match=r"^got a literal stored at a URI 's3://a/b', which has no value here$"):
        literal_to_python(offloaded)


class TestDepth:
    def test_types_may_be_nested_to_the_limit(self):
        literal = nested(MAX_DEPTH, collection, integer(1))
        assert literal_to_python(literal, nested(MAX_DEPTH, list_of, INTEGER)) == nested(MAX_DEPTH, lambda x: [x], 1)

    @pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 5000])
    def test_types_nested_deeper_are_refused(self, levels):
        declared = nested(levels, list_of, INTEGER)
        with pytest.raises(LiteralError, match="it is nested more than 64 levels deep"):
            literal_to_python(nested(MAX_DEPTH + 1, collection, integer(1)), declared)
        with pytest.raises(LiteralError, match="it is nested more than 64 levels deep"):
            python_to_literal_as(nested(levels, lambda item: [item], 1), declared)

    def test_a_deep_types_name_is_short(self):
        assert len(type_name(nested(5000, list_of, INTEGER))) < 500

    def test_a_deep_literal_of_a_shallow_type_is_only_a_mismatch(self):
        literal = nested(5000, lambda item: Literal(collection=core.LiteralCollection(literals=[item])), integer(1))
        with pytest.raises(LiteralError, match="expected int, got list of length 1"):
            literal_to_python(literal, list_of(INTEGER))

    def test_an_error_far_inside_is_short(self):
        with pytest.raises(LiteralError) as caught:
            literal_to_python(nested(MAX_DEPTH, collection, string("x")), nested(MAX_DEPTH, list_of, INTEGER))
        assert len(str(caught.value)) < 500
