"""Reading what a request only names: literals that were too large for it, and pickles. This blocks: use a thread."""

from __future__ import annotations

import importlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from connectrio.idl.flyteidl2.core import Literal
from connectrio.literals.describe import quoted, shortened
from connectrio.literals.errors import LiteralError

__all__ = ["Storage", "StorageError"]


class StorageError(LiteralError):
    """What is stored could not be read now; it may be that it can be later."""


class Storage:
    """Reads files, by path or `file://` URL, and whatever else fsspec has a filesystem for.

    :param limit: how many bytes may be read in all
    :param decode: makes a literal of its bytes; whatever it raises says that they are none
    """

    def __init__(self, limit: int, decode: Callable[[bytes], Literal]) -> None:
        self._limit = limit
        self._left = limit
        self._decode = decode

    def literal(self, uri: str) -> Literal:
        """The literal that is stored at `uri`.

        :raises StorageError: it cannot be read now
        :raises LiteralError: it cannot be read at all, is too large, or is no literal
        """
        data = self.read(uri)
        try:
            return self._decode(data)
        except Exception as error:
            # any: it is for the decoder to say which
            raise LiteralError(f"what is stored at {quoted(uri)} is no literal: {_reason(error)}") from error

    def read(self, uri: str) -> bytes:
        """What is stored at `uri`.

        :raises StorageError: it cannot be read now
        :raises LiteralError: it cannot be read at all, or is too large
        """
        name = quoted(uri)
        if not uri:
            raise LiteralError("it is said to be stored, but not where: its URI is empty")
        scheme = urlsplit(uri).scheme if "://" in uri else ""
        try:
            data = _read_url(uri, self._left + 1) if scheme not in ("", "file") else _read_file(uri, self._left + 1)
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
    path = Path(_local_path(uri))
    # a pipe or a device may have no end, or make whoever opens it wait
    if not stat.S_ISREG(path.stat().st_mode):
        raise LiteralError(f"what is stored at {quoted(uri)} is not a file")
    with path.open("rb") as file:
        return file.read(size)


def _local_path(uri: str) -> str:
    if not uri.startswith("file://"):
        return uri
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise LiteralError(f"{quoted(uri)} names a file on another machine")
    return unquote(parts.path)


def _read_url(uri: str, size: int) -> bytes:
    with _open_url(uri) as file:
        data: bytes = file.read(size)
    return data


def _open_url(uri: str) -> Any:
    try:
        fsspec = importlib.import_module("fsspec")  # of the extra, and slow to load
    except ImportError as error:
        raise LiteralError(
            f"reading {quoted(uri)} needs fsspec: pip install 'connectrio[fsspec]', and fsspec's package for"
            f" {urlsplit(uri).scheme}://"
        ) from error
    try:
        return fsspec.open(uri, "rb")
    except (ImportError, ValueError) as error:
        raise LiteralError(f"fsspec cannot open {quoted(uri)}: {_reason(error)}") from error
