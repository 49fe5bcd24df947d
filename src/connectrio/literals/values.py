"""The classes that represent Flyte's files, directories, data frames and typed structs in Python.

`File`, `Dir` and `DataFrame` only name stored data; nothing here opens it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError, dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NoReturn, Self

__all__ = ["DataFrame", "Dir", "File", "Record"]


_LONGEST_NAME = 4096
_MANY_FIELDS = 10


@dataclass(frozen=True)
class _Blob:
    path: str
    name: str | None = None
    format: str = ""
    hash: str | None = None

    def __post_init__(self) -> None:
        if self.name is None:
            # of the end alone: a path of megabytes can have a million parts
            object.__setattr__(self, "name", PurePosixPath(str(self.path)[-_LONGEST_NAME:]).name)

    @classmethod
    def from_existing_remote(cls, remote_path: str, cache_key: str | None = None) -> Self:
        """Name what is stored already, as flyte-sdk's classes do it.

        :param remote_path: a path or a URL
        :param cache_key: what Flyte's cache compares instead of the content, if anything
        """
        return cls(remote_path, hash=cache_key)


@dataclass(frozen=True)
class File(_Blob):
    """A stored file: a Flyte blob of one part.

    :ivar path: a path or a URL
    :ivar name: the file's name; the last part of `path` by default
    :ivar format: Flyte's name of its format ("csv", "jpeg", …); "" if unknown
    :ivar hash: what Flyte's cache compares instead of the content, if anything
    """


@dataclass(frozen=True)
class Dir(_Blob):
    """A stored directory: a Flyte blob of many parts. Its fields are those of `File`."""


@dataclass(frozen=True)
class DataFrame:
    """A stored table: a Flyte structured dataset.

    :ivar uri: a path or a URL
    :ivar format: how it is stored ("parquet", "csv", …); "" if unknown
    :ivar hash: what Flyte's cache compares instead of the content, if anything
    """

    uri: str
    format: str = ""
    hash: str | None = None


class Record(Mapping[str, Any]):
    """An object whose class is known only by its JSON schema: the sender's dataclass, pydantic model or TypedDict.

    Its fields are attributes and items: `point.x` is `point["x"]`. A field hides the method of mappings that has the
    same name: if a record has a field `items`, `record.items` is the field. A record cannot be changed, but lists and
    dictionaries in it can. Two records are equal if their titles and their fields are equal.

    :param title: the name of the sender's class; "object" if it has none
    :param fields: field name → value
    """

    __slots__ = ("__dict__", "_title")
    _title: str

    def __init__(self, title: str, fields: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_title", title)
        self.__dict__.update(fields)

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__

    def __getattr__(self, name: str) -> Any:
        fields = [*islice(self.__dict__, _MANY_FIELDS), *(["…"] if len(self.__dict__) > _MANY_FIELDS else [])]
        raise AttributeError(f"{self._title} has no field {name!r}; it has {', '.join(fields) or 'none'}")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise FrozenInstanceError(f"{self._title}.{name} cannot be set: inputs cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"{self._title}.{name} cannot be deleted: inputs cannot be changed")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Record):
            return self._title == other._title and self.__dict__ == other.__dict__
        return self.__dict__ == other if isinstance(other, dict) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # fields often hold lists or dictionaries

    def __repr__(self) -> str:
        return f"{self._title}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, (self._title, dict(self.__dict__))

    def _asdict(self) -> dict[str, Any]:
        """Return this record and all records in it as dictionaries. The name, as in named tuples, hides no field."""
        return {name: _without_records(value) for name, value in self.__dict__.items()}


def _without_records(value: Any) -> Any:
    if isinstance(value, Record):
        return {name: _without_records(item) for name, item in vars(value).items()}
    if isinstance(value, dict):
        return {key: _without_records(item) for key, item in value.items()}
    return [_without_records(item) for item in value] if isinstance(value, list) else value
