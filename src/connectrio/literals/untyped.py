"""Literals without a declared type: what they hold says what they are. For showing outputs to people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from connectrio.idl.flyteidl2.core import Binary, Literal, Primitive, Scalar
from connectrio.literals.codecs.containers import each_entry, each_item
from connectrio.literals.codecs.references import read_blob, read_dataframe
from connectrio.literals.codecs.structs import struct_to_dict
from connectrio.literals.describe import describe_literal
from connectrio.literals.errors import MAX_DEPTH, LiteralError, too_deep
from connectrio.literals.msgpack import unpack
from connectrio.literals.times import duration_to_timedelta, timestamp_to_datetime

__all__ = ["read_untyped"]


def read_untyped(literal: Literal, depth: int = 0) -> Any:
    """The value of `literal`, from its own form alone. Untagged binary data are bytes: nothing is unpickled.

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
    if scalar.none_type is not None:
        return None
    if scalar.union is not None:
        return read_untyped(Literal() if scalar.union.value is None else scalar.union.value, depth + 1)
    if scalar.blob is not None:
        return read_blob(scalar.blob, literal.hash)
    if scalar.structured_dataset is not None:
        return read_dataframe(scalar.structured_dataset, literal.hash)
    for kind, read in _SCALARS.items():
        value = getattr(scalar, kind)
        if value is not None:
            return read(value)
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


def _read_binary(binary: Binary) -> Any:
    return unpack(binary) if binary.tag else binary.value


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "primitive": _read_primitive,
    "binary": _read_binary,
    "generic": struct_to_dict,
}
