"""What Flyte's references to stored data become in Python. They name the data; nothing here opens it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["DataFrame", "Dir", "File"]


@dataclass(frozen=True)
class _Blob:
    path: str
    name: str | None = None
    format: str = ""
    hash: str | None = None

    def __post_init__(self) -> None:
        if self.name is None:
            object.__setattr__(self, "name", PurePosixPath(self.path).name)


@dataclass(frozen=True)
class File(_Blob):
    """A file somewhere: a Flyte blob of one part.

    :ivar path: a path or a URL
    :ivar name: the file's name; the last part of `path` unless given
    :ivar format: what Flyte calls its format ("csv", "jpeg", …); "" says nothing
    :ivar hash: what Flyte's cache compares instead of the content, if anything
    """


@dataclass(frozen=True)
class Dir(_Blob):
    """A directory somewhere: a Flyte blob of many parts. Its fields are those of `File`."""


@dataclass(frozen=True)
class DataFrame:
    """A table somewhere: a Flyte structured dataset.

    :ivar uri: a path or a URL
    :ivar format: how it is stored ("parquet", "csv", …); "" says nothing
    :ivar hash: what Flyte's cache compares instead of the content, if anything
    """

    uri: str
    format: str = ""
    hash: str | None = None
