"""Reads data that a request only names: literals that were too large for it, and pickles. It blocks: use a thread.

Whoever may send a request chooses what is read, so a `Storage` reads only what it was told to: URLs of certain schemes,
regular files, up to a size. What went wrong is for the host's log alone (`StoredInputError`): a client could find out
by it which files the host has, and what is in them.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib
import os
import stat
from collections.abc import Callable, Collection
from operator import is_
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from connectrio.idl.flyteidl2.core import Literal, LiteralCollection, LiteralMap, Scalar, Union
from connectrio.literals.errors import MAX_DEPTH, LiteralError, quoted, shortened, too_deep
from connectrio.literals.steps import each_entry, each_item, take_steps

__all__ = ["Storage", "StorageError", "StoredInputError", "fetched"]

# with the steps of one conversion, a request can have at most some 200 literals fetched
_STEPS_PER_FETCH = 10_000
_CHUNK = 1024 * 1024
_FOR_GOOD = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError)
# errors of files that a later attempt may not meet; all others are for good, so that they tell nothing about the path
_PASSING = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT})


class StorageError(LiteralError):
    """Stored data could not be read now; a later attempt may succeed."""


class StoredInputError(LiteralError):
    """An input that is stored elsewhere could not be read. Its text says no more: it is for the client.

    :param reason: what went wrong, for the log
    :ivar passes: whether a later attempt may succeed
    """

    def __init__(self, reason: LiteralError) -> None:
        super().__init__("the stored value could not be read; the host's log says why")
        self.reason = reason
        self.passes = isinstance(reason, StorageError)


class Storage:
    """Reads regular files, by path or `file://` URL, and other URLs with fsspec's filesystems.

    A symbolic link is followed: it names nothing that the path of its target does not name. URLs that contain others
    (`simplecache::s3://…`) are refused.

    :param limit: how many bytes may be read in all
    :param schemes: the schemes of the URLs that may be read; "file" is for paths, too
    :param decode: makes a literal of its bytes; any error it raises means that they are not a literal
    :param check_cancelled: called before each piece is read; raises what ends the reading
    :ivar reads: how often it was asked to read something
    """

    def __init__(
        self,
        limit: int,
        schemes: Collection[str],
        decode: Callable[[bytes], Literal],
        check_cancelled: Callable[[], object] = lambda: None,
    ) -> None:
        self._limit = limit
        self._left = limit
        self._schemes = schemes
        self._decode = decode
        self._check_cancelled = check_cancelled
        self.reads = 0

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
        self.reads += 1
        if not uri:
            raise LiteralError("it is stored elsewhere, but its URI is empty")
        take_steps(_STEPS_PER_FETCH)
        self._check_cancelled()
        try:
            scheme = urlsplit(uri).scheme if "://" in uri else "file"
            if "::" in uri:
                raise LiteralError("it is a URL that contains another")  # noqa: TRY301
            if scheme not in self._schemes:
                raise LiteralError(  # noqa: TRY301
                    f"URLs with the scheme {quoted(scheme)} are not read; to allow it, set storage_schemes"
                )
            data = self._read_file(uri) if scheme in ("file", "local") else self._read_url(uri, scheme)
        except LiteralError as error:
            raise type(error)(f"the data stored at {quoted(uri)} cannot be read: {error.problem}") from error
        except Exception as error:
            # any: each of fsspec's filesystems has errors of its own
            kind = LiteralError if isinstance(error, _FOR_GOOD) else StorageError
            raise kind(f"the data stored at {quoted(uri)} cannot be read: {_reason(error)}") from error
        self._left -= len(data)
        return data

    def _read_file(self, uri: str) -> bytes:
        """Read what the file held when it was opened; a pipe, a device and what /proc makes up are never read."""
        path = uri
        if "://" in uri:
            parts = urlsplit(uri)
            if parts.netloc not in ("", "localhost"):
                raise LiteralError("it names a file on another machine")
            path = unquote(parts.path)
        try:
            # looked at first, because opening a device can have effects; and again, because it may be another by then
            _check_regular(Path(path).stat())
            with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
                size = _check_regular(os.fstat(file.fileno()))
                self._check_size(size)
                return self._read(file.read, size)
        except OSError as error:
            kind = StorageError if error.errno in _PASSING else LiteralError
            raise kind(_reason(error)) from error

    def _read_url(self, uri: str, scheme: str) -> bytes:
        try:
            fsspec = importlib.import_module("fsspec")  # an optional dependency, and slow to load
        except ImportError as error:
            raise LiteralError(
                f"it needs fsspec: pip install 'connectrio[fsspec]', and fsspec's package for {scheme}://"
            ) from error
        try:
            opened = fsspec.open(uri, "rb")
        except (ImportError, ValueError) as error:
            raise LiteralError(f"fsspec cannot open it: {_reason(error)}") from error
        with opened as file:
            self._check_size(getattr(file, "size", None) or 0)
            data = self._read(file.read, self._left + 1)
        self._check_size(len(data))
        return data

    def _read(self, read: Callable[[int], Any], size: int) -> bytes:
        """Read up to `size` bytes piece by piece, so that nothing grows beyond it."""
        pieces: list[bytes] = []
        while size > 0:
            self._check_cancelled()
            piece = read(min(size, _CHUNK))
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _check_size(self, size: int) -> None:
        if size > self._left:
            raise LiteralError(
                f"it is too large: for one task this host reads {self._limit} bytes (max_stored_input_size); pass large"
                " values as File or DataFrame"
            )


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return shortened(f"{type(error).__name__}: {text}")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _check_regular(status: os.stat_result) -> int:
    """Return the size of a regular file that is not empty.

    :raises LiteralError: it is another kind of file; or it is empty, as the files of /proc say of themselves
    """
    if not stat.S_ISREG(status.st_mode):
        raise LiteralError("it is not a regular file")
    if status.st_size == 0:
        raise LiteralError("it is an empty file")
    return status.st_size


def fetched(literal: Literal, storage: Storage, depth: int = 0) -> Literal:
    """Return `literal` with every reference to a stored literal, at any level, replaced by that literal.

    What holds no reference is the same object again. The size and the type in a reference are not compared with what is
    stored, as in flyte-sdk: the declared type decides.

    :raises LiteralError: something cannot be read, is not a literal, or is nested too deeply
    """
    if depth > MAX_DEPTH:
        raise too_deep()

    def fetch(child: Literal) -> Literal:
        return fetched(child, storage, depth + 1)

    if literal.offloaded_metadata is not None:
        uri = literal.offloaded_metadata.uri
        stored = storage.literal(uri)
        if stored.offloaded_metadata is not None:
            raise LiteralError(f"the literal stored at {quoted(uri)} is only a reference to another stored literal")
        return fetched(stored, storage, depth)
    if literal.collection is not None:
        items = literal.collection.literals
        found = each_item(fetch, items)
        if all(map(is_, found, items)):
            return literal
        return dataclasses.replace(literal, collection=LiteralCollection(literals=found))
    if literal.map is not None:
        entries = literal.map.literals
        by_key = each_entry(fetch, entries)
        if all(map(is_, by_key.values(), entries.values())):
            return literal
        return dataclasses.replace(literal, map=LiteralMap(literals=by_key))
    union = None if literal.scalar is None else literal.scalar.union
    if union is None or union.value is None or (value := fetch(union.value)) is union.value:
        return literal
    return dataclasses.replace(literal, scalar=Scalar(union=Union(value=value, type=union.type)))
