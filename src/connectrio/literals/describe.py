"""Short descriptions of literals and values for error messages. Long texts may be secrets: they are never quoted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any

from connectrio.idl.flyteidl2.core import Blob, BlobTypeBlobDimensionality, Literal, Primitive, Scalar
from connectrio.literals.records import Record
from connectrio.literals.values import DataFrame, Dir, File

__all__ = ["class_label", "describe_literal", "describe_value", "quoted", "quoted_name", "quoted_names", "shortened"]

_LONGEST_QUOTE = 40
_LONGEST_LABEL = 200
_MANY_NAMES = 10
_BITS = 64


def quoted(text: str) -> str:
    """`text` in quotes, or only its length where it is long."""
    return repr(text) if len(text) <= _LONGEST_QUOTE else f"of {len(text)} characters"


def quoted_name(name: str) -> str:
    """`name` in quotes, cut where it is long."""
    return repr(name) if len(name) <= _LONGEST_QUOTE else repr(name[: _LONGEST_QUOTE - 1] + "…")


def quoted_names(names: list[str]) -> str:
    """The names in quotes, separated by commas: the first few, and how many more there are."""
    shown = ", ".join(map(quoted_name, names[:_MANY_NAMES]))
    more = len(names) - _MANY_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def shortened(label: str) -> str:
    """`label`, cut where it is very long."""
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def class_label(cls: type) -> str:
    """The name a person knows a class by: `int`, `pandas.DataFrame`."""
    module = cls.__module__
    return cls.__qualname__ if module in ("builtins", "datetime") else f"{module}.{cls.__qualname__}"


def describe_value(value: Any) -> str:
    """A Python value in a few words: `int 5`, `str 'abc'`, `list of length 3`, `pandas.DataFrame`."""
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    describe = _VALUES.get(type(value))
    return describe(value) if describe else class_label(type(value))


def _describe_int(value: int) -> str:
    return f"int {value}" if value.bit_length() <= _BITS else f"int of {value.bit_length()} bits"


_VALUES: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "None",
    bool: lambda value: f"bool {value}",
    int: _describe_int,
    float: lambda value: f"float {value}",
    str: lambda value: f"str {quoted(value)}",
    bytes: lambda value: f"bytes of length {len(value)}",
    list: lambda value: f"list of length {len(value)}",
    tuple: lambda value: f"tuple of length {len(value)}",
    dict: lambda value: f"dict of length {len(value)}",
    Record: lambda value: f"object with {len(value)} fields",
    timedelta: lambda value: f"timedelta {value}",
    datetime: lambda value: f"datetime {value.isoformat()}",
    date: lambda value: f"date {value.isoformat()}",
    File: lambda value: f"File {quoted(str(value.path))}",
    Dir: lambda value: f"Dir {quoted(str(value.path))}",
    DataFrame: lambda value: f"DataFrame {quoted(str(value.uri))}",
}


def describe_literal(literal: Literal) -> str:
    """What a literal holds in a few words, in Python's terms."""
    if literal.scalar is not None:
        return _describe_scalar(literal.scalar)
    if literal.collection is not None:
        return f"list of length {len(literal.collection.literals)}"
    if literal.map is not None:
        return f"map of length {len(literal.map.literals)}"
    if literal.offloaded_metadata is not None:
        return f"a literal stored at a URI {quoted(literal.offloaded_metadata.uri)}"
    return "an empty literal"


def _describe_scalar(scalar: Scalar) -> str:
    for kind, describe in _SCALARS.items():
        value = getattr(scalar, kind)
        if value is not None:
            return describe(value)
    return "an empty literal"


def _describe_primitive(primitive: Primitive) -> str:
    for kind in ("integer", "float_value", "string_value", "boolean"):
        value = getattr(primitive, kind)
        if value is not None:
            return describe_value(value)
    if primitive.datetime is not None:
        return "datetime"
    return "an empty literal" if primitive.duration is None else "timedelta"


def _describe_blob(blob: Blob) -> str:
    kind = blob.metadata.type if blob.metadata is not None else None
    multipart = kind is not None and kind.dimensionality == BlobTypeBlobDimensionality.MULTIPART
    return f"{'Dir' if multipart else 'File'} {quoted(blob.uri)}"


_SCALARS: dict[str, Callable[[Any], str]] = {
    "primitive": _describe_primitive,
    "none_type": lambda _: "None",
    "blob": _describe_blob,
    "structured_dataset": lambda dataset: f"DataFrame {quoted(dataset.uri)}",
    "generic": lambda struct: f"struct of length {len(struct.fields)}",
    "binary": lambda binary: (
        f"binary data with tag {quoted_name(binary.tag)}" if binary.tag else "untagged binary data"
    ),
    "union": lambda _: "a union value",
    "schema": lambda schema: f"schema {quoted(schema.uri)}",
    "error": lambda _: "an error value",
}
