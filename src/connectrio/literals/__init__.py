"""Flyte literals ↔ Python values. Synchronous; without I/O, but for inputs that a `Storage` is given for.

What comes in is read by its declared type, for which `compile.codec_for` finds a codec; a codec per kind of type lives
in `scalars`, `containers`, `unions`, `structs`, `typed_structs` and `references`. What goes out is written by the class
of the value, in `outputs`. Everything raises `LiteralError` alone.
"""

from __future__ import annotations

from typing import Any

from connectrio.idl.flyteidl2.core import Literal, LiteralType
from connectrio.literals.compile import codec_for, type_name
from connectrio.literals.errors import MAX_DEPTH, LiteralError, StoredElsewhereError
from connectrio.literals.infer_type import guess_type
from connectrio.literals.interface import inputs_to_python, outputs_to_literals
from connectrio.literals.outputs import write_value
from connectrio.literals.records import Record
from connectrio.literals.schema.shapes import one_budget
from connectrio.literals.storage import Storage, StorageError
from connectrio.literals.untyped import read_untyped
from connectrio.literals.values import DataFrame, Dir, File

__all__ = [
    "MAX_DEPTH",
    "DataFrame",
    "Dir",
    "File",
    "LiteralError",
    "Record",
    "Storage",
    "StorageError",
    "StoredElsewhereError",
    "inputs_to_python",
    "literal_to_python",
    "literal_type_of",
    "outputs_to_literals",
    "python_to_literal",
    "python_to_literal_as",
    "type_name",
]


def literal_to_python(literal: Literal, literal_type: LiteralType | None = None) -> Any:
    """The Python value of a literal.

    :param literal_type: the declared type, which decides; where it is None, the literal's own form does
    :raises LiteralError: the literal does not fit the type, or has no value
    """
    if literal_type is None:
        return read_untyped(literal)
    codec = codec_for(literal_type)
    try:
        with one_budget():
            return codec.to_python(literal)
    except LiteralError as error:
        error.about("", codec.label)
        raise


def python_to_literal(value: Any) -> Literal:
    """The literal of a Python value, from its class alone; see `outputs_to_literals`.

    :raises LiteralError: Flyte has no literal for it, or it is out of range
    """
    return write_value(value)


def python_to_literal_as(value: Any, literal_type: LiteralType) -> Literal:
    """A literal of a declared type from a Python value, or from what JSON has in its place.

    Times may be ISO 8601 texts, durations seconds or texts like "1.5s", enum members their names, files, directories
    and data frames their URIs; a union literal of the variant that fits is made for a union.

    :raises LiteralError: the value means nothing of that type
    """
    codec = codec_for(literal_type)
    try:
        return codec.to_literal(value)
    except LiteralError as error:
        error.about("", codec.label)
        raise


def literal_type_of(value: Any) -> LiteralType:
    """A type that has `value` among its values, to declare an interface from values.

    The items of a list share one type, which is a union where they differ; an empty list is a list of None.

    :raises LiteralError: Flyte has no type for it
    """
    return guess_type(value)
