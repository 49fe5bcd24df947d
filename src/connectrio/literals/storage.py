"""Reads data that a request only names: literals that were too large for it, and pickles. It blocks: use a thread."""

from __future__ import annotations

import dataclasses
import importlib
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from connectrio.idl.flyteidl2.core import Literal, LiteralCollection, LiteralMap, Scalar, Union
from connectrio.literals.errors import MAX_DEPTH, LiteralError, each_entry, each_item, quoted, shortened, too_deep

__all__ = ["Storage", "StorageError", "fetched"]


class StorageError(LiteralError):
    """Stored data could not be read now; a later attempt may succeed."""


class Storage:
    """Reads files, by path or `file://` URL, and every other URL that fsspec has a filesystem for.

    :param limit: how many bytes may be read in all
    :param decode: makes a literal of its bytes; any error it raises means that they are not a literal
    """

    def __init__(self, limit: int, decode: Callable[[bytes], Literal]) -> None:
        self._limit = limit
        self._left = limit
        self._decode = decode

    def literal(self, uri: str) -> Literal:
        """Return the literal that is stored at `uri`.

        :raises StorageError: it cannot be read now
        :raises LiteralError: it cannot be read at all, is too large, or is not a literal
        """
        data = self.read(uri)
        try:
            return self._decode(data)
        except Exception as error:
            # any: the decoder does not declare its errors
            raise LiteralError(f"the data stored at {quoted(uri)} are not a literal: {_reason(error)}") from error

    def read(self, uri: str) -> bytes:
        """Return the data stored at `uri`.

        :raises StorageError: they cannot be read now
        :raises LiteralError: they cannot be read at all, or are too large
        """
        name = quoted(uri)
        if not uri:
            raise LiteralError("it is stored elsewhere, but its URI is empty")
        try:
            scheme = urlsplit(uri).scheme if "://" in uri else ""
        except ValueError as error:
            raise LiteralError(f"the literal stored at {name} cannot be read: {error}") from error
        try:
            if scheme in ("", "file"):
                data = _read_file(uri, self._left + 1)
            else:
                with _open_url(uri) as file:
                    data = file.read(self._left + 1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise LiteralError(f"the literal stored at {name} cannot be read: {_reason(error)}") from error
        except LiteralError:
            raise
        except Exception as error:
            # any: each of fsspec's filesystems has errors of its own
            raise StorageError(f"the literal stored at {name} cannot be read now: {_reason(error)}") from error
        self._left -= len(data)
        if self._left < 0:
            raise LiteralError(
                f"the literal stored at {name} is too large: for one task this host reads {self._limit} bytes"
                " (max_stored_input_size); pass large values as File or DataFrame"
            )
        return data


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return shortened(f"{type(error).__name__}: {text}")


def _read_file(uri: str, size: int) -> bytes:
    path = Path(uri)
    if uri.startswith("file://"):
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise LiteralError(f"{quoted(uri)} names a file on another machine")
        path = Path(unquote(parts.path))
    # a pipe or a device may have no end, or block whoever opens it
    if not stat.S_ISREG(path.stat().st_mode):
        raise LiteralError(f"what is stored at {quoted(uri)} is not a file")
    with path.open("rb") as file:
        return file.read(size)


def _open_url(uri: str) -> Any:
    try:
        fsspec = importlib.import_module("fsspec")  # an optional dependency, and slow to load
    except ImportError as error:
        raise LiteralError(
            f"reading {quoted(uri)} needs fsspec: pip install 'connectrio[fsspec]', and fsspec's package for"
            f" {urlsplit(uri).scheme}://"
        ) from error
    try:
        return fsspec.open(uri, "rb")
    except (ImportError, ValueError) as error:
        raise LiteralError(f"fsspec cannot open {quoted(uri)}: {_reason(error)}") from error


def fetched(literal: Literal, storage: Storage, depth: int = 0) -> Literal:
    """Return `literal` with every reference to a stored literal, at any level, replaced by that literal.

    The size and the type in a reference are not compared with what is stored, as in flyte-sdk: the declared type
    decides.

    :raises LiteralError: something cannot be read, is not a literal, or is nested too deeply
    """
    if depth > MAX_DEPTH:
        raise too_deep()
    if literal.offloaded_metadata is not None:
        uri = literal.offloaded_metadata.uri
        literal = storage.literal(uri)
        if literal.offloaded_metadata is not None:
            raise LiteralError(f"the literal stored at {quoted(uri)} is only a reference to another stored literal")
    if not _has_stored(literal, 0):
        return literal

    def fetch(child: Literal) -> Literal:
        return fetched(child, storage, depth + 1)

    if literal.collection is not None:
        items = LiteralCollection(literals=each_item(fetch, literal.collection.literals))
        return dataclasses.replace(literal, collection=items)
    if literal.map is not None:
        return dataclasses.replace(literal, map=LiteralMap(literals=each_entry(fetch, literal.map.literals)))
    union = Union() if literal.scalar is None or literal.scalar.union is None else literal.scalar.union
    value = None if union.value is None else fetch(union.value)
    return dataclasses.replace(literal, scalar=Scalar(union=Union(value=value, type=union.type)))


def _has_stored(literal: Literal | None, depth: int) -> bool:
    """Return whether `literal` is, or contains, a reference to a stored literal."""
    if literal is None or depth > MAX_DEPTH:
        return False
    return literal.offloaded_metadata is not None or any(_has_stored(child, depth + 1) for child in _children(literal))


def _children(literal: Literal) -> Iterable[Literal | None]:
    if literal.collection is not None:
        return literal.collection.literals
    if literal.map is not None:
        return literal.map.literals.values()
    union = None if literal.scalar is None else literal.scalar.union
    return () if union is None else (union.value,)
