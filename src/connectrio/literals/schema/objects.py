"""Objects of a JSON schema: the shape, its fields, and the Python objects made of them."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from unicodedata import is_normalized

from connectrio.literals.errors import LiteralError, describe_value, mismatch, quoted_names
from connectrio.literals.schema.shapes import Choice, Fit, Reading, Shape
from connectrio.literals.values import Record

__all__ = ["Object", "SchemaField", "maker_of"]

TUPLE_PREFIX = "TupleWrapper_"
NAMED_TUPLE_PREFIX = "NamedTupleWrapper_"
TYPED_DICT_PREFIX = "TypedDictWrapper_"

Make = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class SchemaField:
    """A field of an object.

    :ivar required: whether it must be present
    :ivar has_default: whether `default` is its value if it is missing
    :ivar default_size: how many values the default consists of; 0 for a text or a number
    """

    shape: Shape
    required: bool = False
    has_default: bool = False
    default: Any = None
    default_size: int = 0

    def absent(self, reading: Reading) -> Any:
        """Return the value of the field if it is missing.

        :raises LiteralError: too many values come from defaults
        """
        reading.budget.take(1 + self.default_size)
        if not self.has_default:
            return self.shape.absent(reading)
        default = copy.deepcopy(self.default) if self.default_size else self.default
        try:
            return self.shape.read(default, reading)
        except LiteralError:
            # flyte-sdk's schemas have defaults of other types than their fields, such as None for an int
            return default


@dataclass(frozen=True)
class Object(Shape):
    """Objects with named fields. Unknown fields are dropped.

    :ivar make: makes the Python object from its fields
    :ivar is_tuple: whether a list of the fields' values is taken for the object, too
    """

    title: str
    fields: Mapping[str, SchemaField]
    make: Make
    is_tuple: bool = False

    @property
    def label(self) -> str:
        return self.title

    def read(self, value: Any, reading: Reading) -> Any:
        if self.is_tuple and isinstance(value, list | tuple) and len(value) == len(self.fields):
            value = dict(zip(self.fields, value, strict=True))
        if not isinstance(value, dict | Record):
            raise mismatch(self.label, describe_value(value))
        missing = [name for name, declared in self.fields.items() if declared.required and name not in value]
        if missing:
            raise LiteralError(f"{self.label} is missing {quoted_names(missing)}, which it requires")
        if reading.exact and not value.keys() <= self.fields.keys():
            raise mismatch(self.label, "an object with further fields")
        fields: dict[str, Any] = {}
        name = ""
        try:
            for name, declared in self.fields.items():
                fields[name] = declared.shape.read(value[name], reading) if name in value else declared.absent(reading)
        except LiteralError as error:
            error.inside(name)
            raise
        return self.make(fields)

    def fit(self, value: Any, depth: int = 0) -> Fit:  # noqa: ARG002 - the names are enough
        if self.is_tuple and isinstance(value, list | tuple):
            return Fit.EXACTLY if len(value) == len(self.fields) else Fit.NO
        if not isinstance(value, dict | Record):
            return Fit.NO
        if any(declared.required and name not in value for name, declared in self.fields.items()):
            return Fit.CONVERTED
        constants = [(name, declared.shape) for name, declared in self.fields.items() if name in value]
        if any(isinstance(shape, Choice) and value[name] not in shape.values for name, shape in constants):
            return Fit.CONVERTED
        return Fit.EXACTLY if value.keys() <= self.fields.keys() else Fit.LOOSELY

    def absent(self, reading: Reading) -> Any:
        """Return an object made only of defaults; None if it has required fields."""
        if any(declared.required for declared in self.fields.values()):
            return None
        return self.read({}, reading)


def maker_of(title: str, names: Sequence[str]) -> tuple[str, Make, bool]:
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


@lru_cache(maxsize=256)  # a class is slow to make, and the same few tasks come repeatedly
def _tuple_maker(name: str, names: tuple[str, ...]) -> Make | None:
    """Return what makes named tuples; None if Python does not allow the names, or would change them (NFKC)."""
    if not all(is_normalized("NFKC", field) for field in names):
        return None
    try:
        cls = namedtuple(name, names)  # type: ignore[misc]  # noqa: PYI024 - the names are known only at run time
    except ValueError:
        return None
    return lambda fields: cls(**fields)
