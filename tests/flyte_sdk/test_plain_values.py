"""Values of plain types become what flyte-sdk's type engine makes of them, or are left to it."""

from __future__ import annotations

import asyncio
import enum
import inspect
from types import MappingProxyType
from unittest.mock import patch

import pytest
from flyte._internal.runtime.convert import Inputs as FlyteInputs
from flyte._internal.runtime.convert import convert_from_inputs_to_native
from flyte.connectors import Resource
from flyte.connectors._connector import get_resource_proto
from flyte.models import NativeInterface
from flyte.types import TypeEngine
from flyteidl2.core.interface_pb2 import Variable, VariableEntry, VariableMap
from flyteidl2.core.literals_pb2 import Binary, Literal, LiteralOffloadedMetadata, Primitive, Scalar, Void
from flyteidl2.core.types_pb2 import LiteralType, SimpleType, TypeStructure
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral

from connectrio.flyte import _plain_values
from connectrio.flyte._plain_values import plain_inputs, plain_outputs

LEFT_TO_THE_ENGINE = None


class Color(enum.IntEnum):
    BLUE = 1


INTEGER = LiteralType(simple=SimpleType.INTEGER)


def declared(**types):
    return VariableMap(variables=[VariableEntry(key=name, value=Variable(type=each)) for name, each in types.items()])


def sent(**literals):
    return Inputs(literals=[NamedLiteral(name=name, value=each) for name, each in literals.items()])


def primitive(**value):
    return Literal(scalar=Scalar(primitive=Primitive(**value)))


async def by_the_engine(variables, inputs):
    types = {
        each.key: (TypeEngine.guess_python_type(each.value.type), inspect.Parameter.empty)
        for each in variables.variables
    }
    interface = NativeInterface.from_types(inputs=types, outputs={})
    return await convert_from_inputs_to_native(interface, FlyteInputs(proto_inputs=inputs))


PLAIN = [
    (int, 7),
    (int, -(2**63)),
    (float, 0.1),
    (float, float("-inf")),
    (str, "grüße\0"),
    (str, ""),
    (bool, True),
    (bool, False),
    (list[int], []),
    (list[bool], [True, False]),
    (list[list[str]], [["a"], [], ["b", "c"]]),
    (dict[str, int], {}),
    (dict[str, list[float]], {"a": [1.5], "": []}),
    (list[dict[str, str]], [{"a": "b"}, {}]),
]


@pytest.mark.parametrize(("kind", "value"), PLAIN, ids=map(str, PLAIN))
def test_plain_values_are_those_of_the_type_engine(kind, value):
    literal_type = TypeEngine.to_literal_type(kind)
    variables = declared(x=literal_type)
    inputs = sent(x=asyncio.run(TypeEngine.to_literal(value, kind, literal_type)))
    expected = asyncio.run(by_the_engine(variables, inputs))
    found = plain_inputs(variables, inputs)
    assert found == expected == {"x": value}
    assert repr(found) == repr(expected)


OTHERS = {
    "a float for an integer": (INTEGER, primitive(float_value=7.0)),
    "an integer for a float": (LiteralType(simple=SimpleType.FLOAT), primitive(integer=7)),
    "a text for a boolean": (LiteralType(simple=SimpleType.BOOLEAN), primitive(string_value="true")),
    "nothing": (INTEGER, Literal()),
    "none": (INTEGER, Literal(scalar=Scalar(none_type=Void()))),
    "msgpack": (INTEGER, Literal(scalar=Scalar(binary=Binary(value=b"\x07", tag="msgpack")))),
    "stored elsewhere": (INTEGER, Literal(offloaded_metadata=LiteralOffloadedMetadata(uri="/x"))),
    "a scalar for a list": (LiteralType(collection_type=INTEGER), primitive(integer=7)),
    "a scalar for a map": (LiteralType(map_value_type=INTEGER), primitive(integer=7)),
    "a time": (LiteralType(simple=SimpleType.DATETIME), primitive(datetime={"seconds": 7})),
    "a list of times": (LiteralType(collection_type=LiteralType(simple=SimpleType.DATETIME)), Literal()),
    "no type": (LiteralType(), primitive(integer=7)),
    "a named transformer": (
        LiteralType(simple=SimpleType.INTEGER, structure=TypeStructure(tag="mine")),
        primitive(integer=7),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_types_and_forms_are_left_to_the_type_engine(name):
    literal_type, literal = OTHERS[name]
    assert plain_inputs(declared(x=literal_type), sent(x=literal)) is LEFT_TO_THE_ENGINE


def test_names_that_are_not_declared_are_left_to_the_type_engine():
    one = primitive(integer=1)
    assert plain_inputs(declared(x=INTEGER), sent(y=one)) is LEFT_TO_THE_ENGINE
    assert plain_inputs(declared(x=INTEGER), sent(x=one, y=one)) is LEFT_TO_THE_ENGINE
    assert plain_inputs(declared(x=INTEGER), sent()) == {}
    assert plain_inputs(declared(), sent()) == {}


def test_what_is_known_of_a_declaration_is_kept_but_not_of_a_large_one():
    small, large = declared(x=INTEGER, y=INTEGER), declared(**{"x" * 20_000: INTEGER})
    _plain_values._readers.cache_clear()
    with patch.object(TypeEngine, "guess_python_type", wraps=TypeEngine.guess_python_type) as guess:
        for _ in range(3):
            assert plain_inputs(small, sent(x=primitive(integer=1))) == {"x": 1}
            assert plain_inputs(large, sent(**{"x" * 20_000: primitive(integer=1)})) is LEFT_TO_THE_ENGINE
    assert guess.call_count == 2
    assert _plain_values._readers.cache_info().currsize == 1


@pytest.mark.parametrize(
    "outputs",
    [
        {"x": 7},
        {"x": -(2**63), "y": 0.5, "z": "grüße", "": True},
        {"x": float("inf"), "y": "", "z": False, "u": 0},
    ],
    ids=str,
)
def test_plain_outputs_are_those_of_the_type_engine(outputs):
    expected = asyncio.run(get_resource_proto(Resource(phase=3, outputs=outputs))).outputs
    assert plain_outputs(outputs) == expected
    assert plain_outputs(outputs).SerializeToString() == expected.SerializeToString()


@pytest.mark.parametrize(
    "outputs",
    [
        {"x": 2**63},
        {"x": "\ud800"},
        {"x": [1]},
        {"x": None},
        {"x": b"a"},
        {1: 2},
        {"x": Color.BLUE},
        MappingProxyType({}),
    ],
    ids=repr,
)
def test_other_outputs_are_left_to_the_type_engine(outputs):
    assert plain_outputs(outputs) is LEFT_TO_THE_ENGINE
