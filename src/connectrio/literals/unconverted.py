"""Check inputs that another type engine converts: flyte-sdk's, for the connectors that were written for it.

That engine does what the sender of a request asks for. It reads stored literals from any URL, and unpickles. It makes
Python classes of JSON schemas, again for each reference to one, so that two kilobytes can take minutes; and the names
of the classes become part of Python code. So all of this is read here first, with the limits of our own conversions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connectrio.idl.flyteidl2.core import Literal, LiteralType, Scalar, SimpleType, VariableMap
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.literals.codecs.references import BLOB_TYPES, PICKLE_FORMAT
from connectrio.literals.codecs.structs import struct_to_dict
from connectrio.literals.errors import (
    MAX_DEPTH,
    AbortedError,
    LiteralError,
    StoredElsewhereError,
    describe_literal,
    quoted_name,
    too_deep,
)
from connectrio.literals.literal_types import kind_of
from connectrio.literals.plain_data import unpack
from connectrio.literals.steps import MAX_STEPS, limited_steps, take_steps
from connectrio.literals.storage import Storage, StoredInputError, fetched
from connectrio.literals.values import File

__all__ = ["checked_inputs"]

# what flyte-sdk 2 needs for them, in microseconds
_STEPS_PER_TYPE = 5
_STEPS_PER_MEMBER = 10
_STEPS_PER_CLASS = 1000
_STEPS_PER_SCHEMA = 300
_STEPS_PER_LITERAL = 4
# each transformer and each variant that does not fit prints the type and the literal into an error
_BYTES_PER_STEP = 32
# for each field, it looks through all that are required
_REQUIRED_PER_STEP = 50

# levels of dictionaries in a JSON schema, of which each class has three
_SCHEMA_DEPTH = 3 * MAX_DEPTH

_DEFINITIONS = ("$defs", "definitions")
_CLASS_NAME = re.compile(r"[\w .,|\[\]-]*")


def checked_inputs(
    inputs: Inputs | None,
    variables: VariableMap | None,
    *,
    storage: Storage | None = None,
    pickles: bool = False,
    max_steps: int = MAX_STEPS,
) -> Inputs | None:
    """Return the inputs of a task for another type engine, with all stored literals fetched.

    If none is stored elsewhere, the result is `inputs` itself. Whether the literals fit the declared types is left to
    that engine.

    :param inputs: the literals that came; None for none
    :param variables: the declared inputs; None for none
    :param storage: reads literals that are stored elsewhere, which blocks
    :param pickles: whether to accept Python pickles, **which run whatever code their sender likes**
    :param max_steps: the most steps that converting all of them may take, of about a microsecond
    :raises StoredElsewhereError: a part of an input is stored elsewhere, and no storage is given
    :raises StoredInputError: an input that is stored elsewhere could not be read, or is refused
    :raises TooManyStepsError: converting them would take more than `max_steps`
    :raises LiteralError: an input would be unpickled, or its type is refused
    """
    checked: list[NamedLiteral] = []
    with limited_steps(max_steps):
        types = _types(() if variables is None else variables.variables)
        for named in () if inputs is None else inputs.literals:
            literal = Literal() if named.value is None else named.value
            checked.append(NamedLiteral(name=named.name, value=literal))
            reads = 0 if storage is None else storage.reads
            try:
                if storage is not None:
                    checked[-1].value = literal = fetched(literal, storage)
                _check(literal, types.get(named.name, _UNKNOWN), pickles=pickles)
            except LiteralError as error:
                is_stored = storage is not None and storage.reads > reads
                raise _about(named.name, StoredInputError(_about(named.name, error)) if is_stored else error) from None
    if inputs is None or storage is None or not storage.reads:
        return inputs
    return Inputs(literals=checked, context=inputs.context)


def _about(name: str, error: LiteralError) -> LiteralError:
    error.about(f"input {quoted_name(name)}")
    return error


@dataclass(frozen=True)
class _Type:
    """What a declared type asks of the type engine.

    :ivar item: the type of the items, for collections and maps
    :ivar variants: the types of a union
    :ivar steps: that making its Python class takes; a union does so again for each value
    :ivar fields: how many parts its JSON schemas have: as many defaults may be made for each object
    :ivar is_pickled: whether it or a part of it is read as a pickle
    """

    item: _Type | None = None
    variants: tuple[_Type, ...] = ()
    steps: int = _STEPS_PER_TYPE
    fields: int = 0
    is_pickled: bool = False

    @classmethod
    def of_parts(cls, *parts: _Type, is_union: bool = False) -> _Type:
        """Return the type of a container of these types, or their union."""
        return cls(
            item=None if is_union else parts[0],
            variants=parts if is_union else (),
            steps=_STEPS_PER_TYPE + sum(part.steps for part in parts),
            fields=sum(part.fields for part in parts),
            is_pickled=any(part.is_pickled for part in parts),
        )


_UNKNOWN = _Type()


def _types(variables: Any) -> dict[str, _Type]:
    types: dict[str, _Type] = {}
    for entry in variables:
        try:
            types[entry.key] = _type(None if entry.value is None else entry.value.type, 0)
        except LiteralError as error:
            raise _about(entry.key, error) from None
    return types


def _type(literal_type: LiteralType | None, depth: int) -> _Type:
    take_steps(_STEPS_PER_TYPE)
    if depth > MAX_DEPTH:
        raise too_deep()
    if literal_type is None:
        return _UNKNOWN
    kind, value = kind_of(literal_type)
    if kind in ("collection_type", "map_value_type", "union_type"):
        is_union = kind == "union_type"
        parts = [_type(part, depth + 1) for part in (value.variants if is_union else [value])]
        container = _Type.of_parts(*parts, is_union=is_union)
        take_steps(container.steps)
        return container
    if kind == "enum_type":
        steps = _STEPS_PER_MEMBER * len(value.values) + sum(map(len, value.values)) // _BYTES_PER_STEP
        take_steps(steps)
        return _Type(steps=_STEPS_PER_TYPE + steps)
    if kind == "blob":
        is_file = BLOB_TYPES.get(value.dimensionality) is File
        return _Type(is_pickled=is_file and value.format == PICKLE_FORMAT)
    # binary data are pickles for it, whatever their tag says
    if kind == "simple" and value == SimpleType.BINARY:
        return _Type(is_pickled=True)
    if literal_type.metadata is None:
        return _UNKNOWN
    counter = _SchemaCounter()
    counter.count(struct_to_dict(literal_type.metadata), (), 0)
    return _Type(steps=_STEPS_PER_TYPE + counter.steps, fields=counter.parts)


class _SchemaCounter:
    """Counts what classes are made of a JSON schema; at each reference, the schema that it names once more.

    :ivar steps: that this takes; they are taken from the budget, too
    :ivar parts: of the schema, with those of the schemas that it names
    """

    def __init__(self) -> None:
        self.steps = 0
        self.parts = 0

    def count(self, data: Any, scopes: tuple[Mapping[str, Any], ...], depth: int) -> None:
        """Count the parts of `data`, which are a schema or anything inside one.

        :param scopes: the definitions of all schemas around it. Which of them a name means is not always clear; so
            all count that have it
        """
        if isinstance(data, str):
            self._take(len(data) // _BYTES_PER_STEP)
        elif isinstance(data, list):
            for item in data:
                self.count(item, scopes, depth + 1)
        elif isinstance(data, dict):
            self._count_schema(data, scopes, depth)

    def _count_schema(self, schema: Mapping[str, Any], scopes: tuple[Mapping[str, Any], ...], depth: int) -> None:
        if depth > _SCHEMA_DEPTH:
            raise too_deep()
        self._take(_STEPS_PER_SCHEMA)
        self.parts += 1
        definitions = [schema[key] for key in _DEFINITIONS if isinstance(schema.get(key), dict)]
        scopes = (*scopes, *definitions)
        if isinstance(schema.get("properties"), dict):
            self._take_class(schema, schema["properties"])
        for key, value in schema.items():
            if key not in _DEFINITIONS:
                self._take(len(key) // _BYTES_PER_STEP)
                self.count(value, scopes, depth + 1)
        reference = schema.get("$ref")
        if isinstance(reference, str):
            name = reference.rpartition("/")[2]
            _check_class_name(name)
            for scope in scopes:
                if name in scope:
                    self.count(scope[name], scopes, depth + 1)

    def _take_class(self, schema: Mapping[str, Any], properties: Mapping[str, Any]) -> None:
        _check_class_name(schema.get("title"))
        required = schema.get("required")
        looked_through = len(required) * len(properties) if isinstance(required, list) else 0
        self._take(_STEPS_PER_CLASS + looked_through // _REQUIRED_PER_STEP)

    def _take(self, steps: int) -> None:
        self.steps += steps
        take_steps(steps)


def _check_class_name(name: Any) -> None:
    if isinstance(name, str) and _CLASS_NAME.fullmatch(name) is None:
        raise LiteralError(
            f"the name {quoted_name(name)} in its JSON schema cannot be that of a class; use letters, digits and _"
        )


def _check(literal: Literal, declared: _Type, *, pickles: bool, depth: int = 0) -> None:
    """Take the steps of a literal and of all in it.

    :raises LiteralError: it is a pickle, or may be read as one
    """
    take_steps(_STEPS_PER_LITERAL + len(literal.hash) // _BYTES_PER_STEP)
    if depth > MAX_DEPTH:
        raise too_deep()
    if literal.offloaded_metadata is not None:
        raise StoredElsewhereError(f"got {describe_literal(literal)}, which is read only with a Storage")
    # the format "pickle" is flyte-sdk's mark of a dictionary that is stored as a pickle
    if not pickles and (declared.is_pickled or literal.metadata.get("format") == "pickle"):
        raise LiteralError(
            "it is a Python pickle for flyte-sdk, and reading one would run code that the sender chose; declare a type"
            " that is data, or let the host trust those who send to it (--unsafe-pickle)"
        )
    if literal.scalar is not None and not declared.variants:
        _check_data(literal.scalar, declared.fields)
    parts = [] if literal.collection is None else literal.collection.literals
    if literal.map is not None:
        parts = list(literal.map.literals.values())
    for part in parts:
        _check(part, declared.item or _UNKNOWN, pickles=pickles, depth=depth + 1)
    union = None if literal.scalar is None else literal.scalar.union
    if declared.variants:  # each of them is tried
        take_steps(declared.steps)
    elif union is None:
        return
    inner = literal if union is None or union.value is None else union.value
    for variant in declared.variants or (_UNKNOWN,):
        _check(inner, variant, pickles=pickles, depth=depth + 1)


def _check_data(scalar: Scalar, fields: int) -> None:
    """Take the steps of MessagePack or a struct: each dictionary in it may become an object, with so many defaults."""
    text: str | bytes = ""
    if scalar.primitive is not None:
        text = scalar.primitive.string_value or ""
    elif scalar.blob is not None:
        text = scalar.blob.uri
    elif scalar.structured_dataset is not None:
        text = scalar.structured_dataset.uri
    elif scalar.binary is not None:
        text = scalar.binary.value
    take_steps(_STEPS_PER_LITERAL + len(text) // _BYTES_PER_STEP)
    data: Any = None
    if scalar.generic is not None:
        data = struct_to_dict(scalar.generic)
    elif scalar.binary is not None and scalar.binary.tag:
        try:
            data = unpack(scalar.binary)
        except AbortedError:
            raise
        except LiteralError:  # flyte-sdk's reader is another one, and may accept it
            take_steps((1 + fields) * len(scalar.binary.value))
    take_steps(fields * _dictionaries(data))


def _dictionaries(data: Any) -> int:
    if isinstance(data, list):
        return sum(map(_dictionaries, data))
    return 1 + sum(map(_dictionaries, data.values())) if isinstance(data, dict) else 0
