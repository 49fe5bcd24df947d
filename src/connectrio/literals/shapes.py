"""Shapes: each reads the plain data that one kind of JSON schema describes.

Plain data come from MessagePack or a protobuf Struct; a shape makes Python values of them. As in flyte-sdk, texts with
a format (dates, times, base64) stay texts, and the members of an enum are not checked: pydantic models are declared
with the names of members, and come with names in some places and with values in others.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

from connectrio.literals.codecs import Codec
from connectrio.literals.errors import (
    MAX_DEPTH,
    AbortedError,
    LiteralError,
    describe_value,
    mismatch,
    quoted_name,
    quoted_names,
    shortened,
    too_deep,
)
from connectrio.literals.steps import each_item, take_steps
from connectrio.literals.values import Record

__all__ = [
    "Anything",
    "Choice",
    "Fit",
    "Impossible",
    "Items",
    "Leaf",
    "Names",
    "Object",
    "OneOf",
    "Reading",
    "Reference",
    "SchemaField",
    "Shape",
    "Tuple",
]

# how many objects made only of defaults may be in each other; one that contains itself would have no end
_DEEPEST_DEFAULT = 8

# how many labels a label shows
_MANY_LABELS = 10

# what is slower than the conversion of a number; a value that does not fit costs an exception
_STEPS_PER_FIT = 4
_STEPS_PER_DEFAULT = 4
_STEPS_PER_OBJECT = 4


class Fit(IntEnum):
    """How well a value fits a shape, as far as a quick look tells."""

    NO = 0
    CONVERTED = 1
    LOOSELY = 2
    EXACTLY = 3


@dataclass
class Reading:
    """The state of reading one value.

    :ivar exact: whether to convert nothing and to refuse unknown fields
    :ivar references: how many references the current place is in
    """

    exact: bool = False
    references: int = 0


class Shape(ABC):
    """Reads the values that one JSON schema allows, and takes the steps for it (see `take_steps`)."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The shape, readable: `list[int]`, `Point`."""

    @abstractmethod
    def read(self, value: Any, reading: Reading) -> Any:
        """Return the Python value of plain data.

        :raises LiteralError: the data are not of this shape
        """

    @abstractmethod
    def fit(self, value: Any, depth: int = 0) -> Fit:
        """Return how well `value` fits, without going through all of it.

        :param depth: how deep `value` is in the value in question; only one level is looked at
        """

    def absent(self, reading: Reading) -> Any:  # noqa: ARG002 - for objects
        """Return the value of an optional field of this shape that is missing and has no default."""
        return None


@dataclass(frozen=True)
class Anything(Shape):
    """All plain data."""

    label: str = "Any"

    def read(self, value: Any, reading: Reading) -> Any:  # noqa: ARG002 - takes everything
        return value

    def fit(self, value: Any, depth: int = 0) -> Fit:  # noqa: ARG002 - takes everything
        return Fit.LOOSELY


@dataclass(frozen=True)
class Impossible(Shape):
    """No values: a schema that is not supported, and why."""

    why: str
    label: str = "nothing"

    def read(self, value: Any, reading: Reading) -> Any:  # noqa: ARG002 - takes nothing
        raise LiteralError(self.why)

    def fit(self, value: Any, depth: int = 0) -> Fit:  # noqa: ARG002 - takes nothing
        return Fit.NO


@dataclass(frozen=True)
class Leaf(Shape):
    """Values of one codec.

    :ivar natural: the classes of plain data that it takes unconverted
    """

    codec: Codec
    natural: tuple[type, ...]

    @property
    def label(self) -> str:
        return self.codec.label

    def read(self, value: Any, reading: Reading) -> Any:
        if type(value) in self.natural:
            return value
        return (self.codec.exact() if reading.exact else self.codec).from_plain(value)

    def fit(self, value: Any, depth: int = 0) -> Fit:  # noqa: ARG002 - there is nothing below
        if type(value) in self.natural:
            return Fit.EXACTLY
        try:
            self.codec.from_plain(value)
        except LiteralError:
            return Fit.NO
        return Fit.CONVERTED


@dataclass(frozen=True)
class Choice(Shape):
    """The members of an enum, or a constant: texts or numbers, which are not checked to be among them."""

    values: tuple[Any, ...]

    @cached_property
    def label(self) -> str:
        return f"enum[{quoted_names(self.values)}]"

    def has(self, value: Any) -> bool:
        """Return whether `value` is a member; one that cannot be hashed is not."""
        return isinstance(value, str | int | float) and value in self._members

    @cached_property
    def _members(self) -> frozenset[str | int | float]:
        return frozenset(self.values)

    def read(self, value: Any, reading: Reading) -> Any:  # noqa: ARG002 - nothing is converted
        if not isinstance(value, str | int | float):
            raise mismatch(self.label, describe_value(value))
        # a protobuf Struct has only floats
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def fit(self, value: Any, depth: int = 0) -> Fit:  # noqa: ARG002 - there is nothing below
        if not isinstance(value, str | int | float):
            return Fit.NO
        return Fit.EXACTLY if value in self._members else Fit.LOOSELY


@dataclass(frozen=True)
class Items(Shape):
    """Lists of one shape."""

    item: Shape

    @cached_property
    def label(self) -> str:
        return shortened(f"list[{self.item.label}]")

    def read(self, value: Any, reading: Reading) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise mismatch(self.label, describe_value(value))
        return each_item(lambda item: self.item.read(item, reading), value)

    def fit(self, value: Any, depth: int = 0) -> Fit:
        if not isinstance(value, list | tuple):
            return Fit.NO
        return _fit_of_first(self.item, value, depth)

    def absent(self, reading: Reading) -> Any:  # noqa: ARG002 - costs nothing
        return []


@dataclass(frozen=True)
class Tuple(Shape):
    """Lists of a fixed number of items, each of its own shape."""

    items: tuple[Shape, ...]

    @cached_property
    def label(self) -> str:
        return shortened(f"tuple[{', '.join(item.label for item in self.items[:_MANY_LABELS])}]")

    def read(self, value: Any, reading: Reading) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) != len(self.items):
            raise mismatch(self.label, describe_value(value))
        pairs = list(zip(self.items, value, strict=True))
        return tuple(each_item(lambda pair: pair[0].read(pair[1], reading), pairs))

    def fit(self, value: Any, depth: int = 0) -> Fit:
        if not isinstance(value, list | tuple) or len(value) != len(self.items):
            return Fit.NO
        return _fit_of_first(self.items[0], value, depth) if value else Fit.EXACTLY


@dataclass(frozen=True)
class Names(Shape):
    """Dictionaries of one shape. Their keys are texts, as in JSON: integers become texts."""

    value: Shape

    @cached_property
    def label(self) -> str:
        return shortened(f"dict[str, {self.value.label}]")

    def read(self, value: Any, reading: Reading) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise mismatch(self.label, describe_value(value))
        take_steps(_STEPS_PER_OBJECT + len(value))
        result: dict[str, Any] = {}
        key: Any = None
        try:
            for key, item in value.items():
                result[key if isinstance(key, str) else str(key)] = self.value.read(item, reading)
        except LiteralError as error:
            error.inside(key)
            raise
        return result

    def fit(self, value: Any, depth: int = 0) -> Fit:
        if not isinstance(value, dict):
            return Fit.NO
        return _fit_of_first(self.value, value.values(), depth)

    def absent(self, reading: Reading) -> Any:  # noqa: ARG002 - costs nothing
        return {}


def _fit_of_first(item: Shape, values: Collection[Any], depth: int) -> Fit:
    if not values or depth:
        return Fit.EXACTLY
    return max(Fit.CONVERTED, item.fit(next(iter(values)), depth + 1))


@dataclass(frozen=True)
class OneOf(Shape):
    """Values of one of several shapes: the one that fits best, and the first of those that fit equally.

    :ivar discriminator: the field of an object that names its shape; "" for none
    :ivar mapping: value of that field → the shape
    """

    variants: tuple[Shape, ...]
    discriminator: str = ""
    mapping: Mapping[Any, Shape] = field(default_factory=dict)

    @cached_property
    def label(self) -> str:
        return shortened(" | ".join(variant.label for variant in self.variants[:_MANY_LABELS]))

    def read(self, value: Any, reading: Reading) -> Any:
        if self.mapping and isinstance(value, dict):
            said = value.get(self.discriminator)
            variant = self.mapping.get(said) if isinstance(said, str | int) else None
            if variant is None:
                known = quoted_names(self.mapping)
                raise LiteralError(f"the field {quoted_name(self.discriminator)} must be one of {known}")
            return variant.read(value, reading)
        fits = self._fits(value, 0)
        best = max(fits)
        if best is Fit.NO:
            raise mismatch(self.label, describe_value(value))
        return self.variants[fits.index(best)].read(value, reading)

    def fit(self, value: Any, depth: int = 0) -> Fit:
        return Fit.LOOSELY if depth else max(self._fits(value, depth + 1))

    def _fits(self, value: Any, depth: int) -> list[Fit]:
        take_steps(_STEPS_PER_FIT * len(self.variants))
        return [variant.fit(value, depth) for variant in self.variants]


class Reference(Shape):
    """A schema with a name, which may contain itself.

    :param find: makes the shape; called once, when the shape is first used
    """

    def __init__(self, name: str, find: Callable[[], Shape]) -> None:
        self._name = name
        self._find = find
        self._target: Shape | None = None

    @property
    def label(self) -> str:
        return self._name

    @property
    def target(self) -> Shape:
        """The shape that is referred to."""
        if self._target is None:
            self._target = self._find()
        return self._target

    def read(self, value: Any, reading: Reading) -> Any:
        if reading.references > 2 * MAX_DEPTH:  # as in a schema that only refers to itself
            raise too_deep()
        reading.references += 1
        try:
            return self.target.read(value, reading)
        finally:
            reading.references -= 1

    def fit(self, value: Any, depth: int = 0) -> Fit:
        return self.target.fit(value, depth)

    def absent(self, reading: Reading) -> Any:
        if reading.references > _DEEPEST_DEFAULT:
            return None
        reading.references += 1
        try:
            return self.target.absent(reading)
        finally:
            reading.references -= 1


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

        :raises LiteralError: it takes too many steps
        """
        take_steps(_STEPS_PER_DEFAULT * (1 + self.default_size))
        if not self.has_default:
            return self.shape.absent(reading)
        default = copy.deepcopy(self.default) if self.default_size else self.default
        try:
            return self.shape.read(default, reading)
        except AbortedError:
            raise
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
    make: Callable[[dict[str, Any]], Any]
    is_tuple: bool = False

    @property
    def label(self) -> str:
        return self.title

    def read(self, value: Any, reading: Reading) -> Any:
        if self.is_tuple and isinstance(value, list | tuple) and len(value) == len(self.fields):
            value = dict(zip(self.fields, value, strict=True))
        if not isinstance(value, dict | Record):
            raise mismatch(self.label, describe_value(value))
        take_steps(_STEPS_PER_OBJECT + len(self.fields))
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
        take_steps(len(self.fields))
        if any(declared.required and name not in value for name, declared in self.fields.items()):
            return Fit.CONVERTED
        constants = [(name, declared.shape) for name, declared in self.fields.items() if name in value]
        if any(isinstance(shape, Choice) and not shape.has(value[name]) for name, shape in constants):
            return Fit.CONVERTED
        return Fit.EXACTLY if value.keys() <= self.fields.keys() else Fit.LOOSELY

    def absent(self, reading: Reading) -> Any:
        """Return an object made only of defaults; None if it has required fields."""
        if any(declared.required for declared in self.fields.values()):
            return None
        return self.read({}, reading)
