"""The codecs of declared types, a module for each kind. Here are their base classes, and what several of them use."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from connectrio.idl.flyteidl2.core import Literal, Primitive
from connectrio.literals.errors import LiteralError, StoredElsewhereError, describe_literal, describe_value, mismatch
from connectrio.literals.plain_data import unpack

__all__ = ["Codec", "ConvertingCodec", "Unsupported", "encodable", "primitive_of"]


class Codec(ABC):
    """Reads the literals of one declared type, and writes them. It has no state: one serves any number of values."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The declared type, readable: `list[int]`."""

    @abstractmethod
    def to_python(self, literal: Literal) -> Any:
        """Return the value of `literal`.

        :raises LiteralError: it is not a literal of this type
        """

    @abstractmethod
    def from_plain(self, value: Any) -> Any:
        """Return the value of this type for what JSON, MessagePack or a caller has in its place.

        :raises LiteralError: `value` is not of this type and cannot be converted to it
        """

    @abstractmethod
    def to_literal(self, value: Any) -> Literal:
        """Return a literal of this type from anything that `from_plain` takes.

        :raises LiteralError: `value` is not of this type and cannot be converted to it
        """

    def exact(self) -> Codec:
        """Return a codec of the same type that converts nothing: no integer read as a float, no text as a time.

        A union prefers a variant that takes a value unconverted.
        """
        return self

    def unusual(self, literal: Literal) -> Any:
        """Return the value of a literal in another form than this type usually has.

        Every type may come as MessagePack: attributes of dataclasses do.

        :raises LiteralError: it is not MessagePack either, or holds no value of this type
        """
        if literal.scalar is not None and literal.scalar.binary is not None:
            return self.from_plain(unpack(literal.scalar.binary))
        if literal.offloaded_metadata is not None:
            raise StoredElsewhereError(
                f"expected {self.label}, got {describe_literal(literal)}: stored literals are fetched only for a task's"
                " inputs"
            )
        raise mismatch(self.label, describe_literal(literal))


@dataclass(frozen=True)
class ConvertingCodec(Codec):
    """A codec that also takes some values of other types.

    :ivar converts: whether it does; False for the result of `exact`
    """

    converts: bool = field(default=True, kw_only=True)

    def exact(self) -> Codec:
        return dataclasses.replace(self, converts=False)


@dataclass(frozen=True)
class Unsupported(Codec):
    """A declared type that has no values here, and why. Declaring it is no error; using it is."""

    name: str
    why: str

    @property
    def label(self) -> str:
        return self.name

    def to_python(self, literal: Literal) -> Any:  # noqa: ARG002 - no literal is taken
        raise self._error()

    def from_plain(self, value: Any) -> Any:  # noqa: ARG002 - no value is taken
        raise self._error()

    def to_literal(self, value: Any) -> Literal:  # noqa: ARG002 - no value is taken
        raise self._error()

    def _error(self) -> LiteralError:
        return LiteralError(f"the declared type {self.name} is not supported: {self.why}")


def primitive_of(literal: Literal) -> Primitive | None:
    """Return the primitive in `literal`, if it holds one."""
    return None if literal.scalar is None else literal.scalar.primitive


def encodable(text: Any) -> str:
    """Return `text` if it is a str that UTF-8 can encode.

    Lone surrogates, which come from undecodable file names, would otherwise fail later, when the response is sent.

    :raises LiteralError: it is not
    """
    if not isinstance(text, str):
        raise mismatch("str", describe_value(text))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise LiteralError(f"{describe_value(text)} is not valid Unicode: {error.reason}") from None
    return text
