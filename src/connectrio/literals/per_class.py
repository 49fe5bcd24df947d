"""Reflection done once for each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

__all__ = ["per_class"]

T = TypeVar("T")


def per_class(find: Callable[[type], T]) -> Callable[[type], T]:
    """`find`, which remembers what it found for a class for as long as the class lives."""
    found: WeakKeyDictionary[type, T] = WeakKeyDictionary()

    def remembered(cls: type) -> T:
        try:
            return found[cls]
        except KeyError:
            result = found[cls] = find(cls)
            return result

    return remembered
