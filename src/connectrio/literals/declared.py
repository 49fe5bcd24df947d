"""Conversions by declared types: one literal, or all inputs of a task by its interface.

A declared LiteralType is compiled into its codec, which reads and writes the literals of that type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from connectrio.idl.flyteidl2.core import BlobType, EnumType, Literal, LiteralType, SimpleType, UnionType, VariableMap
from connectrio.idl.flyteidl2.task import Inputs
from connectrio.idl.google.protobuf import Struct
from connectrio.literals.codecs import Codec, Unsupported
from connectrio.literals.codecs.containers import Collection, Map, Union, Variant
from connectrio.literals.codecs.references import BLOB_TYPES, PICKLE_FORMAT, BlobReference, DataFrameReference
from connectrio.literals.codecs.scalars import Boolean, Datetime, Duration, Enumeration, Float, Integer, Nothing, String
from connectrio.literals.codecs.structs import Binary, Pickle, TypedStruct, UntypedStruct, struct_to_dict
from connectrio.literals.errors import MAX_DEPTH, AbortedError, LiteralError, quoted_name, quoted_names, too_deep
from connectrio.literals.json_schema import is_schema, shape_of
from connectrio.literals.literal_types import kind_of
from connectrio.literals.steps import MAX_STEPS, limited_steps, take_steps
from connectrio.literals.storage import Storage, StoredInputError, fetched
from connectrio.literals.untyped import read_untyped
from connectrio.literals.values import File

__all__ = ["codec_for", "inputs_to_python", "literal_to_python", "python_to_literal_as", "type_name"]


_STEPS_PER_INPUT = 4
_STEPS_PER_VARIANT = 4


def literal_to_python(literal: Literal, literal_type: LiteralType | None = None) -> Any:
    """Return the Python value of a literal.

    :param literal_type: the declared type, which decides; if it is None, the literal's own form decides
    :raises LiteralError: the literal does not fit the type, or has no value
    """
    if literal_type is None:
        return read_untyped(literal)
    codec = codec_for(literal_type)
    try:
        with limited_steps():
            return codec.to_python(literal)
    except LiteralError as error:
        error.about("", codec.label)
        raise


def python_to_literal_as(value: Any, literal_type: LiteralType) -> Literal:
    """Return a literal of a declared type for a Python value, or for what JSON has in its place.

    Times may be ISO 8601 texts, durations seconds or texts like "1.5s", enum members their names, files, directories
    and data frames their URIs. For a union, the result is a union literal of the variant that fits.

    :raises LiteralError: the value is not of that type and cannot be converted to it
    """
    codec = codec_for(literal_type)
    try:
        with limited_steps():
            return codec.to_literal(value)
    except LiteralError as error:
        error.about("", codec.label)
        raise


def inputs_to_python(
    inputs: Inputs | None,
    variables: VariableMap | None,
    *,
    storage: Storage | None = None,
    pickles: bool = False,
    max_steps: int = MAX_STEPS,
) -> dict[str, Any]:
    """Return the inputs of a task as Python values, by the types that its interface declares, in the interface's order.

    An input that did not come is absent. If several literals have one name, the last one counts.

    :param inputs: the literals that came; None for none
    :param variables: the declared inputs; None for none
    :param storage: reads literals that are stored elsewhere, which blocks
    :param pickles: whether to read Python pickles, **which run whatever code their sender likes**
    :param max_steps: the most steps that reading all of them may take, of up to a microsecond
    :raises StoredElsewhereError: a part of an input is stored elsewhere or is a pickle, and no storage is given
    :raises StoredInputError: an input that is stored elsewhere could not be read
    :raises TooManyStepsError: it takes more than `max_steps`
    :raises LiteralError: an input is not declared, or its literal does not fit its declared type
    """
    if inputs is None or not inputs.literals:
        return {}
    pickle = Pickle(storage) if pickles else None
    literals = {named.name: Literal() if named.value is None else named.value for named in inputs.literals}
    entries = () if variables is None else variables.variables
    declared = {entry.key: None if entry.value is None else entry.value.type for entry in entries}
    if not literals.keys() <= declared.keys():
        raise _undeclared(literals, declared)
    values: dict[str, Any] = {}
    with limited_steps(max_steps) as steps:
        steps.take(_STEPS_PER_INPUT * len(literals))
        for name, literal_type in declared.items():
            if name in literals:
                values[name] = _read_input(name, literals[name], literal_type, storage, pickle)
    return values


def _read_input(
    name: str, literal: Literal, literal_type: LiteralType | None, storage: Storage | None, pickle: Codec | None
) -> Any:
    label, reads = "", 0 if storage is None else storage.reads
    try:
        codec = codec_for(literal_type, pickle=pickle)
        label = codec.label
        return codec.to_python(literal if storage is None else fetched(literal, storage))
    except LiteralError as caught:
        error = caught
    except RecursionError:
        error = too_deep()
    error.about(f"input {quoted_name(name)}", label)
    if storage is not None and storage.reads > reads:
        error = StoredInputError(error)
        error.about(f"input {quoted_name(name)}")
    raise error


def _undeclared(came: Mapping[str, Any], declared: Mapping[str, Any]) -> LiteralError:
    unknown = [name for name in came if name not in declared]
    which = f"input {quoted_name(unknown[0])} is" if len(unknown) == 1 else f"inputs {quoted_names(unknown)} are"
    interface = f"it declares {quoted_names(list(declared))}" if declared else "it declares none"
    count = f" ({len(came)} came for {len(declared)} declared)" if len(came) > len(declared) else ""
    return LiteralError(f"{which} not declared in the task's interface: {interface}{count}")


def codec_for(literal_type: LiteralType | None, *, pickle: Codec | None = None) -> Codec:
    """Return the codec of a declared type. A type that has no values here gets one whose errors say why.

    :param pickle: the codec of pickles, if they are allowed
    """
    compiler = _WITHOUT_PICKLES if pickle is None else _Compiler(pickle)
    return compiler.compile(literal_type, 0)


def type_name(literal_type: LiteralType | None) -> str:
    """Return the readable name of a declared type: `list[int]`, `dict[str, File]`, `int | None`."""
    return codec_for(literal_type).label


class _Compiler:
    """Compiles types recursively, with a function for each kind of type."""

    def __init__(self, pickle: Codec | None) -> None:
        self._pickle = pickle
        self._kinds: dict[str, Callable[[Any, int], Codec]] = {
            "collection_type": lambda item, depth: Collection(self.compile(item, depth + 1)),
            "map_value_type": lambda value, depth: Map(self.compile(value, depth + 1)),
            "union_type": self._union,
            "enum_type": self._enumeration,
            "blob": self._blob,
            "structured_dataset_type": lambda dataset, _: DataFrameReference(dataset),
            "schema": lambda _schema, _: _SCHEMA,
        }

    def compile(self, literal_type: LiteralType | None, depth: int) -> Codec:
        """Return the codec of a type that is `depth` levels inside another."""
        if literal_type is None:
            return _UNSET
        if depth > MAX_DEPTH:
            return Unsupported("…", f"it is nested more than {MAX_DEPTH} levels deep")
        simple = literal_type.simple
        if simple is not None:
            if literal_type.metadata is not None and simple == SimpleType.STRUCT:
                return _struct(literal_type.metadata)
            if self._pickle is not None and simple == SimpleType.BINARY:
                return self._pickle
            codec = _SIMPLE.get(int(simple))
            return codec or Unsupported(f"simple type {int(simple)}", "this version of connectrio does not know it")
        kind, value = kind_of(literal_type)
        compile_kind = self._kinds.get(kind)
        return _UNSET if compile_kind is None else compile_kind(value, depth)

    def _enumeration(self, enum: EnumType, _depth: int) -> Codec:
        take_steps(len(enum.values))
        return Enumeration(tuple(enum.values))

    def _union(self, union: UnionType, depth: int) -> Codec:
        if not union.variants:
            return Unsupported("union", "it has no variants")
        take_steps(_STEPS_PER_VARIANT * len(union.variants))
        variants = [Variant(variant, self.compile(variant, depth + 1)) for variant in union.variants]
        # flyte-sdk declares values that it has no type for as a union of two ways to store a pickle
        if self._pickle is not None and all(variant.codec is self._pickle for variant in variants):
            return self._pickle
        return Union(variants)

    def _blob(self, blob: BlobType, _depth: int) -> Codec:
        value_type = BLOB_TYPES.get(blob.dimensionality)
        if value_type is None:
            return Unsupported("blob", f"its dimensionality {int(blob.dimensionality)} is not known")
        is_pickle = value_type is File and blob.format == PICKLE_FORMAT
        return (self._pickle or _PICKLE) if is_pickle else BlobReference(value_type, blob.format)


def _struct(metadata: Struct) -> Codec:
    try:
        schema = struct_to_dict(metadata)
    except AbortedError:
        raise
    except LiteralError as error:
        return Unsupported("struct", f"its JSON schema cannot be read: {error}")
    return TypedStruct(shape_of(schema)) if is_schema(schema) else UntypedStruct()


_UNSET = Unsupported("unset type", "the interface does not say what it is")
_SCHEMA = Unsupported("schema", "Flyte replaced schemas by structured datasets; declare a DataFrame")
_PICKLE = Unsupported(
    "pickle",
    "reading a Python pickle would run code that the sender chose; declare a type that is data, or let the host trust"
    " those who send to it (--unsafe-pickle)",
)

# by numbers: an enum's own hash is slow
_SIMPLE: dict[int, Codec] = {
    int(SimpleType.NONE): Nothing(),
    int(SimpleType.INTEGER): Integer(),
    int(SimpleType.FLOAT): Float(),
    int(SimpleType.STRING): String(),
    int(SimpleType.BOOLEAN): Boolean(),
    int(SimpleType.DATETIME): Datetime(),
    int(SimpleType.DURATION): Duration(),
    int(SimpleType.BINARY): Binary(),
    int(SimpleType.ERROR): Unsupported("error", "errors are not passed to tasks"),
    int(SimpleType.STRUCT): UntypedStruct(),
}

_WITHOUT_PICKLES = _Compiler(None)
