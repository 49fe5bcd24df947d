"""Conversions without a declared type: a literal by its own form, a Python value by its class.

Outputs of a job travel without an interface; a client shows literals whose types it does not know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any

from connectrio.idl.flyteidl2.core import Binary, Literal, LiteralCollection, Primitive, Scalar
from connectrio.idl.flyteidl2.task import NamedLiteral, Outputs
from connectrio.idl.google.protobuf import Struct
from connectrio.literals.codecs import Codec, encodable
from connectrio.literals.codecs.references import BlobReference, DataFrameReference, read_blob, read_dataframe
from connectrio.literals.codecs.scalars import Boolean, Datetime, Duration, Float, Integer, Nothing, String
from connectrio.literals.codecs.structs import UntypedStruct, struct_to_dict
from connectrio.literals.errors import (
    MAX_DEPTH,
    LiteralError,
    class_label,
    describe_literal,
    quoted_name,
    too_deep,
)
from connectrio.literals.plain_data import fields_reader, per_class, unpack
from connectrio.literals.steps import each_entry, each_item, limited_steps, take_steps
from connectrio.literals.times import duration_to_timedelta, timestamp_to_datetime
from connectrio.literals.values import DataFrame, Dir, File

__all__ = ["outputs_to_literals", "python_to_literal", "read_untyped"]

Write = Callable[[Any, int], Literal]

# messages of protobuf are slow to make, and a literal is three
_STEPS_PER_LITERAL = 10


def read_untyped(literal: Literal, depth: int = 0) -> Any:
    """Return the value of `literal` by its own form. Untagged binary data are bytes: nothing is unpickled.

    :raises LiteralError: it is empty, malformed, nested too deeply, or of a kind that has no value here
    """
    if depth > MAX_DEPTH:
        raise too_deep()
    if literal.scalar is not None:
        return _read_scalar(literal, literal.scalar, depth)
    if literal.collection is not None:
        return each_item(lambda item: read_untyped(item, depth + 1), literal.collection.literals)
    if literal.map is not None:
        return each_entry(lambda value: read_untyped(value, depth + 1), literal.map.literals)
    raise LiteralError(f"got {describe_literal(literal)}, which has no value here")


def _read_scalar(literal: Literal, scalar: Scalar, depth: int) -> Any:
    if scalar.primitive is not None:
        return _read_primitive(scalar.primitive)
    if scalar.none_type is not None:
        return None
    if scalar.union is not None:
        return read_untyped(Literal() if scalar.union.value is None else scalar.union.value, depth + 1)
    if scalar.blob is not None:
        return read_blob(scalar.blob, literal.hash)
    if scalar.structured_dataset is not None:
        return read_dataframe(scalar.structured_dataset, literal.hash)
    if scalar.binary is not None:
        return unpack(scalar.binary) if scalar.binary.tag else scalar.binary.value
    if scalar.generic is not None:
        return struct_to_dict(scalar.generic)
    raise LiteralError(f"got {describe_literal(literal)}, which has no value here")


def _read_primitive(primitive: Primitive) -> Any:
    if primitive.datetime is not None:
        return timestamp_to_datetime(primitive.datetime)
    if primitive.duration is not None:
        return duration_to_timedelta(primitive.duration)
    for value in (primitive.integer, primitive.float_value, primitive.string_value, primitive.boolean):
        if value is not None:
            return value
    raise LiteralError("got an empty literal, which has no value here")


def outputs_to_literals(outputs: Mapping[str, Any]) -> Outputs:
    """Return the outputs of a job as literals, each by the class of its value.

    Lists and tuples become collections; dicts, dataclasses, named tuples and pydantic models MessagePack; enum members
    the text of their name; naive datetimes are taken as UTC; bytes become untagged binary data; a Literal stays as it
    is.

    :param outputs: output name → value
    :raises LiteralError: Flyte has no literal for a value, or it is out of range
    """
    literals = []
    with limited_steps():
        for name, value in outputs.items():
            try:
                literals.append(NamedLiteral(name=encodable(name), value=python_to_literal(value)))
            except LiteralError as error:
                error.about(f"output {quoted_name(str(name))}")
                raise
    return Outputs(literals=literals)


def python_to_literal(value: Any, depth: int = 0) -> Literal:
    """Return the literal of a Python value by its class, as `outputs_to_literals` does.

    :param depth: how many lists the value is in
    :raises LiteralError: Flyte has no literal for it, or it is out of range, or nested too deeply
    """
    if depth > MAX_DEPTH:
        raise too_deep()
    write = _WRITERS.get(type(value)) or _writer_for(type(value))
    return write(value, depth)


@per_class
def _writer_for(cls: type) -> Write:
    """Return what writes values of a class that is not itself in the table: an enum, a struct, a subclass."""
    if issubclass(cls, Enum):
        return _write_enum
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == "flyte" and base.__name__ in _FLYTE_SDKS:
            return _flyte_sdks(_FLYTE_SDKS[base.__name__])
    if fields_reader(cls) is not None and not issubclass(cls, File | Dir | DataFrame):
        return _by(UntypedStruct())
    return next((_WRITERS[base] for base in cls.__mro__ if base in _WRITERS), _refuse)


def _flyte_sdks(cls: type[File | Dir | DataFrame]) -> Write:
    """Return what writes flyte-sdk's class of the same name, if the data that it names are stored already."""
    names = [each.name for each in dataclasses.fields(cls)]

    def write(value: Any, _depth: int) -> Literal:
        found = {name: getattr(value, name) for name in names}
        where = found[names[0]]
        if not where:
            raise LiteralError(f"flyte-sdk's {cls.__name__} that is not stored yet: store it, and give its {names[0]}")
        return _WRITERS[cls](cls(**{**found, "format": found["format"] or ""}), 0)

    return write


def _by(codec: Codec) -> Write:
    return lambda value, _depth: codec.to_literal(value)


def _write_items(value: list[Any] | tuple[Any, ...], depth: int) -> Literal:
    take_steps(_STEPS_PER_LITERAL * len(value))
    literals = each_item(lambda item: python_to_literal(item, depth + 1), value)
    return Literal(collection=LiteralCollection(literals=literals))


def _write_enum(value: Enum, _depth: int) -> Literal:
    return Literal(scalar=Scalar(primitive=Primitive(string_value=encodable(value.name))))


def _refuse(value: Any, _depth: int) -> Literal:
    raise LiteralError(
        f"Flyte has no literal for {class_label(type(value))}: store it and return a File, Dir or DataFrame,"
        " or return numbers, texts, times, lists, dicts or dataclasses"
    )


_FLYTE_SDKS: dict[str, type[File | Dir | DataFrame]] = {cls.__name__: cls for cls in (File, Dir, DataFrame)}

_WRITERS: dict[type, Write] = {
    bool: _by(Boolean()),
    int: _by(Integer()),
    float: _by(Float()),
    str: _by(String()),
    type(None): _by(Nothing()),
    datetime: _by(Datetime()),
    date: _by(Datetime()),
    timedelta: _by(Duration()),
    dict: _by(UntypedStruct()),
    list: _write_items,
    tuple: _write_items,
    bytes: lambda value, _: Literal(scalar=Scalar(binary=Binary(value=value))),
    File: _by(BlobReference(File)),
    Dir: _by(BlobReference(Dir)),
    DataFrame: _by(DataFrameReference()),
    Struct: lambda value, _: Literal(scalar=Scalar(generic=value)),
    Literal: lambda value, _: value,
}
