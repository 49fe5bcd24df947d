"""Compile a JSON schema into its shape. flyte-sdk makes such schemas of dataclasses and pydantic models."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any
from unicodedata import is_normalized

from connectrio.literals.codecs import Codec
from connectrio.literals.codecs.references import BlobReference, DataFrameReference
from connectrio.literals.codecs.scalars import Boolean, Float, Integer, Nothing, String
from connectrio.literals.codecs.structs import Binary
from connectrio.literals.errors import MAX_DEPTH, quoted_name
from connectrio.literals.shapes import (
    Anything,
    Choice,
    Impossible,
    Items,
    Leaf,
    Names,
    Object,
    OneOf,
    Reference,
    SchemaField,
    Shape,
    Tuple,
)
from connectrio.literals.steps import take_steps
from connectrio.literals.values import Dir, File, Record

__all__ = ["is_schema", "shape_of"]

_KEYWORDS = frozenset({"$ref", "allOf", "anyOf", "const", "enum", "oneOf", "properties", "type"})

TUPLE_PREFIX = "TupleWrapper_"
NAMED_TUPLE_PREFIX = "NamedTupleWrapper_"
TYPED_DICT_PREFIX = "TypedDictWrapper_"

_STEPS_PER_PART = 8
_STEPS_PER_CLASS = 500

# characters of the names in a named tuple; each class of the longest takes about 100 kB
_LONGEST_TUPLE_NAMES = 2_000

Make = Callable[[dict[str, Any]], Any]

Schema = Mapping[str, Any]


def is_schema(metadata: Schema) -> bool:
    """Return whether the metadata of a type are a JSON schema; they may be anything."""
    return not _KEYWORDS.isdisjoint(metadata)


def shape_of(schema: Schema) -> Shape:
    """Return the shape of a JSON schema. An invalid schema gets a shape that takes no values and says why.

    Each part of the schema is compiled at most once: those that it refers to by name when a value first needs them.

    :raises LiteralError: it takes too many steps
    """
    return _compile(schema, _Scope())


@dataclass(frozen=True)
class _Scope:
    """The surroundings of a schema.

    :ivar definitions: name → a schema that it can refer to, for each level that has some, the nearest first
    :ivar references: id() of a schema → the reference to it, if one was made
    :ivar name: what the schema is called if it has no title
    :ivar depth: how many schemas it is in
    """

    definitions: tuple[Schema, ...] = ()
    references: dict[int, Reference] = field(default_factory=dict)
    name: str = "object"
    depth: int = 0

    def inside(self, schema: Schema) -> _Scope:
        """Return the scope of the schemas in `schema`, whose own definitions take precedence."""
        own = {**_mapping(schema.get("definitions")), **_mapping(schema.get("$defs"))}
        definitions = (own, *self.definitions) if own else self.definitions
        return _Scope(definitions, self.references, self.name, self.depth + 1)

    def find(self, name: str) -> tuple[Any, tuple[Schema, ...]]:
        """Return the nearest schema of that name and the definitions around it; (None, ()) if there is none."""
        for index, level in enumerate(self.definitions):
            if name in level:
                return level[name], self.definitions[index:]
        return None, ()


def _mapping(value: Any) -> Schema:
    return value if isinstance(value, dict) else {}


def _compile(schema: Any, scope: _Scope) -> Shape:
    if not isinstance(schema, dict):
        return Impossible("the schema allows no value here") if schema is False else Anything()
    take_steps(_STEPS_PER_PART)
    if scope.depth > MAX_DEPTH:
        return Impossible(f"its schema is nested more than {MAX_DEPTH} levels deep")
    inner = scope.inside(schema)
    for keyword, compile_keyword in _BY_KEYWORD.items():
        if keyword in schema:
            return compile_keyword(schema, inner)
    return _by_type(schema, inner)


def _reference(schema: Schema, scope: _Scope) -> Shape:
    name = _definition_name(schema["$ref"])
    target, definitions = scope.find(name)
    if not isinstance(target, dict):
        return Impossible(f"its schema refers to {quoted_name(name)}, which it does not define")
    reference = scope.references.get(id(target))
    if reference is None:
        # compiled when it is first used, so its depth starts at 0
        named = _Scope(definitions, scope.references, name)
        reference = Reference(name, lambda: _compile(target, named))
        scope.references[id(target)] = reference
    return reference


def _definition_name(reference: Any) -> str:
    return str(reference).rpartition("/")[2]


def _all_of(schema: Schema, scope: _Scope) -> Shape:
    """Compile an allOf of one schema. Some generators wrap a reference so, to put a description beside it."""
    parts = schema["allOf"]
    if isinstance(parts, list) and len(parts) == 1:
        return _compile(parts[0], scope)
    return Impossible("its schema combines several schemas (allOf), which is not supported")


def _any_of(schema: Schema, scope: _Scope) -> Shape:
    parts = schema.get("oneOf") or schema.get("anyOf")
    if not isinstance(parts, list) or not parts:
        return Impossible("its schema is a union without members")
    variants = tuple(_compile(part, scope) for part in parts)
    if len(_distinct(variants)) == 1:
        return variants[0]
    discriminator = _mapping(schema.get("discriminator"))
    name = discriminator.get("propertyName")
    if not isinstance(name, str):
        return OneOf(_distinct(variants))
    explicit = _mapping(discriminator.get("mapping"))
    mapping = {said: _reference({"$ref": target}, scope) for said, target in explicit.items()}
    if not mapping:  # the variants' constants tell
        for part, variant in zip(parts, variants, strict=True):
            referred = _mapping(part).get("$ref")
            target = part if referred is None else scope.find(_definition_name(referred))[0]
            declared = _mapping(_mapping(_mapping(target).get("properties")).get(name))
            mapping.update(dict.fromkeys(_members(declared), variant))
    return OneOf(_distinct(variants), name, mapping)


def _distinct(variants: Iterable[Shape]) -> tuple[Shape, ...]:
    """Return the variants without those that are the very same: references to one schema, and leaves."""
    return tuple({id(variant): variant for variant in variants}.values())


def _members(schema: Schema) -> tuple[Any, ...]:
    members = schema["enum"] if isinstance(schema.get("enum"), list) else [schema["const"]] if "const" in schema else []
    take_steps(len(members))
    return tuple(member for member in members if isinstance(member, str | int | float))


def _choice(schema: Schema, _scope: _Scope) -> Shape:
    members = _members(schema)
    if not members and schema.get("const", 0) is None:
        return _LEAVES["null"]
    return Choice(members)


_BY_KEYWORD: dict[str, Callable[[Schema, _Scope], Shape]] = {
    "$ref": _reference,
    "allOf": _all_of,
    "oneOf": _any_of,
    "anyOf": _any_of,
    "enum": _choice,
    "const": _choice,
}


def _by_type(schema: Schema, scope: _Scope) -> Shape:
    kind = schema.get("type", "object" if "properties" in schema else None)
    if not isinstance(kind, list):
        return _of_kind(kind, schema, scope)
    kinds = dict.fromkeys(one if one is None else str(one) for one in kind)
    take_steps(_STEPS_PER_PART * len(kinds))
    return OneOf(tuple(_of_kind(one, schema, scope) for one in kinds)) if kinds else Anything()


def _of_kind(kind: Any, schema: Schema, scope: _Scope) -> Shape:
    if kind == "array":
        items = schema.get("prefixItems")
        if isinstance(items, list) and items:
            return Tuple(tuple(_compile(item, scope) for item in items))
        return Items(_compile(schema.get("items", True), scope))
    if kind == "object":
        return _object(schema, scope)
    if kind == "string" and schema.get("format") in ("base64", "binary"):
        return _BINARY
    if kind is None:
        return Anything()
    return _LEAVES.get(str(kind), Impossible(f"its schema has the unknown type {quoted_name(str(kind))}"))


_LEAVES: dict[str, Shape] = {
    "null": Leaf(Nothing(), (type(None),)),
    "boolean": Leaf(Boolean(), (bool,)),
    "integer": Leaf(Integer(greatest=2**64 - 1), (int,)),
    "number": Leaf(Float(), (float,)),
    "string": Leaf(String(), (str,)),
}
# a text in JSON, bytes in MessagePack
_BINARY = OneOf((_LEAVES["string"], Leaf(Binary(converts=False), (bytes,))))


def _object(schema: Schema, scope: _Scope) -> Shape:
    stored = _stored(schema)
    if stored is not None:
        return Leaf(stored, ())
    further = schema.get("additionalProperties", True)
    if "properties" not in schema and further is not False:
        return Names(_compile(further, scope))
    properties = _mapping(schema.get("properties"))
    listed = schema["required"] if isinstance(schema.get("required"), list) else []
    take_steps(len(properties) + len(listed))
    required = dict.fromkeys(name for name in listed if isinstance(name, str) and name in properties)
    # a protobuf Struct has no order, but what the schema lists as required has kept its own
    names = [*required, *sorted(properties.keys() - required.keys())]
    title = schema.get("title")
    name, make, is_tuple = _maker_of(title if isinstance(title, str) and title else scope.name, names)
    fields = {key: _field(properties[key], scope, required=key in required) for key in names}
    return Object(name, fields, make, is_tuple)


def _stored(schema: Schema) -> Codec | None:
    """Return the codec if the schema is of flyte-sdk's model of a file, a directory or a data frame, else None."""
    kind, title, required = schema.get("x-flyte-type"), schema.get("title"), schema.get("required")
    names = _mapping(schema.get("properties")).keys()
    if kind == "file" or (title == "File" and required == ["path"] and names >= {"path", "format"}):
        return BlobReference(File)
    if kind == "dir" or (title == "Dir" and required == ["path"] and names >= {"path", "format"}):
        return BlobReference(Dir)
    if kind == "dataframe" or (title == "DataFrame" and not required and names >= {"uri", "format"}):
        return DataFrameReference()
    return None


def _field(schema: Any, scope: _Scope, *, required: bool) -> SchemaField:
    shape = _compile(schema, scope)
    if not isinstance(schema, dict) or "default" not in schema:
        return SchemaField(shape, required)
    default = schema["default"]
    return SchemaField(shape, has_default=True, default=default, default_size=_size(default))


def _size(data: Any) -> int:
    """Return how many values `data` consist of if they can be changed; 0 for a text or a number."""
    if isinstance(data, dict):
        return 1 + sum(1 + _size(item) for item in data.values())
    return 1 + sum(1 + _size(item) for item in data) if isinstance(data, list) else 0


def _maker_of(title: str, names: Sequence[str]) -> tuple[str, Make, bool]:
    """Return the name in a title, which may have flyte-sdk's prefix, its objects' maker, and whether it makes tuples.

    Tuples become named tuples, because flyte-sdk's objects for them have the attributes `item_0`, `item_1`, …
    """
    for prefix in (TUPLE_PREFIX, NAMED_TUPLE_PREFIX):
        if title.startswith(prefix):
            name = title.removeprefix(prefix)
            names = sorted(names, key=_position) if prefix == TUPLE_PREFIX else names
            make = _tuple_maker(name, tuple(names))
            return name, make or partial(Record, name), make is not None
    name = title.removeprefix(TYPED_DICT_PREFIX)
    return name, partial(Record, name), False


def _position(name: str) -> tuple[int, str]:
    digits = name.removeprefix("item_")
    return (int(digits) if digits.isdecimal() and len(digits) < 10 else 0, name)


def _tuple_maker(name: str, names: tuple[str, ...]) -> Make | None:
    """Return what makes named tuples; None if Python does not allow the names, or they are too long to keep a class."""
    if len(name) + sum(map(len, names)) > _LONGEST_TUPLE_NAMES:
        return None
    return _cached_tuple_maker(name, names)


@lru_cache(maxsize=256)  # a class is slow to make, and the same few tasks come repeatedly
def _cached_tuple_maker(name: str, names: tuple[str, ...]) -> Make | None:
    take_steps(_STEPS_PER_CLASS)
    # Python would change other names
    if not all(is_normalized("NFKC", field) for field in names):
        return None
    try:
        cls = namedtuple(name, names)  # type: ignore[misc]  # noqa: PYI024 - the names are known only at run time
    except ValueError:
        return None
    return lambda fields: cls(**fields)
