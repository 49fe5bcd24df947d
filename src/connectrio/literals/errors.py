"""The one error of this package, which collects where it happened while it travels outwards."""

from __future__ import annotations

from connectrio.literals.describe import quoted_name, shortened

__all__ = ["MAX_DEPTH", "LiteralError", "MismatchError", "StoredElsewhereError", "mismatch", "too_deep"]

MAX_DEPTH = 64
"""How many levels of collections, maps, unions and structs a type or a value may have.

protobuf's own Python and C++ parsers stop at 49 nested collections; the generated messages' encoder needs the
interpreter's whole stack for about a hundred.
"""


class LiteralError(ValueError):
    """A literal does not fit its declared type, or Flyte has no literal for a value.

    :ivar problem: what was expected and what came
    :ivar subject: what was being converted: "input 'xs'", "output 'df'"; "" where the caller did not say
    :ivar path: where inside it: "[3]['key']"; "" for the whole
    :ivar declared: its declared type, readable: "list[int]"; "" where none is declared
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.subject = ""
        self.path = ""
        self.declared = ""

    def inside(self, key: object) -> None:
        """Record that this happened in the item of a container at index or key `key`."""
        step = quoted_name(key) if isinstance(key, str) else str(key) if isinstance(key, int) else "…"
        self.path = f"[{step}]{self.path}"

    def about(self, subject: str, declared: str = "") -> None:
        """Record what was being converted, and what its declared type is."""
        self.subject = subject
        self.declared = shortened(declared)

    def __str__(self) -> str:
        where = (self.subject or ("value" if self.path else "")) + shortened(self.path)
        declared = f" (declared as {self.declared})" if self.path and self.declared else ""
        return f"{where}: {self.problem}{declared}" if where else f"{self.problem}{declared}"


class MismatchError(LiteralError):
    """Something of another type altogether came, rather than a wrong value of the right type."""


class StoredElsewhereError(LiteralError):
    """Some of what is to be read is stored elsewhere, and there is no `Storage` to read it with."""


def mismatch(expected: str, came: str) -> MismatchError:
    """The error for a literal or a value of another type."""
    return MismatchError(f"expected {shortened(expected)}, got {came}")


def too_deep() -> LiteralError:
    """The error for types and values with more than `MAX_DEPTH` levels."""
    return LiteralError(f"nested more than {MAX_DEPTH} levels deep")
