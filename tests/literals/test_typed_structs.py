"""Structs with a JSON schema: flyte-sdk's schemas, and any other schema."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectrio.idl.flyteidl2.core import LiteralType, SimpleType
from connectrio.idl.google.protobuf import Struct
from connectrio.literals import (
    DataFrame,
    Dir,
    File,
    LiteralError,
    Record,
    literal_to_python,
    python_to_literal,
    python_to_literal_as,
    type_name,
)
from connectrio.literals.plain_data import to_plain_data
from literals.flyte_types import FOUND, schema_type, type_of, values_of
from literals.makers import generic, integer, list_of, msgpack, sent, tagged, union_literal, union_of

FILE = File("s3://bucket/a.csv", format="csv", hash="h")
STORED = {"file": FILE, "directory": Dir("s3://bucket/d"), "table": DataFrame("s3://bucket/t", "parquet")}
POINT = Record("Point", {"x": 1, "label": "there"})
PPOINT = Record("PPoint", {"x": 1, "label": "there"})
LISTS = {
    "ints": [1, 2], "grid": [[1], []], "floats": {"a": 1.0}, "numbered": {"1": "one"}, "many": [1, 2], "unique": [3],
    "free": {"a": 1, "b": [None, {"c": 1.5}]},
}  # fmt: skip
CHOICES = {"number": None, "perhaps": "blue", "colours": ["red"], "word": "a", "colour": "red"}

EXPECTED = {
    "Point": [POINT, Record("Point", {"x": -1, "label": "here"})],
    "Flat": [Record("Flat", {"i": 7, "f": 1.5, "s": "é", "b": True})],
    "Times": [
        Record("Times", {
            "moment": "2024-05-01T12:30:15.123456+00:00", "day": "2024-05-01", "span": 90.0, "clock": "10:30:00",
            "raw": b"abc",
        })
    ],
    "Nested": [
        Record("Nested", {"point": POINT, "perhaps": None, "perhaps_not": None}),
        Record("Nested", {
            "point": POINT, "perhaps": Record("Point", {"x": 2, "label": "here"}),
            "perhaps_not": Record("Point", {"x": 3, "label": "here"}),
        }),
    ],
    "Lists": [Record("Lists", {**LISTS, "lists": {"a": [1]}})],
    "Free": [Record("Free", {"anything": "text", "items": ["a"]}), Record("Free", {"anything": 5, "items": [1, "a"]})],
    "Pair": [Record("Pair", {"pair": (1, "a")})],
    "Optionals": [
        Record("Optionals", {**CHOICES, "numbers": None, "by_name": None}),
        Record("Optionals", {**CHOICES, "numbers": [1], "by_name": {"a": 1}}),
    ],
    "Either": [
        Record("Either", {"value": value, "perhaps": perhaps})
        for value, perhaps in [(1, None), ("a", None), (1, "b"), (1, 2)]
    ],
    "Forest": [
        Record("Forest", {
            "tree": Record("Tree", {"value": 1, "children": [Record("Tree", {"value": 2, "children": []})]})
        })
    ],
    "Stored": [Record("Stored", {**STORED, "perhaps": None}), Record("Stored", {**STORED, "perhaps": FILE})],
    "Nothing": [Record("Nothing", {})],
    "Levels": [Record("Levels", {"level": 2})],
    "PTimes": [
        Record("PTimes", {
            "moment": "2024-05-01T12:30:15.123456Z", "day": "2024-05-01", "span": "PT1M30S", "clock": "10:30:00",
            "raw": "abc",
        })
    ],
    "PNested": [
        Record("PNested", {
            "point": PPOINT, "points": [PPOINT], "by_name": {"a": PPOINT}, "perhaps": None, "perhaps_not": None
        })
    ],
    "PLists": [Record("PLists", LISTS)],
    "PEither": [Record("PEither", {"value": 1, "colour": "red"}), Record("PEither", {"value": "a", "colour": 1})],
    "PTree": [Record("PTree", {"value": 1, "children": [Record("PTree", {"value": 2, "children": []})]})],
    "Owner": [
        Record("Owner", {"pet": Record("Cat", {"kind": "cat", "lives": 9})}),
        Record("Owner", {"pet": Record("Dog", {"kind": "dog", "age": 3})}),
    ],
    "PStored": [Record("PStored", {**STORED, "perhaps": None}), Record("PStored", {**STORED, "perhaps": FILE})],
    "tuple": [(1, "a")],
    "tuple of objects": [([1], PPOINT, None)],
    "tuple in a tuple": [(1, ("a", 1.5))],
    "Named": [(1, "a")],
    "Names": [Record("Names", {"x": 1, "label": "a"})],
    "map of objects": [{"a": POINT}],
    "list of objects": [[POINT, Record("Point", {"x": 2, "label": "here"})]],
    "list of models": [[PPOINT]],
    "perhaps an object": [POINT, None],
    "object or object": [POINT, Record("Flat", {"i": 7, "f": 1.5, "s": "é", "b": True})],
    "object or model": [POINT, Record("PFlat", {"i": 7, "f": 1.5, "s": "é", "b": True})],
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_values_as_flyte_sdk_sends_them(name):
    assert [literal_to_python(value, type_of(name)) for value in values_of(name)] == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name, found in FOUND.items() if "metadata" in found["type"]])
def test_what_is_read_can_be_sent_back_by_value_and_by_type(name):
    declared = type_of(name)
    for literal in values_of(name):
        value = literal_to_python(literal, declared)
        for written in (python_to_literal(value), python_to_literal_as(value, declared)):
            assert written.scalar.binary.tag == "msgpack"
            again = literal_to_python(sent(written), declared)
            assert (again, repr(again)) == (value, repr(value))


@pytest.mark.parametrize(("name", "shown"), [
    ("Point", "Point"), ("list of objects", "list[Point]"), ("tuple", "Tuple"), ("Named", "Named"),
    ("perhaps an object", "Point | None"), ("Names", "Names"), ("PTree", "PTree"),
])  # fmt: skip
def test_their_names_are_those_of_the_classes(name, shown):
    assert type_name(type_of(name)).lower() == shown.lower()


def test_tuples_have_the_attributes_of_flyte_sdks_objects():
    (value,) = [literal_to_python(literal, type_of("tuple")) for literal in values_of("tuple")]
    assert (value.item_0, value.item_1) == value == (1, "a")
    (named,) = [literal_to_python(literal, type_of("Named")) for literal in values_of("Named")]
    assert (named.x, named.label) == named
    assert repr(named) == "Named(x=1, label='a')"


def test_a_tuple_may_be_written_from_a_tuple():
    assert literal_to_python(python_to_literal_as((1, "a"), type_of("tuple")), type_of("tuple")) == (1, "a")


def test_a_struct_of_protobuf_is_read_by_the_schema_too():
    fields = {"point": {"x": 1.0, "label": "there"}, "perhaps": None}
    assert literal_to_python(generic(fields), type_of("Nested")) == EXPECTED["Nested"][0]


def test_what_is_missing_has_its_default():
    assert literal_to_python(msgpack({}), type_of("Defaults")) == Record(
        "Defaults",
        {"word": "hello", "share": 1.5, "on": True, "colour": "red", "nothing": None, "numbers": [], "by_name": {}},
    )
    count = literal_to_python(msgpack({}), type_of("WholeDefault")).count
    assert (count, type(count)) == (5, int)
    assert literal_to_python(msgpack({}), type_of("PDefaults")).listed == [1, 2]


def test_defaults_are_not_shared():
    one, other = (literal_to_python(msgpack({}), type_of("PDefaults")) for _ in range(2))
    one.listed.append(3)
    one.numbers.append(3)
    assert (other.listed, other.numbers) == ([1, 2], [])


def test_further_fields_are_not_seen():
    assert literal_to_python(msgpack({"x": 1, "label": "there", "z": 3}), type_of("Point")) == POINT


PROBLEMS = [
    ("Flat", {"i": 1}, "Flat is missing 'f', 's', 'b', which it requires"),
    ("Flat", 3, "expected Flat, got int 3"),
    ("Flat", None, "expected Flat, got None"),
    ("Point", {"x": "1"}, "value['x']: expected int, got str '1' (declared as Point)"),
    ("Point", {"x": True}, "value['x']: expected int, got bool True (declared as Point)"),
    ("Point", {"x": 5.5}, "value['x']: expected int, got float 5.5 (declared as Point)"),
    ("Point", {"x": 1, "label": None}, "value['label']: expected str, got None (declared as Point)"),
    ("Nested", {"point": {}, "perhaps": None},
     "value['point']: Point is missing 'x', which it requires (declared as Nested)"),
    ("Holders", {"points": [{"x": 1}, {"x": "a"}], "by_name": {}},
     "value['points'][1]['x']: expected int, got str 'a' (declared as Holders)"),
    ("Holders", {"points": [], "by_name": {"a": 1}},
     "value['by_name']['a']: expected Point, got int 1 (declared as Holders)"),
    ("Either", {"value": 1.5}, "value['value']: expected int | str, got float 1.5 (declared as Either)"),
    ("Pair", {"pair": [1]}, "value['pair']: expected tuple[int, str], got list of length 1 (declared as Pair)"),
    ("Owner", {"pet": {"kind": "cow"}},
     "value['pet']: the field 'kind' must be one of 'cat', 'dog' (declared as Owner)"),
    ("Owner", {"pet": 1}, "value['pet']: expected Cat | Dog, got int 1 (declared as Owner)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "problem"), PROBLEMS)
def test_what_does_not_fit_is_named(name, data, problem):
    with pytest.raises(LiteralError) as caught:
        literal_to_python(msgpack(data), type_of(name))
    assert {*str(caught.value).replace("'dog', 'cat'", "'cat', 'dog'").split()} == {*problem.split()}
    with pytest.raises(LiteralError, match=r"^expected Point, got int 1$"):
        literal_to_python(integer(1), type_of("Point"))


def field(schema, **others):
    """An object with a field of that schema."""
    return schema_type({"title": "T", "type": "object", "properties": {"a": schema}, "required": ["a"], **others})


def read(schema, value, **others):
    return literal_to_python(msgpack({"a": value}), field(schema, **others)).a


@pytest.mark.parametrize(("schema", "value", "expected"), [
    ({"anyOf": [{"type": "number"}, {"type": "integer"}]}, 5, 5),
    ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, 5.0, 5.0),
    ({"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "array", "items": {"type": "string"}}]},
     ["a"], ["a"]),
    ({"type": ["integer", "null"]}, None, None),
    ({"type": ["integer", "string"]}, "a", "a"),
    ({"const": None}, None, None),
    ({"const": "only"}, "only", "only"),
    ({"allOf": [{"type": "integer"}], "description": "wrapped"}, 5, 5),
    ({"anyOf": [{"type": "integer"}]}, 5, 5),
    ({"enum": [1, 2]}, 2, 2),
    (True, {"b": [1]}, {"b": [1]}),
    ({"additionalProperties": {"type": "integer"}, "type": "object"}, {"b": 5.0, 1: 2}, {"b": 5, "1": 2}),
    ({"type": "string", "format": "base64"}, b"raw", b"raw"),
    ({"type": "string", "format": "base64"}, "cmF3", "cmF3"),
    ({"$ref": "#/definitions/Old"}, 5, 5),
    ({"type": "integer"}, 2**64 - 1, 2**64 - 1),
])  # fmt: skip
def test_what_schemas_can_say(schema, value, expected):
    came = read(schema, value, definitions={"Old": {"type": "integer"}})
    assert (came, type(came)) == (expected, type(expected))


@pytest.mark.parametrize(("schema", "problem"), [
    (False, "the schema allows no value here"),
    ({"$ref": "#/$defs/None"}, "its schema refers to 'None', which it does not define"),
    ({"type": "colour"}, "its schema has the unknown type 'colour'"),
    ({"anyOf": []}, "its schema is a union without members"),
    ({"allOf": [{}, {}]}, "its schema combines several schemas (allOf), which is not supported"),
])  # fmt: skip
def test_schemas_that_make_no_sense_say_so(schema, problem):
    with pytest.raises(LiteralError) as caught:
        read(schema, 1)
    assert caught.value.problem == problem


def test_objects_of_several_classes_are_told_apart_by_their_fields():
    variants = [
        {"title": title, "type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}
        for title, name in [("One", "x"), ("Other", "y")]
    ]
    assert read({"anyOf": variants}, {"y": 1}) == Record("Other", {"y": 1})
    constant = [
        {"title": title, "type": "object", "properties": {"kind": {"const": title}}, "required": ["kind"]}
        for title in ("One", "Other")
    ]
    assert read({"anyOf": constant}, {"kind": "Other"}) == Record("Other", {"kind": "Other"})
    by_constants = {"oneOf": constant, "discriminator": {"propertyName": "kind"}}
    assert read(by_constants, {"kind": "Other"}) == Record("Other", {"kind": "Other"})


def test_objects_of_a_union_of_literal_types_are_told_apart_by_title():
    one, other = (schema_type({"title": name, "type": "object", "properties": {}}, "T") for name in ("One", "Other"))
    value = union_literal(msgpack({}), other)
    assert literal_to_python(value, union_of(one, other)) == Record("Other", {})
    untagged = union_literal(msgpack({}), tagged("", other))
    assert literal_to_python(untagged, union_of(one, other)) == Record("Other", {})


def test_a_schema_that_is_nothing_but_itself_ends():
    loop = {"$ref": "#/$defs/Loop"}
    for definition in (loop, {"anyOf": [loop, {"type": "null"}]}):
        declared = schema_type({**loop, "$defs": {"Loop": definition}})
        with pytest.raises(LiteralError, match="nested more than 64 levels deep"):
            literal_to_python(msgpack({"a": 1}), declared)


def test_an_object_whose_default_is_itself_ends():
    node = {"title": "Node", "type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    value = literal_to_python(msgpack({}), schema_type({"$ref": "#/$defs/Node", "$defs": {"Node": node}}))
    assert repr(value).count("Node") < 12


def test_a_schema_nested_too_deeply_says_so():
    schema = {"type": "integer"}
    for _ in range(70):
        schema = {"type": "array", "items": schema}
    declared = LiteralType(simple=SimpleType.STRUCT, metadata=Struct.from_dict(schema))
    with pytest.raises(LiteralError, match="its JSON schema cannot be read: nested more than 64 levels deep"):
        literal_to_python(msgpack([]), declared)


def test_defaults_cannot_make_much_of_little():
    item = {"title": "Item", "type": "object", "properties": {"a": {"default": list(range(1000))}}}
    declared = list_of(schema_type(item))
    assert len(literal_to_python(msgpack([{}] * 10), declared)) == 10
    with pytest.raises(LiteralError, match="takes more than 2000000 steps"):
        read({"type": "array", "items": item}, [{}] * 1000)
    with pytest.raises(LiteralError, match="takes more than 2000000 steps"):
        literal_to_python(msgpack([{}] * 1000), declared)


def test_defaults_of_other_types_are_left_as_they_are():
    assert literal_to_python(msgpack({}), field({"type": "integer", "default": None})).a is None


def test_fields_that_are_no_identifiers():
    schema = {"title": "T", "type": "object", "properties": {"not-a-name": {"type": "integer"}, "items": {}}}
    value = literal_to_python(msgpack({"not-a-name": 1, "items": 2}), schema_type(schema))
    assert (value["not-a-name"], value.items) == (1, 2)
    wrapper = {**schema, "title": "NamedTupleWrapper_N"}
    assert literal_to_python(msgpack({"not-a-name": 1}), schema_type(wrapper)) == Record(
        "N", {"items": None, "not-a-name": 1}
    )


@pytest.mark.parametrize("names", [["º"], ["ﬁ", "fi"]], ids=ascii)
def test_fields_that_python_takes_for_others(names):
    fields = dict.fromkeys(names, 1)
    properties = {name: {"type": "integer"} for name in names}
    schema = {"title": "NamedTupleWrapper_N", "type": "object", "properties": properties}
    assert literal_to_python(msgpack(fields), schema_type(schema)) == Record("N", fields)


# a schema, and a value of it as MessagePack has it
LEAVES = st.one_of(
    st.tuples(st.just({"type": "integer"}), st.integers(-(2**53), 2**53)),
    st.tuples(st.just({"type": "number"}), st.floats(allow_nan=False, allow_infinity=False)),
    st.tuples(st.just({"type": "string"}), st.text(max_size=5)),
    st.tuples(st.just({"type": "boolean"}), st.booleans()),
    st.tuples(st.just({"type": "null"}), st.none()),
    st.tuples(st.just({"enum": ["red", "blue"]}), st.sampled_from(["red", "blue"])),
    st.tuples(st.just({}), st.none() | st.text(max_size=3)),
)
NAMES = st.text(min_size=1, max_size=5)


def containers(inner):
    return st.one_of(
        inner.map(lambda pair: ({"type": "array", "items": pair[0]}, [pair[1]])),
        inner.map(lambda pair: ({"type": "array", "items": pair[0]}, [])),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda pairs: ({"type": "array", "prefixItems": [one[0] for one in pairs]}, [one[1] for one in pairs])
        ),
        st.tuples(inner, NAMES).map(
            lambda pair: ({"type": "object", "additionalProperties": pair[0][0]}, {pair[1]: pair[0][1]})
        ),
        inner.map(lambda pair: ({"anyOf": [pair[0], {"type": "null"}]}, pair[1])),
        st.tuples(st.dictionaries(NAMES, inner, max_size=4), st.sampled_from(["T", "NamedTupleWrapper_T"])).map(
            an_object
        ),
    )


def an_object(made):
    fields, title = made
    properties = {name: pair[0] for name, pair in fields.items()}
    schema = {"type": "object", "title": title, "properties": properties, "required": list(fields)}
    return schema, {name: pair[1] for name, pair in fields.items()}


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.dictionaries(NAMES, st.recursive(LEAVES, containers, max_leaves=6), max_size=3)
    .map(lambda made: (made, "T"))
    .map(an_object)
)
def test_any_object_of_any_schema_survives_out_and_back(made):
    schema, data = made
    declared = schema_type(schema)
    value = literal_to_python(msgpack(data), declared)
    assert to_plain_data(value) == data
    for written in (
        python_to_literal(value),
        python_to_literal_as(value, declared),
        python_to_literal_as(data, declared),
    ):
        again = literal_to_python(sent(written), declared)
        assert (again, repr(again)) == (value, repr(value))
    assert repr(literal_to_python(generic(data), declared)) == repr(value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=10,
)
KEYWORDS = st.sampled_from(
    ["$ref", "$defs", "type", "properties", "required", "items", "anyOf", "oneOf", "enum", "const", "title", "default",
     "prefixItems", "additionalProperties", "discriminator", "allOf", "format", "x-flyte-type", "propertyName",
     "mapping"]
)  # fmt: skip
WORDS = st.sampled_from(
    ["object", "array", "integer", "string", "null", "#/$defs/a", "a", "TupleWrapper_", "NamedTupleWrapper_a", "file"]
)
SCHEMAS = st.recursive(
    ANYTHING | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS | st.just("a"), inner, max_size=5),
    max_leaves=15,
)


@settings(deadline=None, max_examples=300)  # a busy machine is no failure
@given(st.dictionaries(KEYWORDS, SCHEMAS, max_size=6), ANYTHING)
def test_whatever_a_schema_says_a_value_is_read_or_refused(schema, data):
    declared = schema_type(schema)
    type_name(declared)
    try:
        value = literal_to_python(msgpack(data), declared)
    except LiteralError:
        return
    repr(value)
