"""The one error of this package, and the words in which it describes literals and values.

A `LiteralError` collects the place where it happened while it travels outwards. Long texts may be secrets: no
description quotes them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import date, datetime, timedelta
from enum import Enum
from itertools import islice
from typing import Any

from connectrio.idl.flyteidl2.core import Blob, BlobTypeBlobDimensionality, Literal, Primitive, Scalar
from connectrio.literals.values import DataFrame, Dir, File, Record

__all__ = [
    "MAX_DEPTH",
    "AbortedError",
    "LiteralError",
    "MismatchError",
    "StoredElsewhereError",
    "class_label",
    "describe_literal",
    "describe_value",
    "mismatch",
    "quoted",
    "quoted_name",
    "quoted_names",
    "shortened",
    "too_deep",
]

MAX_DEPTH = 64
"""How many levels of collections, maps, unions and structs a type or a value may have.

protobuf's own Python and C++ parsers stop at 49 nested collections; the generated messages' encoder needs the
interpreter's whole stack for about a hundred.
"""

_LONGEST_QUOTE = 40
_LONGEST_LABEL = 200
_MANY_NAMES = 10
_BITS = 64


class LiteralError(ValueError):
    """A literal does not fit its declared type, or Flyte has no literal for a value.

    :ivar problem: what was expected and what came
    :ivar subject: what was being converted: "input 'xs'", "output 'df'"; "" if unknown
    :ivar path: the place inside the subject: "[3]['key']"; "" for all of it
    :ivar declared: the subject's declared type, readable: "list[int]"; "" if none is declared
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.subject = ""
        self.path = ""
        self.declared = ""

    def inside(self, key: object) -> None:
        """Add to the path: this happened in the item of a container at index or key `key`."""
        step = quoted_name(key) if isinstance(key, str) else str(key) if isinstance(key, int) else "…"
        self.path = f"[{step}]{self.path}"

    def about(self, subject: str, declared: str = "") -> None:
        """Set what was being converted and its declared type."""
        self.subject = subject
        self.declared = shortened(declared)

    def __str__(self) -> str:
        where = (self.subject or ("value" if self.path else "")) + shortened(self.path)
        declared = f" (declared as {self.declared})" if self.path and self.declared else ""
        return f"{where}: {self.problem}{declared}" if where else f"{self.problem}{declared}"


class MismatchError(LiteralError):
    """A literal or value of another type came, not a wrong value of the right type."""


class AbortedError(LiteralError):
    """The whole conversion has to stop: another variant of a union would meet the same."""


class StoredElsewhereError(AbortedError):
    """A part of a value is stored outside the request, and no `Storage` was given to read it."""


def mismatch(expected: str, came: str) -> MismatchError:
    """Return the error for a literal or a value of another type."""
    return MismatchError(f"expected {shortened(expected)}, got {came}")


def too_deep() -> LiteralError:
    """Return the error for types and values with more than `MAX_DEPTH` levels."""
    return LiteralError(f"nested more than {MAX_DEPTH} levels deep")


def quoted(text: str) -> str:
    """Return `text` in quotes, or only its length if it is long."""
    return repr(text) if len(text) <= _LONGEST_QUOTE else f"of {len(text)} characters"


def quoted_name(name: str) -> str:
    """Return `name` in quotes, cut if it is long."""
    return repr(name) if len(name) <= _LONGEST_QUOTE else repr(name[: _LONGEST_QUOTE - 1] + "…")


def quoted_names(names: Collection[Any]) -> str:
    """Return the first few names in quotes, separated by commas, and how many more there are."""
    shown = ", ".join(quoted_name(str(name)) for name in islice(names, _MANY_NAMES))
    more = len(names) - _MANY_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def shortened(label: str) -> str:
    """Return `label`, cut if it is very long."""
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def class_label(cls: type) -> str:
    """Return the name that a person knows a class by: `int`, `pandas.DataFrame`."""
    module = cls.__module__
    return cls.__qualname__ if module in ("builtins", "datetime") else f"{module}.{cls.__qualname__}"


def describe_value(value: Any) -> str:
    """Describe a Python value in a few words: `int 5`, `str 'abc'`, `list of length 3`, `pandas.DataFrame`."""
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    describe = _VALUES.get(type(value))
    return describe(value) if describe else class_label(type(value))


_VALUES: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "None",
    bool: lambda value: f"bool {value}",
    int: lambda value: f"int {value}" if value.bit_length() <= _BITS else f"int of {value.bit_length()} bits",
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
    """Describe in a few words what a literal holds, in Python's terms."""
    if literal.scalar is not None:
        return _describe_oneof(literal.scalar, _SCALARS)
    if literal.collection is not None:
        return f"list of length {len(literal.collection.literals)}"
    if literal.map is not None:
        return f"map of length {len(literal.map.literals)}"
    if literal.offloaded_metadata is not None:
        return f"a literal stored at a URI {quoted(literal.offloaded_metadata.uri)}"
    return "an empty literal"


def _describe_oneof(message: Scalar | Primitive, kinds: dict[str, Callable[[Any], str]]) -> str:
    for kind, describe in kinds.items():
        value = getattr(message, kind)
        if value is not None:
            return describe(value)
    return "an empty literal"


def _describe_blob(blob: Blob) -> str:
    kind = blob.metadata.type if blob.metadata is not None else None
    multipart = kind is not None and kind.dimensionality == BlobTypeBlobDimensionality.MULTIPART
    return f"{'Dir' if multipart else 'File'} {quoted(blob.uri)}"


_PRIMITIVES: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("integer", "float_value", "string_value", "boolean"), describe_value),
    "datetime": lambda _: "datetime",
    "duration": lambda _: "timedelta",
}
_SCALARS: dict[str, Callable[[Any], str]] = {
    "primitive": lambda primitive: _describe_oneof(primitive, _PRIMITIVES),
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
