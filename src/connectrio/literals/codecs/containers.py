"""Types made of other types: collections, maps and unions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from connectrio.idl.flyteidl2.core import Literal, LiteralCollection, LiteralMap, LiteralType, Scalar
from connectrio.idl.flyteidl2.core import Union as UnionValue
from connectrio.literals.codecs import Codec, ConvertingCodec, encodable
from connectrio.literals.codecs.structs import Pickle
from connectrio.literals.errors import (
    AbortedError,
    LiteralError,
    MismatchError,
    class_label,
    describe_literal,
    describe_value,
    mismatch,
    shortened,
)
from connectrio.literals.literal_types import kind_of, same_type, tag_of, title_of
from connectrio.literals.plain_data import unpack
from connectrio.literals.steps import each_entry, each_item, take_steps

__all__ = ["Collection", "Map", "Union", "Variant"]

T = TypeVar("T")

_MANY_VARIANTS = 10
# a variant that does not fit costs an exception
_STEPS_PER_VARIANT = 12


@dataclass(frozen=True)
class Collection(Codec):
    """Lists of values of one type."""

    item: Codec

    @cached_property
    def label(self) -> str:
        return shortened(f"list[{self.item.label}]")

    def to_python(self, literal: Literal) -> Any:
        if literal.collection is None:
            return self.unusual(literal)
        return each_item(self.item.to_python, literal.collection.literals)

    def from_plain(self, value: Any) -> list[Any]:
        return each_item(self.item.from_plain, self._items(value))

    def to_literal(self, value: Any) -> Literal:
        return Literal(collection=LiteralCollection(literals=each_item(self.item.to_literal, self._items(value))))

    def exact(self) -> Codec:
        return Collection(self.item.exact())

    def _items(self, value: Any) -> Sequence[Any]:
        if not isinstance(value, list | tuple):
            raise mismatch(self.label, describe_value(value))
        return value


@dataclass(frozen=True)
class Map(Codec):
    """Dictionaries of values of one type, whose keys are texts."""

    value: Codec

    @cached_property
    def label(self) -> str:
        return shortened(f"dict[str, {self.value.label}]")

    def to_python(self, literal: Literal) -> Any:
        if literal.map is None:
            return self.unusual(literal)
        return each_entry(self.value.to_python, literal.map.literals)

    def from_plain(self, value: Any) -> dict[str, Any]:
        return each_entry(self.value.from_plain, self._entries(value))

    def to_literal(self, value: Any) -> Literal:
        return Literal(map=LiteralMap(literals=each_entry(self.value.to_literal, self._entries(value))))

    def exact(self) -> Codec:
        return Map(self.value.exact())

    def _entries(self, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise mismatch(self.label, describe_value(value))
        for key in value:
            if not isinstance(key, str):
                raise LiteralError(f"the keys of {self.label} are str, not {class_label(type(key))}")
            encodable(key)
        return value


@dataclass(frozen=True)
class Variant:
    """One of a union's types: its declaration and its codec."""

    declared: LiteralType
    codec: Codec

    @cached_property
    def exact(self) -> Variant:
        """The same variant without conversions."""
        return Variant(self.declared, self.codec.exact())


@dataclass(frozen=True)
class Union(ConvertingCodec):
    """A value of one of several types.

    A union literal names its variant: by the tag of its type, or if tags do not decide, by an equal type. A bare
    literal or value is tried with every variant; those that take it unconverted come before those that convert it.
    """

    variants: Sequence[Variant]

    @cached_property
    def label(self) -> str:
        labels = [variant.codec.label for variant in self.variants[:_MANY_VARIANTS]]
        return shortened(" | ".join(labels if len(self.variants) <= _MANY_VARIANTS else [*labels, "…"]))

    def to_python(self, literal: Literal) -> Any:
        union = None if literal.scalar is None else literal.scalar.union
        if union is None:
            return self._read_bare(self.variants, literal)
        value = Literal() if union.value is None else union.value
        if union.type is None or not kind_of(union.type)[0]:
            return self._read_bare(self.variants, value)
        return self._read_bare(self._named(union.type, value), value)

    def from_plain(self, value: Any) -> Any:
        return self._read_plain(self.variants, value)

    def to_literal(self, value: Any) -> Literal:
        variant, literal = self._choose(
            self.variants, lambda codec: codec.to_literal(value), lambda: describe_value(value)
        )
        return Literal(scalar=Scalar(union=UnionValue(value=literal, type=variant.declared)))

    def exact(self) -> Codec:
        return Union([variant.exact for variant in self.variants], converts=False)

    def _named(self, sent: LiteralType, value: Literal) -> list[Variant]:
        """Return the variants that the type in a union literal may name: one, unless types are equal."""
        take_steps(len(self.variants))
        tag = tag_of(sent)
        tagged = [variant for variant in self.variants if tag and tag_of(variant.declared) == tag]
        if len(tagged) == 1:
            return tagged
        equal = [variant for variant in tagged or self.variants if same_type(variant.declared, sent)]
        if not equal:
            came = f"a union value of a type that is not among them ({describe_literal(value)})"
            raise mismatch(self.label, came)
        # all dataclasses have one tag, and all pydantic models another
        return [variant for variant in equal if title_of(variant.declared) == title_of(sent)] or equal

    def _read_bare(self, variants: Sequence[Variant], literal: Literal) -> Any:
        if len(variants) == 1:
            return variants[0].codec.to_python(literal)
        binary = None if literal.scalar is None else literal.scalar.binary
        if binary is not None and (binary.tag or not any(isinstance(variant.codec, Pickle) for variant in variants)):
            return self._read_plain(variants, unpack(binary))
        return self._choose(variants, lambda codec: codec.to_python(literal), lambda: describe_literal(literal))[1]

    def _read_plain(self, variants: Sequence[Variant], value: Any) -> Any:
        return self._choose(variants, lambda codec: codec.from_plain(value), lambda: describe_value(value))[1]

    def _choose(
        self, variants: Sequence[Variant], convert: Callable[[Codec], T], describe: Callable[[], str]
    ) -> tuple[Variant, T]:
        """Return the only variant that can convert, and what it makes.

        Variants without conversions are tried first, unless this union has no others.
        """
        matches: list[tuple[Variant, T]] = []
        failures: list[LiteralError] = []
        if self.converts:
            matches, _ = _try_all([variant.exact for variant in variants], convert)
        if not matches:
            matches, failures = _try_all(variants, convert)
        if not matches:
            # if only one variant was of the right type, its failure says more than a list of all types
            telling = [failure for failure in failures if failure.path or not isinstance(failure, MismatchError)]
            raise telling[0] if len(telling) == 1 else mismatch(self.label, describe())
        if len(matches) > 1:
            labels = shortened(" and ".join(variant.codec.label for variant, _ in matches[:_MANY_VARIANTS]))
            raise LiteralError(f"{describe()} is ambiguous: {labels} match; send a union value that names its variant")
        return matches[0]


def _try_all(
    variants: Sequence[Variant], convert: Callable[[Codec], T]
) -> tuple[list[tuple[Variant, T]], list[LiteralError]]:
    """Try every variant; return those that can convert, each with its result, and the failures of the others."""
    take_steps(_STEPS_PER_VARIANT * len(variants))
    matches, failures = [], []
    for variant in variants:
        try:
            matches.append((variant, convert(variant.codec)))
        except AbortedError:
            raise
        except LiteralError as error:
            failures.append(error)
    return matches, failures
