"""Timestamps and Durations in classes for which betterproto2 makes datetimes and timedeltas of them.

Python's classes hold less than the messages: whole microseconds, and only the years 1 to 9999. A message that they
cannot hold exactly is kept beside the value, so that it is written again as it came.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from betterproto2 import Message

from connectrio.rpc._codec.fields import MessageField

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NANOS = 10**9  # of a second
_MISSING = object()

# the attribute of a message that keeps what Python cannot hold: (Python's value, the message) by the value's id; or by
# the name of a field that has no value. The entry keeps the value alive, so that no other object gets its id
_KEPT = "_kept_times"


def is_time(field: MessageField) -> bool:
    """Return whether the field's values are datetimes or timedeltas in Python."""
    return field.wrapped and (hasattr(field.element, "to_datetime") or hasattr(field.element, "to_timedelta"))


def from_python(element: Any, value: Any) -> Message:
    """Return `value` as the Timestamp or Duration class `element`; one of that class stays as it is.

    :raises TypeError: it is no datetime, or no timedelta
    :raises ValueError: a datetime has no time zone
    """
    if value.__class__ is element:
        return value  # type: ignore[no-any-return]
    expected = datetime if hasattr(element, "to_datetime") else timedelta
    if not isinstance(value, expected):
        raise TypeError(f"expected {expected.__name__}, got {type(value).__name__}")
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("the datetime has no time zone")
        seconds, micros = divmod((value - _EPOCH) // _MICROSECOND, 10**6)
    else:
        # both parts have the sign of the whole
        total = value // _MICROSECOND
        seconds, micros = divmod(abs(total), 10**6)
        if total < 0:
            seconds, micros = -seconds, -micros
    message: Message = element(seconds=seconds, nanos=1000 * micros)
    return message


def to_python(owner: Message, time: Any) -> Any:
    """Return the Timestamp or Duration `time` of `owner` as Python's value, cut to microseconds.

    :raises OverflowError: Python's class cannot hold it
    """
    seconds, nanos = time.seconds, time.nanos
    if hasattr(time, "to_datetime"):
        value: Any = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
        is_valid = 0 <= nanos < _NANOS
    else:
        micros = nanos // 1000 if nanos >= 0 else -(-nanos // 1000)
        value = timedelta(seconds=seconds, microseconds=micros)
        is_valid = -_NANOS < nanos < _NANOS and seconds * nanos >= 0
    if not is_valid or nanos % 1000 or time._unknown_fields:  # noqa: SLF001 - part of what came
        _kept(owner)[id(value)] = value, time
    return value


def item_to_python(owner: Message, time: Message) -> Any:
    """Return the item `time` of a list or map of `owner` as Python's value; or as it is, if Python cannot hold it."""
    try:
        return to_python(owner, time)
    except OverflowError:
        return time


def as_received(owner: Message, value: Any) -> Any:
    """Return the message that `value`, which `owner` holds, was made of, if it was kept; or `value`."""
    kept = owner.__dict__.get(_KEPT)
    found = kept.get(id(value)) if kept else None
    return value if found is None else found[1]


def _kept(owner: Message) -> dict[int | str, tuple[Any, Message]]:
    kept: dict[int | str, tuple[Any, Message]] = owner.__dict__.setdefault(_KEPT, {})
    return kept


class TimeField:
    """A single Timestamp or Duration in a message class. Python's value is an attribute of the message, as always.

    A message whose time Python cannot hold has no such attribute; so Python finds this attribute of the class, which
    raises an error.
    """

    def __init__(self, field: MessageField) -> None:
        self._name = field.name
        self._element: Any = field.element

    @classmethod
    def of(cls, message_type: type[Message], field: MessageField) -> TimeField:
        """Return the one of that field of the class."""
        found = vars(message_type).get(field.name)
        if not isinstance(found, TimeField):
            found = cls(field)
            setattr(message_type, field.name, found)
        return found

    def __get__(self, message: Message | None, owner: type[Message]) -> Any:
        if message is None:
            return self
        time = self._kept_alone(message)
        if time is None:
            raise AttributeError(f"{owner.__name__} has no value of {self._name}")
        what, cls = self._element.__name__, "datetime" if hasattr(time, "to_datetime") else "timedelta"
        raise OverflowError(
            f"{owner.__name__}.{self._name} is a {what} of {time.seconds} s and {time.nanos} ns: Python's {cls} cannot"
            " hold it"
        )

    def read(self, message: Message) -> Any:
        """Return the time in `message`, as it came or as Python's value; None if there is none."""
        value = message.__dict__.get(self._name, _MISSING)
        return self._kept_alone(message) if value is _MISSING else as_received(message, value)

    def read_message(self, message: Message) -> Message | None:
        """Return the time in `message` as a Timestamp or Duration; None if there is none."""
        value = self.read(message)
        return None if value is None else from_python(self._element, value)

    def write(self, message: Message, time: Message) -> None:
        """Put the time into `message`."""
        try:
            setattr(message, self._name, to_python(message, time))
        except OverflowError:
            message.__dict__.pop(self._name, None)
            _kept(message)[self._name] = None, time

    def _kept_alone(self, message: Message) -> Any:
        kept = message.__dict__.get(_KEPT, {}).get(self._name)
        return None if kept is None else kept[1]
