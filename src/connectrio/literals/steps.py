"""The budget of a conversion: it counts the work in steps, because a few bytes can ask for very much of it.

Whatever takes more time than its part of the request is long, or could, takes its steps first: the items of a list, the
variants of a union, the fields of an object, the parts of a JSON schema. A step takes up to a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from connectrio.literals.errors import AbortedError, LiteralError

__all__ = ["MAX_STEPS", "Steps", "TooManyStepsError", "each_entry", "each_item", "limited_steps", "take_steps"]

T = TypeVar("T")
U = TypeVar("U")

MAX_STEPS = 2_000_000
"""The most steps of one conversion, such as that of all inputs of a task: about a million values with their types."""

_STEPS_PER_CONTAINER = 2


class TooManyStepsError(AbortedError):
    """A conversion takes more steps than it may."""


@dataclass(slots=True)
class Steps:
    """The steps that are left to one conversion.

    :ivar limit: how many there are
    :ivar left: how many are left; negative once the conversion was stopped
    """

    limit: int
    left: int

    def take(self, count: int) -> None:
        """Take steps, before the work is done.

        :raises TooManyStepsError: fewer are left
        """
        self.left -= count
        if self.left < 0:
            raise TooManyStepsError(
                f"converting it takes more than {self.limit} steps, the most for one request; declare simpler types, or"
                " pass large values as File or DataFrame"
            )


_current: ContextVar[Steps | None] = ContextVar("connectrio.literals.steps", default=None)


@contextmanager
def limited_steps(limit: int = MAX_STEPS) -> Iterator[Steps]:
    """Yield the budget of all conversions inside the `with` block."""
    steps = Steps(limit, limit)
    token = _current.set(steps)
    try:
        yield steps
    finally:
        _current.reset(token)


def take_steps(count: int) -> None:
    """Take steps from the budget of the current conversion, if it has one.

    :raises TooManyStepsError: fewer are left
    """
    steps = _current.get()
    if steps is not None:
        steps.take(count)


def each_item(convert: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """Convert all items, in order.

    :raises LiteralError: an item cannot be converted; the error says at which index
    """
    take_steps(_STEPS_PER_CONTAINER + len(items))
    result: list[U] = []
    try:
        for item in items:
            result.append(convert(item))  # noqa: PERF401 - the count tells where an error happened
    except LiteralError as error:
        error.inside(len(result))
        raise
    return result


def each_entry(convert: Callable[[T], U], entries: Mapping[str, T]) -> dict[str, U]:
    """Convert all values of a mapping.

    :raises LiteralError: a value cannot be converted; the error says at which key
    """
    take_steps(_STEPS_PER_CONTAINER + len(entries))
    result: dict[str, U] = {}
    key = ""
    try:
        for key, value in entries.items():
            result[key] = convert(value)
    except LiteralError as error:
        error.inside(key)
        raise
    return result
