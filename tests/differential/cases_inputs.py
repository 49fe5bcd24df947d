"""Requests about inputs: what of each literal reaches the connector, by each declared type."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from flyteidl2.core.literals_pb2 import Literal
from flyteidl2.core.security_pb2 import Connection
from flyteidl2.core.types_pb2 import LiteralType
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral
from google.protobuf import json_format

from differential import wire
from differential.asking import Request, inputs_request, order
from differential.wire import INT, SEVEN, TEXT, TEXT_VALUE, TYPES

__all__ = ["input_requests"]


def input_requests(directory: Path) -> Iterator[Request]:
    """All of them.

    :param directory: for files that literals refer to
    """
    for type_name, literal_type in TYPES.items():
        for literal_name, literal in wire.LITERALS.items():
            if type_name not in wire.STRICT or literal_name in wire.TELLING:
                yield one(f"{type_name} <- {literal_name}", literal_type, literal)
    for name, literal_type, literal in wire.EDGES:
        yield one(f"edge: {name}", literal_type, literal)
    yield from of_flyte_types()
    yield from of_schemas()
    yield from of_interfaces()
    yield from of_stored(directory)


def one(name: str, literal_type: LiteralType, literal: Literal) -> Request:
    return inputs_request(name, [("x", literal_type)], [("x", literal)])


def of_flyte_types() -> Iterator[Request]:
    """The types that flyte-sdk declares, and values as it sends them; as a struct, too, which is how a person does."""
    for name, (literal_type, literals) in wire.FLYTE_TYPES.items():
        if name == "Forest":  # flyte-sdk's host takes seconds to find that it cannot
            continue
        for index, literal in enumerate(literals):
            yield one(f"flyte: {name} {index}", literal_type, literal)
            data = unpacked(literal)
            if literal_type.HasField("metadata") and isinstance(data, dict) and index == 0:
                yield one(f"flyte: {name} as a struct", literal_type, wire.generic(texts_for_bytes(data)))
                yield from of_fields(name, literal_type, data) if name in ("Flat", "PFlat") else ()

    for name in ("Defaults", "WholeDefault", "PDefaults"):
        yield one(f"flyte: {name} of nothing", wire.FLYTE_TYPES[name][0], wire.msgpack({}))


def unpacked(literal: Literal) -> Any:
    return msgspec.msgpack.decode(literal.scalar.binary.value) if literal.scalar.HasField("binary") else None


def texts_for_bytes(data: dict[str, Any]) -> dict[str, Any]:
    """What JSON has for the same object."""
    return json.loads(json.dumps(data, default=lambda value: value.decode()))


def of_fields(name: str, literal_type: LiteralType, data: dict[str, Any]) -> Iterator[Request]:
    """An object with one thing wrong."""
    yield one(f"object: {name} with a further field", literal_type, wire.msgpack({**data, "further": 1}))
    yield one(f"object: {name} without fields", literal_type, wire.msgpack({}))
    for key in sorted(data):
        without = {other: value for other, value in data.items() if other != key}
        yield one(f"object: {name} without {key}", literal_type, wire.msgpack(without))
        for wrong_name, wrong in WRONG.items():
            if wrong != data[key]:
                literal = wire.msgpack({**data, key: wrong})
                yield one(f"object: {name} with {key} {wrong_name}", literal_type, literal)


WRONG = {"null": None, "text": "x", "number": 7, "object": {"zz": 1}}

PLAIN = {"type": "object", "title": "T", "required": ["a"], "properties": {"a": {"type": "integer"}}}
DATACLASS, MODEL = "Object-Dataclass-Transformer", "Pydantic Transformer"


def schema_type(schema: dict[str, Any], tag: str) -> LiteralType:
    structure = {"structure": {"tag": tag}} if tag else {}
    return json_format.ParseDict({"simple": "STRUCT", "metadata": schema, **structure}, LiteralType())


def of_schemas() -> Iterator[Request]:
    """Fields of one schema and values for them, in a dataclass and in a model."""
    for tag_name, tag in (("dataclass", DATACLASS), ("model", MODEL)):
        for name, field_schema, values in SCHEMAS:
            schema = copy.deepcopy(PLAIN)
            schema["properties"]["a"] = field_schema
            for value_name, value in values.items():
                literal_type = schema_type(schema, tag)
                yield one(f"{tag_name}: {name} <- {value_name}", literal_type, wire.msgpack({"a": value}))
    for tag_name, tag in (("no tag", ""), ("another tag", "zzz"), ("dataclass", DATACLASS), ("model", MODEL)):
        yield one(f"schema of {tag_name}", schema_type(PLAIN, tag), wire.msgpack({"a": 1}))
        yield one(f"schema of {tag_name}, not an object", schema_type(PLAIN, tag), wire.msgpack([1]))
        yield one(f"schema of {tag_name}, no binary", schema_type(PLAIN, tag), SEVEN)


SCALARS = {
    "int": 7,
    "true": True,
    "integral float": 5.0,
    "float": 5.9,
    "text": "x",
    "number text": "7",
    "text false": "false",
    "null": None,
    "list": [1],
    "object": {"b": 1},
    "bytes": b"raw",
}
INTEGER = {"type": "integer"}
SCHEMAS: list[tuple[str, Any, dict[str, Any]]] = [
    ("integer", {"type": "integer"}, {**SCALARS, "great int": 2**64 - 1}),
    ("number", {"type": "number"}, SCALARS),
    ("text", {"type": "string"}, SCALARS),
    ("boolean", {"type": "boolean"}, SCALARS),
    ("anything", {}, SCALARS),
    ("null", {"type": "null"}, {"null": None}),
    ("date", {"type": "string", "format": "date-time"}, {"text": "2024-05-01T00:00:00Z"}),
    ("enum", {"enum": ["red", "blue"], "type": "string"}, {"member": "red", "no member": "green", "int": 7}),
    ("enum of int", {"enum": [1, 2]}, {"member": 1, "no member": 3}),
    ("constant", {"const": "only", "type": "string"}, {"it": "only", "another": "x"}),
    ("list of int", {"type": "array", "items": {"type": "integer"}}, {"list": [1], "text": "abc", "object": {"1": 2}}),
    ("tuple", {"type": "array", "prefixItems": [{"type": "integer"}, {}]}, {"it": [1, "a"], "short": [1]}),
    ("map of int", {"type": "object", "additionalProperties": INTEGER}, {"it": {"a": 1}, "int keys": {1: 1}}),
    ("map", {"type": "object"}, {"it": {"a": 1, "b": [None]}, "list": [1]}),
    ("int or text", {"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"int": 7, "text": "x", "null": None}),
    ("text or int", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, {"int": 7, "text": "x"}),
    ("perhaps int", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"int": 7, "null": None, "text": "x"}),
    ("reference to nothing", {"$ref": "#/$defs/Nothing"}, {"text": "x", "int": 7}),
    ("default of int", {"type": "integer", "default": 5}, {"int": 7}),
    ("inner object", {**PLAIN, "title": "Inner"}, {"it": {"a": 1}, "further": {"a": 1, "b": 2}, "wrong": {"a": "x"}}),
]  # fmt: skip


def of_interfaces() -> Iterator[Request]:
    """Several inputs, missing ones, undeclared ones, repeated ones, and what else comes with them."""
    yield inputs_request("inputs: none", [], [])
    yield inputs_request("inputs: none of one", [("x", INT)], [])
    yield inputs_request("inputs: one of two", [("x", INT), ("y", TEXT)], [("x", SEVEN)])
    yield inputs_request("inputs: two", [("x", INT), ("y", TEXT)], [("y", TEXT_VALUE), ("x", SEVEN)])
    yield inputs_request("inputs: undeclared", [("x", INT), ("y", INT)], [("z", SEVEN)])
    yield inputs_request("inputs: undeclared without an interface", [], [("z", SEVEN)])
    yield inputs_request("inputs: more than declared", [("x", INT)], [("x", SEVEN), ("z", SEVEN)])
    yield inputs_request("inputs: twice", [("x", INT)], [("x", SEVEN), ("x", wire.primitive(integer=8))])
    yield inputs_request("inputs: declared twice", [("x", INT), ("x", TEXT)], [("x", TEXT_VALUE)])
    yield inputs_request("inputs: without a name", [("", INT)], [("", SEVEN)])
    yield inputs_request("inputs: name of no identifier", [("a b-ç", INT)], [("a b-ç", SEVEN)])
    names = [f"n{number * 7 % 20}" for number in range(20)]
    many = [(name, SEVEN) for name in reversed(names)]
    yield inputs_request("inputs: order", [(name, INT) for name in names], many, order(argument="names"))
    yield inputs_request("inputs: bad one of two", [("x", INT), ("y", INT)], [("x", SEVEN), ("y", TEXT_VALUE)])
    connection = Connection(secrets={"a": "s", "b": "s"}, configs={"b": "c"})
    yield inputs_request("create: connection", [], [], order(argument="kwargs"), connection=connection)
    yield inputs_request("create: template", [("x", INT)], [("x", SEVEN)], order(argument="task"))
    context = Inputs(literals=[NamedLiteral(name="x", value=SEVEN)], context=[{"key": "k", "value": "v"}])
    request = inputs_request("inputs: with a context", [("x", INT)], [])
    request.message.inputs.CopyFrom(context)
    yield request


def of_stored(directory: Path) -> Iterator[Request]:
    """Literals that were too large for a request."""
    small = [("int", SEVEN), ("list", wire.collection(SEVEN, SEVEN)), ("another", wire.offloaded("/nowhere"))]
    for name, literal in small:
        (directory / name).write_bytes(literal.SerializeToString())
    (directory / "with a space").write_bytes(SEVEN.SerializeToString())
    (directory / "hashed").write_bytes(wire.blob("s3://bucket/a", digest="h").SerializeToString())
    (directory / "broken").write_bytes(b"\xff\xff\xff")
    (directory / "pickle").write_bytes(pickle.dumps({1, 2}))
    base = str(directory)
    lists = TYPES["list"]
    cases = [
        ("path", INT, wire.offloaded(f"{base}/int")),
        ("file URL", INT, wire.offloaded(f"file://{base}/int")),
        ("path with a space", INT, wire.offloaded(f"{base}/with a space")),
        ("list", lists, wire.offloaded(f"{base}/list")),
        ("in a list", lists, wire.collection(SEVEN, wire.offloaded(f"{base}/int"))),
        ("in a map", TYPES["map"], wire.mapping(a=wire.offloaded(f"{base}/int"))),
        ("of another type", TEXT, wire.offloaded(f"{base}/int")),
        ("with a hash", TYPES["file"], wire.offloaded(f"{base}/hashed")),
        ("for a union", TYPES["int or text"], wire.offloaded(f"{base}/int")),
        ("in a union", TYPES["int or text"], wire.union(wire.offloaded(f"{base}/int"), wire.TAGGED["int"])),
        ("missing", INT, wire.offloaded(f"{base}/missing")),
        ("directory", INT, wire.offloaded(base)),
        ("broken", INT, wire.offloaded(f"{base}/broken")),
        ("without a uri", INT, wire.offloaded("")),
        ("elsewhere again", INT, wire.offloaded(f"{base}/another")),
        ("unknown scheme", INT, wire.offloaded("nosuch://bucket/int")),
        ("pickle", TYPES["pickle"], wire.blob(f"{base}/pickle", 0, "PythonPickle")),
    ]
    for name, literal_type, literal in cases:
        yield one(f"stored: {name}", literal_type, literal)
