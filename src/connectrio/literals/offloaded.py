"""Literals that were too large for a request: what came is where they are stored, as the bytes of a Literal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from connectrio.idl.flyteidl2.core import Literal, LiteralCollection, LiteralMap, Scalar, Union
from connectrio.literals.codecs.containers import each_entry, each_item
from connectrio.literals.describe import quoted
from connectrio.literals.errors import MAX_DEPTH, LiteralError, too_deep
from connectrio.literals.storage import Storage

__all__ = ["fetched"]


def _is_stored(literal: Literal | None, depth: int) -> bool:
    if literal is None or depth > MAX_DEPTH:
        return False
    return literal.offloaded_metadata is not None or any(_is_stored(child, depth + 1) for child in _children(literal))


def _children(literal: Literal) -> Iterable[Literal | None]:
    if literal.collection is not None:
        return literal.collection.literals
    if literal.map is not None:
        return literal.map.literals.values()
    union = None if literal.scalar is None else literal.scalar.union
    return () if union is None else (union.value,)


def fetched(literal: Literal, storage: Storage, depth: int = 0) -> Literal:
    """`literal` with everything in it that is stored elsewhere in its place.

    What the reference to it says of its size and its type is not compared with what is there, as in flyte-sdk: the
    declared type decides what it is.

    :raises LiteralError: something cannot be read, is no literal, or is nested too deeply
    """
    if depth > MAX_DEPTH:
        raise too_deep()
    if literal.offloaded_metadata is not None:
        literal = _fetch(literal.offloaded_metadata.uri, storage)
    if not _is_stored(literal, 0):
        return literal
    return _with_children(literal, storage, depth + 1)


def _fetch(uri: str, storage: Storage) -> Literal:
    literal = storage.literal(uri)
    if literal.offloaded_metadata is not None:
        raise LiteralError(f"what is stored at {quoted(uri)} is only where another literal is stored")
    return literal


def _with_children(literal: Literal, storage: Storage, depth: int) -> Literal:
    def fetch(child: Literal) -> Literal:
        return fetched(child, storage, depth)

    if literal.collection is not None:
        items = LiteralCollection(literals=each_item(fetch, literal.collection.literals))
        return dataclasses.replace(literal, collection=items)
    if literal.map is not None:
        return dataclasses.replace(literal, map=LiteralMap(literals=each_entry(fetch, literal.map.literals)))
    union = Union() if literal.scalar is None or literal.scalar.union is None else literal.scalar.union
    value = None if union.value is None else fetch(union.value)
    return dataclasses.replace(literal, scalar=Scalar(union=Union(value=value, type=union.type)))
