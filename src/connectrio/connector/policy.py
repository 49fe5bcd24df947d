"""What a host keeps to when it calls the system behind a connector, as the connector's author and the operator say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

__all__ = ["ConnectorPolicy", "Policies"]


@dataclass(frozen=True, kw_only=True)
class ConnectorPolicy:
    """The options of one connector. Times are in seconds; 0 turns an option off, unless it says otherwise.

    An author states them as the class variable `policy`. The setting `connector_options` overrides single ones for any
    connector. Limits hold for each account of the other system, in each process of each host.

    :ivar rate_calls: the most calls of `create`, `get`, `get_many` and `delete` within `rate_seconds`. If a method
        sends several requests to the other system, set it lower accordingly. Polls above it are answered with the last
        known phase and its age, creates and deletes wait
    :ivar rate_seconds: the time in which `rate_calls` calls may begin
    :ivar max_vendor_calls: the most of these calls at once
    :ivar breaker_failures: how many calls fail in a row, because the other system is at fault, before no more are made
        for `breaker_pause`; then one is made to see whether it is back
    :ivar breaker_pause: the time without calls
    :ivar account_names: the names of the secrets and configs of a request's connection that say which account of the
        other system it uses. By default all of them count ("*"); with none, all requests share one account
    :ivar poll_max_age: how old a state of a job may be when a poll is answered with it, for connectors with `get_many`
    :ivar many_limit: the most jobs in one call of `get_many`
    :ivar transient: errors that may pass, beside those that `is_transient` names: classes by their names
        ("myvendor.Busy", in any module of that package) and HTTP statuses ("409"). An error that was raised from one of
        them counts too
    :ivar at_most_once: whether a job is rather not created than perhaps twice. Where hosts share a job store, `create`
        is then not called while the store is away, and not again for a job whose host has ended in the middle of
        `create`: the client gets an error. Of no use with `create_is_idempotent`, which finds such a job
    """

    rate_calls: int = 0
    rate_seconds: float = 1.0
    max_vendor_calls: int = 0
    breaker_failures: int = 0
    breaker_pause: float = 30.0
    account_names: tuple[str, ...] = ("*",)
    poll_max_age: float = 20.0
    many_limit: int = 100
    transient: tuple[str, ...] = ()
    at_most_once: bool = False

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(each.name, str(each.type), getattr(self, each.name))


class Policies:
    """The policy of each connector: its author's, with the options that the operator has set.

    :param options: `TYPE.OPTION=VALUE`, the last one of several for the same option counts. A task type may have dots;
        several values are separated by commas
    :raises ValueError: one has another form, an unknown option, or a value that the option does not take
    """

    def __init__(self, options: Iterable[str] = ()) -> None:
        self._overrides: dict[str, dict[str, Any]] = {}
        for text in options:
            task_type, name, value = _read(text)
            self._overrides.setdefault(task_type, {})[name] = value

    @property
    def task_types(self) -> list[str]:
        """The task types for which options are set."""
        return list(self._overrides)

    def of(self, task_type: str, policy: ConnectorPolicy) -> ConnectorPolicy:
        """Return the policy of a connector for a task type.

        :param policy: what its author has stated
        """
        overrides = self._overrides.get(task_type)
        return replace(policy, **overrides) if overrides else policy


def _read(text: Any) -> tuple[str, str, Any]:
    """Return the task type, the name of the option and its value.

    :raises ValueError: see `Policies`
    """
    left, equals, written = text.partition("=") if isinstance(text, str) else ("", "", "")
    task_type, _, name = left.rpartition(".")
    if not (equals and task_type and name):
        raise ValueError(f"must be of the form TYPE.OPTION=VALUE, such as snowflake.rate_calls=30, got {text!r}")
    kinds = {each.name: str(each.type) for each in fields(ConnectorPolicy)}
    if name not in kinds:
        import difflib  # most hosts have no such mistake

        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"must name options that exist, got {text!r}: {hint}There are {', '.join(kinds)}")
    try:
        value = _convert(kinds[name], written.strip())
        _check(name, kinds[name], value)
    except ValueError as error:
        raise ValueError(f"must have values that their options take, got {text!r}: {error}") from None
    return task_type, name, value


def _convert(kind: str, written: str) -> Any:
    """Return the value of an option of this type from its text.

    :raises ValueError: it is none
    """
    if kind == "tuple[str, ...]":
        return tuple([word for word in map(str.strip, written.split(",")) if word])
    try:
        return _READERS[kind](written)
    except (KeyError, ValueError):
        raise ValueError(f"{written!r} is not {_KINDS[kind]}") from None


_READERS: dict[str, Callable[[str], Any]] = {
    "bool": {"true": True, "false": False}.__getitem__,
    "int": int,
    "float": float,
}
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number"}


def _check(name: str, kind: str, value: Any) -> None:
    """Check the value of an option.

    :raises ValueError: it is of another type, or out of bounds
    """
    if kind == "tuple[str, ...]":
        if not isinstance(value, tuple) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"{name} must be a tuple of texts, got {value!r}")
        for word in value if name == "transient" else ():
            if _TRANSIENT.fullmatch(word) is None:
                raise ValueError(f"transient must name classes such as myvendor.Busy, or HTTP statuses, got {word!r}")
        return
    if kind == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")
        return
    is_number = isinstance(value, int if kind == "int" else int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise ValueError(f"{name} must be {_KINDS[kind]}, got {value!r}")
    is_positive = name in _POSITIVE
    if value < 0 or (is_positive and value == 0):
        raise ValueError(f"{name} must {'be more than 0' if is_positive else 'not be negative'}, got {value!r}")


# a class with its package, or an HTTP status that says that a request has failed
_TRANSIENT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+|[45]\d\d")
_POSITIVE = {"rate_seconds", "breaker_pause", "poll_max_age", "many_limit"}
