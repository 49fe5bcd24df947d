"""The budget of a conversion: whatever a request holds, the interpreter does not do more than its steps stand for."""

from __future__ import annotations

import gc
import json
import sys
from datetime import UTC
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectrio.idl.flyteidl2.core import EnumType, Literal, LiteralCollection, LiteralMap, LiteralType, Scalar, Union
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.literals import (
    File,
    LiteralError,
    Record,
    TooManyStepsError,
    checked_inputs,
    inputs_to_python,
    literal_to_python,
    outputs_to_literals,
)
from connectrio.literals.codecs.scalars import Enumeration
from connectrio.literals.json_schema import shape_of
from connectrio.literals.shapes import Choice, Fit
from connectrio.literals.steps import MAX_STEPS, Steps, limited_steps
from connectrio.rpc.codec import decode, encode
from literals.flyte_types import FOUND, schema_type, type_of, values_of
from literals.makers import (
    BINARY,
    BOOLEAN,
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
    binary,
    dict_of,
    generic,
    inputs,
    integer,
    interface,
    list_of,
    msgpack,
    nested,
    sent,
    string,
    tagged,
    timestamp,
    union_literal,
    union_of,
)

# calls of functions, Python's and C's, that one step may make, and that a conversion makes beside its steps
CALLS_PER_STEP = 6
CALLS_BESIDE = 500
STEPS = 20_000
LARGEST = 4 * 1024 * 1024


class Work:
    """The work of a conversion.

    :ivar calls: of functions
    :ivar steps: that were taken
    """

    def __init__(self):
        self.calls = 0
        self.steps = 0


def convert(came, declared, *, max_steps=STEPS, function=inputs_to_python):
    """Convert, or check for another type engine; return the work, and the error's text or ""."""
    work = Work()
    original = Steps.take

    def take(self, count):
        try:
            original(self, count)
        finally:
            work.steps = min(self.limit - self.left, self.limit)

    def count(_frame, event, _argument):
        work.calls += event in ("call", "c_call")

    before = sys.getprofile()
    problem = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "take", take)
        sys.setprofile(count)
        try:
            function(came, declared, max_steps=max_steps)
        except LiteralError as error:
            problem = str(error)
        finally:
            sys.setprofile(before)
    return work, problem


def one(literal, literal_type):
    return Inputs(literals=[NamedLiteral(name="x", value=literal)]), interface(x=literal_type)


def of_schema(schema, value=None):
    return one(msgpack({} if value is None else value), schema_type(schema))


def items(*literals, times=1):
    """A list of these literals, so many times."""
    data = b"".join(bytes(LiteralCollection(literals=[literal])) for literal in literals)
    return Literal(collection=decode(data * times, LiteralCollection))


def obj(properties, **others):
    return {"type": "object", "properties": properties, **others}


def of_types(levels, count):
    """A list of types names "object" many times, at each level."""
    return of_schema(nested(levels, lambda schema: {"type": ["object"] * count, "properties": {"a": schema}}, obj({})))


def of_discriminators(levels, count):
    """A union with a discriminator has many constants for one part, at each level."""

    def wrap(schema):
        part = obj({"k": {"enum": [f"x{number}" for number in range(count)]}, "a": schema})
        return {"anyOf": [part, obj({"k": {"const": "z"}})], "discriminator": {"propertyName": "k"}}

    return of_schema(nested(levels, wrap, obj({})))


def of_definitions(count):
    """Each property has definitions of its own, inside many others."""
    properties = {f"p{number}": {"$defs": {"x": True}} for number in range(count)}
    return of_schema(obj(properties, **{"$defs": {str(number): True for number in range(count)}}))


def of_references(count, targets):
    """Unions whose parts refer to all of these unions."""
    names = [f"A{number}" for number in range(targets)]
    union = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names] * count}
    schema = obj({"a": {"$ref": "#/$defs/A0"}}, **{"$defs": dict.fromkeys(names, union)})
    return of_schema(schema, {"a": 1})


def of_many_variants(count):
    variants = [obj({f"p{field}": {"type": "integer"} for field in range(50)}, title=f"T{n}") for n in range(count)]
    return of_schema(obj({"a": {"type": "array", "items": {"anyOf": variants}}}), {"a": [{"p1": 1}] * 3000})


def of_defaults(count):
    item = obj({"a": {"default": list(range(count))}})
    return of_schema(obj({"a": {"type": "array", "items": item}}), {"a": [{}] * 3000})


def of_defaults_in_defaults(levels):
    definitions = {"l0": obj({f"p{number}": {"type": "integer", "default": 1} for number in range(9)})}
    for level in range(1, levels):
        definitions[f"l{level}"] = obj({f"p{n}": {"$ref": f"#/$defs/l{level - 1}"} for n in range(6)})
    return of_schema(obj({"a": {"$ref": f"#/$defs/l{levels - 1}"}}, **{"$defs": definitions}))


def of_tuples(count):
    """Each property is a named tuple of a class of its own."""
    return of_schema(obj({
        f"p{n}": obj({f"f{field}": {} for field in range(10)}, title=f"NamedTupleWrapper_N{n}") for n in range(count)
    }))  # fmt: skip


def of_nested_unions(levels, variants):
    union = nested(levels, lambda inner: union_of(inner, *variants), INTEGER)
    return one(items(integer(3), times=50), list_of(union))


def of_nested_union_values(levels):
    union = nested(levels, lambda inner: union_of(inner, STRING), INTEGER)
    value = nested(levels, lambda inner: Literal(scalar=Scalar(union=Union(value=inner, type=INTEGER))), integer(3))
    return one(items(sent(value), times=10), list_of(union))


FAMILIES = {
    "types": lambda: of_types(12, 4),
    "a long list of types": lambda: of_schema(obj({f"p{n}": True for n in range(1500)}, type=["object"] * 1500)),
    "unknown types": lambda: of_schema({"type": [f"t{n}" for n in range(2000)], **{f"p{n}": 1 for n in range(2000)}}),
    "discriminators": lambda: of_discriminators(4, 12),
    "definitions": lambda: of_definitions(2500),
    "a union of itself": lambda: of_references(500, 1),
    "unions of each other": lambda: of_references(1, 60),
    "a few unions of each other": lambda: of_references(1, 12),
    "a chain of references": lambda: of_schema(
        obj({"a": {"$ref": "#/$defs/A0"}}, **{"$defs": {f"A{n}": {"$ref": f"#/$defs/A{n + 1}"} for n in range(2000)}}),
        {"a": 1},
    ),
    "references in deep unions": lambda: of_schema(
        {"$ref": "#/$defs/A", "$defs": {"A": nested(10, lambda part: {"anyOf": [part, True]}, {"$ref": "#/$defs/A"})}}
    ),
    "required": lambda: of_schema(obj({f"p{n}": 1 for n in range(5000)}, required=[f"p{n}" for n in range(5000)])),
    "many variants": lambda: of_many_variants(50),
    "a long enum in a schema": lambda: of_schema(
        obj({"a": {"type": "array", "items": {"anyOf": [{"enum": [f"x{n}" for n in range(3000)]}, True]}}}),
        {"a": ["q"] * 3000},
    ),
    "defaults": lambda: of_defaults(1000),
    "defaults in defaults": lambda: of_defaults_in_defaults(7),
    "classes": lambda: of_tuples(500),
    "a wide tuple": lambda: of_schema(obj({f"f{n}": {} for n in range(5000)}, title="NamedTupleWrapper_N"), {}),
    "a long enum": lambda: one(
        items(string("x"), times=3000), list_of(LiteralType(enum_type=EnumType(values=[f"x{n}" for n in range(3000)])))
    ),
    "nested unions": lambda: of_nested_unions(60, (STRING, BOOLEAN)),
    "nested union values": lambda: of_nested_union_values(30),
    "a wide union": lambda: one(items(integer(3), times=50), list_of(union_of(*[list_of(STRING)] * 500))),
    "tags": lambda: one(
        items(union_literal(integer(3), INTEGER), times=300),
        list_of(union_of(INTEGER, *[tagged(f"t{n}", STRING) for n in range(200)])),
    ),
    "equal types": lambda: one(
        items(union_literal(integer(3), nested(30, list_of, INTEGER)), times=50),
        list_of(union_of(*[nested(30, list_of, STRING)] * 50)),
    ),
    "references in unions": lambda: one(
        msgpack([{str(n): 1 for n in range(500)}] * 50), list_of(union_of(FILE, DIR, DATAFRAME))
    ),
    "many inputs": lambda: (
        inputs(*[(f"i{n}", integer(1)) for n in range(2000)]),
        interface(**{f"i{n}": INTEGER for n in range(2000)}),
    ),
    "a struct": lambda: one(generic({f"k{n}": [1, 2, {"a": 1}] for n in range(1000)}), STRUCT),
    "a deep struct": lambda: one(generic(deep()), STRUCT),
    "a map": lambda: one(
        sent(Literal(map=LiteralMap(literals={f"k{n}": integer(1) for n in range(2000)}))), dict_of(INTEGER)
    ),
    "four mebibytes of texts": lambda: one(items(string("x" * 20), times=130_000), list_of(STRING)),
    "lists in MessagePack": lambda: one(msgpack([[1.5]] * 10_000), BINARY),
    "empty dictionaries": lambda: one(binary(b"\xdd\x00\x1f\xff\xff" + b"\x80" * 0x1FFFFF, "msgpack"), BINARY),
    "a long text for many": lambda: one(items(msgpack("x" * 100_000)), union_of(*[list_of(list_of(INTEGER))] * 300)),
    "times": lambda: one(msgpack(["2024-01-01T00:00:00"] * 3000), list_of(DATETIME)),
    "durations out of range": lambda: one(msgpack(["P9999999999D"]), list_of(DURATION)),
    "times out of range": lambda: one(items(timestamp(2**62)), list_of(DATETIME)),
}


def deep():
    return nested(15, lambda inner: {"a": inner, "b": [inner] if len(json.dumps(inner)) < 10_000 else 1}, {})


def check(came, declared, function=inputs_to_python):
    work, problem = convert(came, declared, function=function)
    assert work.calls <= CALLS_PER_STEP * work.steps + CALLS_BESIDE
    assert work.steps <= STEPS
    assert ("more than 20000 steps" in problem) == (work.steps == STEPS)
    assert len(problem) < 1000


converting_and_checking = pytest.mark.parametrize("function", [inputs_to_python, checked_inputs])


@converting_and_checking
@pytest.mark.parametrize("family", FAMILIES)
def test_the_work_is_no_more_than_the_steps(family, function):
    came, declared = FAMILIES[family]()
    assert len(encode(came)) + len(encode(declared)) < LARGEST
    check(came, declared, function)


LEAF_TYPES = [INTEGER, FLOAT, STRING, BOOLEAN, DATETIME, DURATION, NONE, STRUCT, BINARY, FILE, DATAFRAME]
SCHEMAS = st.recursive(
    st.sampled_from([{"type": "integer"}, {"type": "string"}, {"enum": ["a", "b"]}, True, {"$ref": "#/$defs/A"}]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(lambda parts: {"anyOf": parts}),
        inner.map(lambda items: {"type": ["array", "object"] * 3, "items": items, "properties": {"a": items}}),
        st.dictionaries(st.sampled_from("abcd"), inner, max_size=4).map(obj),
        inner.map(lambda target: obj({"a": {"$ref": "#/$defs/A"}}, **{"$defs": {"A": target}})),
    ),
    max_leaves=10,
)
TYPES = st.recursive(
    st.sampled_from(LEAF_TYPES) | SCHEMAS.filter(lambda schema: schema is not True).map(schema_type),
    lambda inner: st.one_of(
        inner.map(list_of),
        inner.map(dict_of),
        st.lists(inner, min_size=1, max_size=3).map(lambda variants: union_of(*variants)),
        st.tuples(inner, st.integers(1, 12)).map(lambda pair: union_of(STRING, *[pair[0]] * pair[1])),
    ),
    max_leaves=4,
)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.sampled_from("abc"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=20,
)
LITERALS = st.recursive(
    DATA.map(msgpack) | st.dictionaries(st.sampled_from("abcd"), DATA, max_size=4).map(generic) | st.just(integer(1)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda literals: items(*literals)),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda literals: sent(Literal(map=LiteralMap(literals=literals)))
        ),
        st.tuples(inner, st.sampled_from(LEAF_TYPES)).map(lambda pair: union_literal(*pair)),
    ),
    max_leaves=8,
)


@converting_and_checking
@settings(deadline=None, max_examples=50)  # a busy machine is no failure
@given(TYPES, LITERALS, st.integers(0, 4))
def test_the_work_of_any_request_is_no_more_than_its_steps(function, literal_type, literal, size):
    check(*one(literal, literal_type), function)
    # larger ones are above: these would take most of their time to be made
    times = min(10**size, LARGEST // 40 // (len(bytes(literal)) + 4))
    check(*one(items(literal, times=times), list_of(literal_type)), function)


@pytest.mark.parametrize("name", FOUND)
def test_what_flyte_sdk_sends_takes_few_steps(name):
    for literal in values_of(name):
        work, problem = convert(*one(literal, type_of(name)))
        assert (problem, work.steps < STEPS // 20) == ("", True)


def test_a_list_of_900_000_numbers_may_be_converted():
    came, declared = one(msgpack([1.5] * 900_000), list_of(FLOAT))
    assert len(inputs_to_python(came, declared)["x"]) == 900_000
    with pytest.raises(TooManyStepsError, match=f"takes more than {MAX_STEPS} steps"):
        inputs_to_python(*one(msgpack([1.5] * 1_100_000), list_of(FLOAT)))


def test_the_steps_are_those_of_all_inputs_together():
    count = 5
    many = inputs(**{f"x{number}": msgpack([1] * 3000) for number in range(count)})
    declared = interface(**{f"x{number}": list_of(INTEGER) for number in range(count)})
    assert "input 'x3'" in convert(many, declared)[1]
    assert convert(many, declared, max_steps=2 * STEPS)[1] == ""


class Counted(str):
    """A text that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_members_are_not_looked_for_one_by_one():
    members = tuple(Counted(f"m{number}") for number in range(1000))
    assert Choice(members).fit("none") is Fit.LOOSELY
    assert Choice(members).fit("m999") is Fit.EXACTLY
    with pytest.raises(LiteralError):
        Enumeration(members).from_plain("none")
    required = shape_of({"type": "object", "properties": dict.fromkeys(members, True), "required": list(members)})
    assert required.fields[members[-1]].required
    assert Counted.compared < 10


@pytest.mark.parametrize("data", [b"\x81\x92\x01\x02\x03", b"\x91\x81\x90\x01", b"\xde\x00\x01\xdc\x00\x00\x01"])
def test_lists_are_no_keys(data):
    """Their sender could give a hundred thousand of them one hash, which takes minutes."""
    with pytest.raises(LiteralError, match="a key is a list or a dictionary"):
        literal_to_python(binary(data, "msgpack"), BINARY)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary() | st.datetimes(
        timezones=st.just(UTC)
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-(2**63), 2**63), inner),
    max_leaves=50,
)  # fmt: skip


@settings(deadline=None)
@given(PLAIN | st.sampled_from(["x" * 2**16, b"x" * 2**16, [0] * 2**16, dict.fromkeys(range(2**16))]))
def test_whatever_the_encoder_writes_is_read(data):
    packed = msgspec.msgpack.encode(data)
    assert repr(literal_to_python(binary(packed, "msgpack"), BINARY)) == repr(msgspec.msgpack.decode(packed))


@settings(deadline=None)
@given(st.binary(max_size=40), PLAIN, st.integers(0, 100))
def test_what_the_decoder_refuses_is_an_error_and_nothing_else_is(noise, data, cut):
    packed = msgspec.msgpack.encode(data)[:cut] + noise
    try:
        expected = repr(msgspec.msgpack.decode(packed))
    except (msgspec.DecodeError, ValueError):
        expected = None
    try:
        came = repr(literal_to_python(binary(packed, "msgpack"), BINARY))
    except LiteralError as error:
        # beside what the decoder refuses, only lists as keys and unknown extensions
        if expected is not None and "a key is a list" not in str(error) and "extension type" not in str(error):
            raise
    else:
        assert came == expected


def test_classes_of_tuples_do_not_pile_up():
    def classes():
        gc.collect()
        # asking the objects themselves would run code of theirs: of modules that are imported lazily, of other tests
        name = vars(type)["__name__"].__get__
        found = [each for each in gc.get_objects() if issubclass(type(each), type)]
        return sum(name(each).startswith("Pile") for each in found)

    for number in range(300):
        schema = obj({"a": {}}, title=f"NamedTupleWrapper_Pile{number}")
        inputs_to_python(*of_schema(schema, {"a": 1}))
    assert 0 < classes() <= 256
    name = "Pile" + "x" * 3000
    inputs_to_python(*of_schema(obj({"a": {}}, title=f"NamedTupleWrapper_{name}"), {"a": 1}))
    assert type(inputs_to_python(*of_schema(obj({"a": {}}, title=f"TupleWrapper_{name}"), {"a": 1}))["x"]) is Record


def test_outputs_that_hold_each_other_many_times_are_refused(monkeypatch):
    monkeypatch.setattr("connectrio.literals.untyped.limited_steps", partial(limited_steps, STEPS))
    value = nested(40, lambda inner: [inner, inner], [])
    for output in (value, {"a": value}):
        with pytest.raises(TooManyStepsError, match=r"^output 'x'.*takes more than 20000 steps"):
            outputs_to_literals({"x": output})


def test_names_of_files_are_found_in_the_end_of_their_paths():
    assert (File("s3://b/a/b.csv").name, File("a/").name, File("").name) == ("b.csv", "a", "")
    assert File("/a" * 1_000_000).name == "a"


def test_a_missing_field_of_a_wide_object_is_a_short_error():
    record = Record("R", {f"f{number}": 1 for number in range(1000)})
    with pytest.raises(AttributeError, match=r"R has no field 'x'; it has f0, f1, .*, f9, …$"):
        record.x  # noqa: B018 - the attribute is what is tested
