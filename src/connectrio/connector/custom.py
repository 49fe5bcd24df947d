"""Reads a task's own configuration, `task_template.custom`."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, TypeVar, overload

import msgspec

from connectrio.connector.failures import InvalidRequestError
from connectrio.idl.flyteidl2.core import TaskTemplate

__all__ = ["read_custom"]

T = TypeVar("T")

# characters of a key that are shown, and compared with others
_LONGEST_KEY = 100
# flyte-sdk's own key: which environment variables hold the secrets of a local run
_OF_FLYTE = "secrets"


@overload
def read_custom(task_template: TaskTemplate) -> dict[str, Any]: ...
@overload
def read_custom(task_template: TaskTemplate, settings: type[T]) -> T: ...
def read_custom(task_template: TaskTemplate, settings: type[Any] | None = None) -> Any:
    """Return `task_template.custom`, the configuration that a task has for its connector, as Python values.

    Protobuf has one kind of number. Whole numbers come as `int`, others as `float`.

    :param settings: a dataclass with a field for each key; its defaults stand for keys that are left out. By default
        the result is a dictionary, empty if the task has no configuration
    :raises InvalidRequestError: a key is unknown or missing, or has a value of the wrong type, or none. flyte-sdk's
        key "secrets" may always be there
    """
    try:
        custom = {} if task_template.custom is None else _with_whole_numbers(task_template.custom.to_dict())
    except ValueError as error:
        raise InvalidRequestError("the task's custom has a value without a kind, which JSON cannot hold") from error
    if settings is None:
        return custom
    known = [field.name for field in dataclasses.fields(settings)]
    for key in sorted(custom.keys() - {*known, _OF_FLYTE}):
        key = key[:_LONGEST_KEY]  # noqa: PLW2901 - clients choose its length
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f": it may have {', '.join(map(repr, known)) or 'none'}"
        raise InvalidRequestError(f"the task's custom has the key {key!r}, which this connector does not know{hint}")
    try:
        return msgspec.convert({key: custom[key] for key in custom.keys() & {*known}}, settings)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"the task's custom does not fit {settings.__name__}: {error}") from None


def _with_whole_numbers(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _with_whole_numbers(item) for key, item in value.items()}
        case list():
            return [_with_whole_numbers(item) for item in value]
        case _:
            return value
