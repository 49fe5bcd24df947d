"""Literals of Python values, from the class of the value alone: a job's outputs travel without an interface."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any

from connectrio.idl.flyteidl2.core import Binary, Literal, LiteralCollection, Primitive, Scalar
from connectrio.idl.google.protobuf import Struct
from connectrio.literals.codecs.base import Codec
from connectrio.literals.codecs.containers import each_item
from connectrio.literals.codecs.references import BlobReference, DataFrameReference
from connectrio.literals.codecs.scalars import (
    Boolean,
    Datetime,
    Duration,
    Float,
    Integer,
    Nothing,
    String,
)
from connectrio.literals.codecs.structs import UntypedStruct
from connectrio.literals.codecs.text import encodable
from connectrio.literals.describe import class_label
from connectrio.literals.errors import MAX_DEPTH, LiteralError, too_deep
from connectrio.literals.per_class import per_class
from connectrio.literals.plain_data import fields_reader
from connectrio.literals.values import DataFrame, Dir, File

__all__ = ["write_value"]

Write = Callable[[Any, int], Literal]


def write_value(value: Any, depth: int = 0) -> Literal:
    """The literal of `value`.

    :raises LiteralError: Flyte has no literal for it, or it is out of range, or nested too deeply
    """
    if depth > MAX_DEPTH:
        raise too_deep()
    write = _WRITERS.get(type(value)) or _writer_for(type(value))
    return write(value, depth)


@per_class
def _writer_for(cls: type) -> Write:
    """How values of a class are written that is not itself in the table: an enum, a struct, a subclass."""
    if issubclass(cls, Enum):
        return _write_enum
    if fields_reader(cls) is not None and not issubclass(cls, File | Dir | DataFrame):
        return _by(UntypedStruct())
    return next((_WRITERS[base] for base in cls.__mro__ if base in _WRITERS), _refuse)


def _by(codec: Codec) -> Write:
    return lambda value, _depth: codec.to_literal(value)


def _write_items(value: list[Any] | tuple[Any, ...], depth: int) -> Literal:
    literals = each_item(lambda item: write_value(item, depth + 1), value)
    return Literal(collection=LiteralCollection(literals=literals))


def _write_enum(value: Enum, _depth: int) -> Literal:
    return Literal(scalar=Scalar(primitive=Primitive(string_value=encodable(value.name))))


def _refuse(value: Any, _depth: int) -> Literal:
    raise LiteralError(
        f"Flyte has no literal for {class_label(type(value))}: store it and return a File, Dir or DataFrame,"
        " or return numbers, texts, times, lists, dicts or dataclasses"
    )


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
    DataFrame: _by(DataFrameReference.any()),
    Struct: lambda value, _: Literal(scalar=Scalar(generic=value)),
    Literal: lambda value, _: value,
}
