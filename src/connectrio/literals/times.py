"""Timestamps and durations: exact integer arithmetic from protobuf's nanoseconds to Python's microseconds and back."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import msgspec

from connectrio.idl.google.protobuf import Duration, Timestamp
from connectrio.literals.errors import LiteralError, quoted

__all__ = [
    "datetime_to_timestamp",
    "duration_to_timedelta",
    "parse_datetime",
    "parse_duration",
    "timedelta_to_duration",
    "timestamp_to_datetime",
    "utc",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MICROS = 1_000_000
_NANOS = 1_000_000_000
# 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z: the range of google.protobuf.Timestamp and of datetime
_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799
# the range of google.protobuf.Duration: ten thousand years
_LONGEST_SECONDS = 315_576_000_000
_SECONDS_TEXT = re.compile(r"([+-]?)([0-9]{1,15})(?:\.([0-9]{1,9}))?s", re.ASCII)


def timestamp_to_datetime(timestamp: Timestamp) -> datetime:
    """Return an aware datetime in UTC; nanoseconds are cut to microseconds.

    :raises LiteralError: outside of the years 1 to 9999, or nanoseconds below 0 or over a second
    """
    if not (_FIRST_SECOND <= timestamp.seconds <= _LAST_SECOND and 0 <= timestamp.nanos < _NANOS):
        raise LiteralError(
            f"a timestamp of {timestamp.seconds} s and {timestamp.nanos} ns is out of range (years 1 to 9999)"
        )
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def datetime_to_timestamp(value: datetime) -> Timestamp:
    """Return the timestamp of an aware datetime in UTC."""
    seconds, micros = divmod((value - _EPOCH) // _MICROSECOND, _MICROS)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


def utc(value: date) -> datetime:
    """Return a date or datetime as an aware datetime in UTC: naive times are taken as UTC, dates as their midnight.

    :raises LiteralError: in UTC it is outside of the years 1 to 9999
    """
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise LiteralError(f"datetime {value.isoformat()} is out of range in UTC (years 1 to 9999)") from error


def duration_to_timedelta(duration: Duration) -> timedelta:
    """Return the timedelta of a duration; nanoseconds are cut to microseconds, towards zero.

    :raises LiteralError: longer than a timedelta can be
    """
    nanos = duration.nanos
    micros = nanos // 1000 if nanos >= 0 else -(-nanos // 1000)
    try:
        return timedelta(seconds=duration.seconds, microseconds=micros)
    except OverflowError as error:
        raise LiteralError(f"a duration of {duration.seconds} s is out of range ({timedelta.max.days} days)") from error


def timedelta_to_duration(value: timedelta) -> Duration:
    """Return the duration of a timedelta; both parts have the same sign.

    :raises LiteralError: beyond ten thousand years
    """
    total = value // _MICROSECOND
    if abs(total) > _LONGEST_SECONDS * _MICROS:
        raise LiteralError(f"timedelta {value} is out of range (10000 years)")
    seconds, micros = divmod(abs(total), _MICROS)
    return Duration(seconds=seconds, nanos=micros * 1000) if total >= 0 else Duration(-seconds, -micros * 1000)


def parse_datetime(text: str) -> datetime:
    """Return the aware datetime in UTC of an ISO 8601 text; a text without an offset is in UTC.

    :raises LiteralError: the text is not ISO 8601
    """
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise LiteralError(f"expected datetime, got str {quoted(text)}, which is not ISO 8601") from None
    return utc(value)


def parse_duration(text: str) -> timedelta:
    """Return the timedelta of a text like `1.5s` (as protobuf writes it) or `PT1.5S` (ISO 8601).

    :raises LiteralError: the text is neither
    """
    match = _SECONDS_TEXT.fullmatch(text)
    if match is None:
        try:
            return msgspec.convert(text, timedelta)
        except (msgspec.ValidationError, UnicodeEncodeError):  # the second for lone surrogates
            raise LiteralError(
                f"expected timedelta, got str {quoted(text)}, which is neither seconds ('1.5s') nor ISO 8601 ('PT1.5S')"
            ) from None
    sign, whole, fraction = match.groups(default="")
    total = int(whole) * _MICROS + int(fraction[:6].ljust(6, "0"))
    try:
        return timedelta(microseconds=-total if sign == "-" else total)
    except OverflowError as error:
        raise LiteralError(f"a duration of {text} is out of range (10000 years)") from error
