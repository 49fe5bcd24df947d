"""Unions: which variant a literal or a value belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from connectrio.idl.flyteidl2.core import Literal, LiteralType, Scalar
from connectrio.idl.flyteidl2.core import Union as UnionValue
from connectrio.literals.codecs.base import Codec
from connectrio.literals.codecs.structs import Pickle
from connectrio.literals.errors import (
    LiteralError,
    MismatchError,
    StoredElsewhereError,
    describe_literal,
    describe_value,
    mismatch,
)
from connectrio.literals.literal_types import kind_of, same_type, tag_of, title_of
from connectrio.literals.plain_data import unpack

__all__ = ["Union", "Variant"]

T = TypeVar("T")

_MANY_VARIANTS = 10


@dataclass(frozen=True)
class Variant:
    """One of a union's types: its declaration and its codec."""

    declared: LiteralType
    codec: Codec

    @cached_property
    def exact(self) -> Variant:
        """The same variant without conversions."""
        return Variant(self.declared, self.codec.exact())


class Union(Codec):
    """A value of one of several types.

    A union literal names its variant: by the tag of its type, or if tags do not decide, by an equal type. A bare
    literal or value is tried with every variant; those that take it unconverted come before those that convert it.
    """

    def __init__(self, variants: Sequence[Variant], *, converts: bool = True) -> None:
        self._variants = variants
        self._converts = converts

    @property
    def label(self) -> str:
        labels = [variant.codec.label for variant in self._variants[:_MANY_VARIANTS]]
        return " | ".join(labels if len(self._variants) <= _MANY_VARIANTS else [*labels, "…"])

    def to_python(self, literal: Literal) -> Any:
        union = None if literal.scalar is None else literal.scalar.union
        if union is None:
            return self._read_bare(self._variants, literal)
        value = Literal() if union.value is None else union.value
        if union.type is None or not kind_of(union.type)[0]:
            return self._read_bare(self._variants, value)
        return self._read_bare(self._named(union.type, value), value)

    def from_plain(self, value: Any) -> Any:
        return self._read_plain(self._variants, value)

    def to_literal(self, value: Any) -> Literal:
        variant, literal = self._choose(
            self._variants, lambda codec: codec.to_literal(value), lambda: describe_value(value)
        )
        return Literal(scalar=Scalar(union=UnionValue(value=literal, type=variant.declared)))

    def exact(self) -> Codec:
        return Union([variant.exact for variant in self._variants], converts=False)

    def _named(self, sent: LiteralType, value: Literal) -> list[Variant]:
        """Return the variants that the type in a union literal may name: one, unless types are equal."""
        tag = tag_of(sent)
        tagged = [variant for variant in self._variants if tag and tag_of(variant.declared) == tag]
        if len(tagged) == 1:
            return tagged
        equal = [variant for variant in tagged or self._variants if same_type(variant.declared, sent)]
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
        if self._converts:
            matches, _ = _try_all([variant.exact for variant in variants], convert)
        if not matches:
            matches, failures = _try_all(variants, convert)
        if not matches:
            # if only one variant was of the right type, its failure says more than a list of all types
            telling = [failure for failure in failures if failure.path or not isinstance(failure, MismatchError)]
            raise telling[0] if len(telling) == 1 else mismatch(self.label, describe())
        if len(matches) > 1:
            labels = " and ".join(variant.codec.label for variant, _ in matches[:_MANY_VARIANTS])
            raise LiteralError(f"{describe()} is ambiguous: {labels} match; send a union value that names its variant")
        return matches[0]


def _try_all(
    variants: Sequence[Variant], convert: Callable[[Codec], T]
) -> tuple[list[tuple[Variant, T]], list[LiteralError]]:
    """Try every variant; return those that can convert, each with its result, and the failures of the others."""
    matches, failures = [], []
    for variant in variants:
        try:
            matches.append((variant, convert(variant.codec)))
        except StoredElsewhereError:
            raise  # it is so for every variant
        except LiteralError as error:
            failures.append(error)
    return matches, failures
