"""What a declared type has to know: the base class of all codecs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from connectrio.idl.flyteidl2.core import Literal, Primitive
from connectrio.literals.describe import describe_literal
from connectrio.literals.errors import LiteralError, StoredElsewhereError, mismatch
from connectrio.literals.msgpack import unpack

__all__ = ["Codec", "Unsupported", "primitive_of"]


class Codec(ABC):
    """Reads the literals of one declared type, and writes them.

    A codec has no state of its own and can be kept for as long as the declared type is.
    """

    @property
    @abstractmethod
    def label(self) -> str:
        """The declared type as a person reads it: `list[int]`."""

    @abstractmethod
    def to_python(self, literal: Literal) -> Any:
        """The value of `literal`.

        :raises LiteralError: it is not a literal of this type
        """

    @abstractmethod
    def from_plain(self, value: Any) -> Any:
        """The value of this type that JSON, MessagePack or a caller means by `value`.

        :raises LiteralError: `value` means nothing of this type
        """

    @abstractmethod
    def to_literal(self, value: Any) -> Literal:
        """A literal of this type from anything that `from_plain` takes.

        :raises LiteralError: `value` means nothing of this type
        """

    def exact(self) -> Codec:
        """The same type without conversions: no integer read as a float, no text as a time.

        A union prefers a variant that takes a value as it is.
        """
        return self

    def unusual(self, literal: Literal) -> Any:
        """The value of a literal that is not of the form this type usually comes in.

        Every type may come as MessagePack: it does when it is an attribute of a dataclass.

        :raises LiteralError: it is not MessagePack either, or holds no value of this type
        """
        if literal.scalar is not None and literal.scalar.binary is not None:
            return self.from_plain(unpack(literal.scalar.binary))
        if literal.offloaded_metadata is not None:
            raise StoredElsewhereError(
                f"expected {self.label}, got {describe_literal(literal)}: it is fetched for a task's inputs alone"
            )
        raise mismatch(self.label, describe_literal(literal))


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
    """The primitive in `literal`, if it holds one."""
    return None if literal.scalar is None else literal.scalar.primitive
