"""Inputs for another type engine: what is refused, fetched and counted before that engine has them."""

from __future__ import annotations

import pytest

from connectrio.idl.flyteidl2.core import EnumType, Literal, LiteralOffloadedMetadata, LiteralType, Scalar, Union
from connectrio.literals import (
    LiteralError,
    Storage,
    StoredElsewhereError,
    StoredInputError,
    TooManyStepsError,
    checked_inputs,
)
from connectrio.literals.steps import MAX_STEPS
from connectrio.rpc.codec import decode
from literals.flyte_types import FOUND, schema_type, type_of, values_of
from literals.makers import (
    BINARY,
    DIR,
    FILE,
    INTEGER,
    PICKLE,
    STRING,
    STRUCT,
    binary,
    blob,
    collection,
    dict_of,
    generic,
    inputs,
    integer,
    interface,
    list_of,
    mapping,
    msgpack,
    nested,
    sent,
    string,
    tagged,
    union_of,
)

# flyte-sdk cannot make a Python class of them
ENDLESS = {"Tree", "Forest", "PTree"}
PICKLED = binary(b"\x80\x04N.")
MARKED = sent(Literal(scalar=generic({"pickle_file": "/x"}).scalar, metadata={"format": "pickle"}))


def check(literal, literal_type, **options):
    return checked_inputs(inputs(x=literal), interface(x=literal_type), **options)


def refusal(literal, literal_type, **options):
    with pytest.raises(LiteralError) as caught:
        check(literal, literal_type, **options)
    return str(caught.value)


def stored(path):
    return sent(Literal(offloaded_metadata=LiteralOffloadedMetadata(uri=str(path))))


def storage(limit=1000):
    return Storage(limit, {"file"}, lambda data: decode(data, Literal))


def test_inputs_that_are_not_stored_are_the_same_object():
    came = inputs(x=integer(1), y=string("not declared"))
    assert checked_inputs(came, interface(x=INTEGER)) is came
    assert checked_inputs(None, None) is None


@pytest.mark.parametrize("name", sorted(FOUND.keys() - ENDLESS))
def test_what_flyte_sdk_sends_takes_few_steps(name):
    for literal in values_of(name):
        check(literal, type_of(name), max_steps=MAX_STEPS // 20)


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_classes_that_hold_themselves_are_refused(name):
    for literal in values_of(name):
        assert "nested more than" in refusal(literal, type_of(name))


@pytest.mark.parametrize(
    ("literal", "literal_type"),
    [
        (PICKLED, BINARY),
        (msgpack({}), BINARY),
        (blob("/x", "PythonPickle"), PICKLE),
        (PICKLED, PICKLE),
        (PICKLED, tagged("FlytePickle", BINARY)),
        (PICKLED, union_of(INTEGER, BINARY)),
        (integer(1), union_of(INTEGER, BINARY)),
        (sent(Literal(scalar=Scalar(union=Union(value=PICKLED, type=BINARY)))), union_of(INTEGER, union_of(BINARY))),
        (collection(PICKLED), list_of(BINARY)),
        (mapping(a=collection(PICKLED)), dict_of(list_of(union_of(STRING, PICKLE)))),
        (MARKED, STRUCT),
        (collection(MARKED), list_of(STRUCT)),
        (mapping(a=MARKED), dict_of(STRUCT)),
        (sent(Literal(scalar=Scalar(union=Union(value=MARKED, type=STRUCT)))), union_of(STRUCT, INTEGER)),
        (sent(Literal(scalar=Scalar(union=Union(value=MARKED, type=STRUCT)))), STRUCT),
    ],
)
def test_pickles_are_refused(literal, literal_type):
    text = refusal(literal, literal_type)
    assert text.startswith("input 'x': it is a Python pickle for flyte-sdk")
    assert "--unsafe-pickle" in text
    check(literal, literal_type, pickles=True)


def test_types_of_pickles_may_be_declared():
    checked_inputs(inputs(x=integer(1)), interface(x=INTEGER, y=BINARY))


@pytest.mark.parametrize("literal_type", [FILE, DIR, LiteralType()])
def test_other_blobs_are_no_pickles(literal_type):
    check(blob("/x", "PythonPickle"), literal_type)


def test_stored_literals_are_fetched(tmp_path):
    (tmp_path / "seven").write_bytes(bytes(integer(7)))
    came = inputs(x=collection(stored(tmp_path / "seven"), integer(8)), y=integer(9))
    declared = interface(x=list_of(INTEGER), y=INTEGER)
    with pytest.raises(StoredElsewhereError):
        checked_inputs(came, declared)
    checked = checked_inputs(came, declared, storage=storage())
    assert checked == inputs(x=collection(integer(7), integer(8)), y=integer(9))
    assert checked.literals[1].value is came.literals[1].value


def test_what_is_wrong_with_a_stored_literal_does_not_show(tmp_path):
    (tmp_path / "pickled").write_bytes(bytes(PICKLED))
    (tmp_path / "marked").write_bytes(bytes(MARKED))
    (tmp_path / "junk").write_bytes(b"\x0f")
    reasons = []
    for name, literal_type in (("pickled", BINARY), ("marked", STRUCT), ("junk", STRUCT), ("nothing", STRUCT)):
        with pytest.raises(StoredInputError) as caught:
            check(stored(tmp_path / name), literal_type, storage=storage())
        assert str(caught.value) == "input 'x': the stored value could not be read; the host's log says why"
        reasons.append(str(caught.value.reason))
    assert all(reason.startswith("input 'x': ") for reason in reasons)
    assert ["pickle" in reason for reason in reasons] == [True, True, False, False]


# schemas


def object_of(properties, title="A", **others):
    return {"title": title, "type": "object", "properties": properties, **others}


def references(levels, count):
    """Each class refers so many times to the next one."""
    classes = {
        f"L{level}": object_of({f"p{n}": {"$ref": f"#/$defs/L{level - 1}"} for n in range(count)}, "L")
        for level in range(1, levels)
    }
    classes["L0"] = object_of({"a": {"type": "integer"}}, "L0")
    return object_of({"a": {"$ref": f"#/$defs/L{levels - 1}"}}, **{"$defs": classes})


def test_each_reference_counts():
    check(msgpack({}), schema_type(references(4, 4)))
    with pytest.raises(TooManyStepsError, match=r"^input 'x': converting it takes more than 2000000 steps"):
        check(msgpack({}), schema_type(references(8, 4)))


def test_definitions_that_have_one_name_all_count():
    cheap = {"A": {"type": "integer"}}
    shadowed = references(8, 4)
    shadowed["properties"]["b"] = object_of({"c": {"$ref": "#/$defs/L7"}}, **{"$defs": cheap})
    del shadowed["properties"]["a"]
    with pytest.raises(TooManyStepsError):
        check(msgpack({}), schema_type(shadowed))


def test_a_type_counts_without_a_value():
    with pytest.raises(TooManyStepsError, match=r"^input 'y'"):
        checked_inputs(inputs(x=integer(1)), interface(x=INTEGER, y=schema_type(references(8, 4))))


@pytest.mark.parametrize(
    ("literal", "literal_type"),
    [
        # each object gets the defaults of all fields
        (msgpack([{}] * 20_000), list_of(schema_type(object_of({f"p{n}": {"default": 1} for n in range(200)})))),
        (generic({"a": [{}] * 20_000}), schema_type(object_of({f"p{n}": {"default": 1} for n in range(200)}))),
        (binary(b"\xc1" * 100_000, "msgpack"), schema_type(object_of({f"p{n}": {} for n in range(50)}))),
        # a union compares the schemas of its variants, for each value
        (collection(*[integer(1)] * 5000), list_of(union_of(STRING, schema_type(object_of({"a": {}}))))),
        (integer(1), LiteralType(enum_type=EnumType(values=[f"v{n}" for n in range(300_000)]))),
        # each transformer and variant that does not fit prints the type, and what came
        (integer(1), nested(40, list_of, LiteralType(enum_type=EnumType(values=["v"] * 10_000)))),
        (string("x" * 200_000), union_of(*[list_of(INTEGER)] * 500)),
        (blob("x" * 200_000), union_of(*[list_of(INTEGER)] * 500)),
        (binary(b"x" * 200_000), union_of(*[list_of(INTEGER)] * 500)),
        (collection(*[integer(1)] * 2000), union_of(*[INTEGER] * 500)),
        (integer(1), nested(20, list_of, schema_type({"description": "x" * 4_000_000}))),
        (integer(1), schema_type(object_of({f"p{n}": 1 for n in range(10_000)}, required=["a"] * 20_000))),
    ],
)
def test_what_takes_long_is_refused(literal, literal_type):
    with pytest.raises(TooManyStepsError, match=r"^input 'x'"):
        check(literal, literal_type)


@pytest.mark.parametrize("name", ["A'", 'A"', "A\nB", "A(b)", "A#", "A=b", "A:b", "A`", "\\A"])
def test_names_of_classes_that_could_be_code_are_refused(name):
    text = f"input 'x': the name {name!r} in its JSON schema cannot be that of a class"
    for schema in (
        object_of({}, name),
        object_of({"a": {"anyOf": [object_of({}, name), {"type": "null"}]}}),
        object_of({"a": {"$ref": f"#/$defs/{name}"}}, **{"$defs": {name: object_of({})}}),
    ):
        assert refusal(msgpack({}), schema_type(schema)).startswith(text)


@pytest.mark.parametrize("name", ["Größe", "Box[int]", "Box[dict[str, int | None]]", "a.b.C", "__main____A-Input__1"])
def test_names_of_classes(name):
    titles = object_of({"a": {"type": "string", "title": "The size (GB)"}, "$ref": {"type": "string"}}, name)
    check(msgpack({}), schema_type(titles))


def test_nested_too_deeply():
    assert "nested more than 64 levels" in refusal(integer(1), nested(65, list_of, INTEGER))
    assert "nested more than 64 levels" in refusal(nested(70, collection, integer(1)), INTEGER)
