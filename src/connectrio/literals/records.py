"""Typed objects: what a struct with a JSON schema becomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError
from typing import Any, NoReturn

__all__ = ["Record"]


class Record(Mapping[str, Any]):
    """An object whose class is known by its JSON schema alone: a dataclass, a pydantic model or a TypedDict elsewhere.

    Its fields are attributes and items alike: `point.x` is `point["x"]`. A field hides the method of mappings that has
    the same name, so of a record with a field `items`, `record.items` is the field. Records cannot be changed, though
    the lists and dictionaries in them can. Two are equal if their titles and their fields are.

    :param title: the name of its class, where it has one
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
        raise AttributeError(f"{self._title} has no field {name!r}; it has {', '.join(self.__dict__) or 'none'}")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise FrozenInstanceError(f"{self._title}.{name} cannot be set: inputs cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"{self._title}.{name} cannot be deleted: inputs cannot be changed")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Record):
            return self._title == other._title and self.__dict__ == other.__dict__
        return self.__dict__ == other if isinstance(other, dict) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # the fields of most hold lists or dictionaries

    def __repr__(self) -> str:
        return f"{self._title}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, (self._title, dict(self.__dict__))

    def _asdict(self) -> dict[str, Any]:
        """This as a dictionary, and so all records in it; as that of a named tuple, it hides from fields' names."""
        return {name: _plain(value) for name, value in self.__dict__.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return {name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
