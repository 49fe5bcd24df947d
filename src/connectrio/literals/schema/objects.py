"""Objects of a JSON schema: their fields, and what is made of them."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from unicodedata import is_normalized

from connectrio.literals.describe import describe_value, quoted_names
from connectrio.literals.errors import LiteralError, mismatch
from connectrio.literals.records import Record
from connectrio.literals.schema.shapes import Choice, Fit, Reading, Shape

__all__ = ["Field", "Object", "maker_of"]

TUPLE_PREFIX = "TupleWrapper_"
NAMED_TUPLE_PREFIX = "NamedTupleWrapper_"
TYPED_DICT_PREFIX = "TypedDictWrapper_"

Make = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Field:
    """A field of an object.

    :ivar required: whether it must be there
    :ivar has_default: whether `default` is what it is where it is not there
    :ivar default_size: of how many values the default consists
    """

    shape: Shape
    required: bool = False
    has_default: bool = False
    default: Any = None
    default_size: int = 0

    def absent(self, reading: Reading) -> Any:
        """What the field is where it is not there.

        :raises LiteralError: too much comes from defaults
        """
        reading.budget.take(1 + self.default_size)
        if not self.has_default:
            return self.shape.absent(reading)
        default = copy.deepcopy(self.default) if self.default_size else self.default
        try:
            return self.shape.read(default, reading)
        except LiteralError:
            # flyte-sdk's schemas have defaults that are not of their own types, such as None for an int
            return default


@dataclass(frozen=True)
class Object(Shape):
    """Objects with named fields. Of others that come with them, nothing is seen.

    :ivar make: makes the Python object of its fields
    :ivar is_tuple: whether a list of the fields' values stands for the object, too
    """

    title: str
    fields: Mapping[str, Field]
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
        self._check_names(value, reading)
        return self.make(self._read_fields(value, reading))

    def _check_names(self, value: Mapping[Any, Any], reading: Reading) -> None:
        missing = [name for name, declared in self.fields.items() if declared.required and name not in value]
        if missing:
            raise LiteralError(f"{self.label} is missing {quoted_names(missing)}, which it requires")
        if reading.exact and not value.keys() <= self.fields.keys():
            raise mismatch(self.label, "an object with further fields")

    def _read_fields(self, value: Mapping[Any, Any], reading: Reading) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        name = ""
        try:
            for name, declared in self.fields.items():
                fields[name] = declared.shape.read(value[name], reading) if name in value else declared.absent(reading)
        except LiteralError as error:
            error.inside(name)
            raise
        return fields

    def fit(self, value: Any, depth: int = 0) -> Fit:  # noqa: ARG002 - the names tell enough
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
        """An object of nothing but defaults, if it has no required fields."""
        if any(declared.required for declared in self.fields.values()):
            return None
        return self.read({}, reading)


def maker_of(title: str, names: Sequence[str]) -> tuple[str, Make, bool]:
    """How to make objects of that title: what it is without flyte-sdk's prefix, the maker, and whether of a tuple.

    Tuples are named tuples, too: flyte-sdk's objects in their place have the attributes `item_0`, `item_1`, …
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


@lru_cache(maxsize=256)  # a class is slow to make, and the same few tasks come again and again
def _tuple_maker(name: str, names: tuple[str, ...]) -> Make | None:
    """A maker of named tuples; None where Python does not allow the names, or would take others for them (NFKC)."""
    if not all(is_normalized("NFKC", field) for field in names):
        return None
    try:
        cls = namedtuple(name, names)  # type: ignore[misc]  # noqa: PYI024 - the names are known at run time alone
    except ValueError:
        return None
    return lambda fields: cls(**fields)
