"""The simple types: integer, float, string, boolean, datetime, duration, none, enum."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import Enum
from functools import cached_property
from typing import Any

from connectrio.idl.flyteidl2.core import Literal, Primitive, Scalar, Void
from connectrio.literals import times
from connectrio.literals.codecs import Codec, ConvertingCodec, encodable, primitive_of
from connectrio.literals.errors import LiteralError, describe_value, mismatch, quoted_names

__all__ = ["Boolean", "Datetime", "Duration", "Enumeration", "Float", "Integer", "Nothing", "String"]

_LEAST_INTEGER = -(2**63)
_GREATEST_INTEGER = 2**63 - 1


@dataclass(frozen=True)
class Integer(ConvertingCodec):
    """64-bit integers. A float without a fraction is taken too: user interfaces send `5.0` for 5.

    :ivar greatest: the greatest integer; literals have a sign, MessagePack has greater ones
    """

    greatest: int = _GREATEST_INTEGER
    label = "int"

    def to_python(self, literal: Literal) -> Any:
        primitive = primitive_of(literal)
        if primitive is not None:
            if primitive.integer is not None:
                return primitive.integer
            if primitive.float_value is not None:
                return self.from_plain(primitive.float_value)
        return self.unusual(literal)

    def from_plain(self, value: Any) -> int:
        if isinstance(value, float) and self.converts and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise mismatch(self.label, describe_value(value))
        if not _LEAST_INTEGER <= value <= self.greatest:
            raise LiteralError(f"{describe_value(value)} is out of range (64 bits with sign)")
        return value

    def to_literal(self, value: Any) -> Literal:
        return Literal(scalar=Scalar(primitive=Primitive(integer=self.from_plain(value))))


@dataclass(frozen=True)
class Float(ConvertingCodec):
    """Double-precision floats, NaN and infinities included. An integer is taken as a float."""

    label = "float"

    def to_python(self, literal: Literal) -> Any:
        primitive = primitive_of(literal)
        if primitive is not None:
            if primitive.float_value is not None:
                return primitive.float_value
            if primitive.integer is not None:
                return self.from_plain(primitive.integer)
        return self.unusual(literal)

    def from_plain(self, value: Any) -> float:
        if isinstance(value, float):
            return value
        if not self.converts or not isinstance(value, int) or isinstance(value, bool):
            raise mismatch(self.label, describe_value(value))
        try:
            return float(value)
        except OverflowError:
            raise LiteralError(f"{describe_value(value)} is out of range for a float") from None

    def to_literal(self, value: Any) -> Literal:
        return Literal(scalar=Scalar(primitive=Primitive(float_value=self.from_plain(value))))


@dataclass(frozen=True)
class String(Codec):
    """Unicode texts."""

    label = "str"

    def to_python(self, literal: Literal) -> Any:
        primitive = primitive_of(literal)
        if primitive is not None and primitive.string_value is not None:
            return primitive.string_value
        return self.unusual(literal)

    def from_plain(self, value: Any) -> str:
        if not isinstance(value, str) or isinstance(value, Enum):
            raise mismatch(self.label, describe_value(value))
        return value

    def to_literal(self, value: Any) -> Literal:
        return Literal(scalar=Scalar(primitive=Primitive(string_value=encodable(self.from_plain(value)))))


@dataclass(frozen=True)
class Boolean(Codec):
    """True or False only: no other value is taken for its truth."""

    label = "bool"

    def to_python(self, literal: Literal) -> Any:
        primitive = primitive_of(literal)
        if primitive is not None and primitive.boolean is not None:
            return primitive.boolean
        return self.unusual(literal)

    def from_plain(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise mismatch(self.label, describe_value(value))
        return value

    def to_literal(self, value: Any) -> Literal:
        return Literal(scalar=Scalar(primitive=Primitive(boolean=self.from_plain(value))))


@dataclass(frozen=True)
class Datetime(ConvertingCodec):
    """Times: aware datetimes in UTC. Naive datetimes are taken as UTC, dates as midnight, texts as ISO 8601."""

    label = "datetime"

    def to_python(self, literal: Literal) -> Any:
        primitive = primitive_of(literal)
        if primitive is not None and primitive.datetime is not None:
            return times.timestamp_to_datetime(primitive.datetime)
        return self.unusual(literal)

    def from_plain(self, value: Any) -> datetime:
        if isinstance(value, date):
            return times.utc(value)
        if self.converts and isinstance(value, str):
            return times.parse_datetime(value)
        raise mismatch(self.label, describe_value(value))

    def to_literal(self, value: Any) -> Literal:
        timestamp = times.datetime_to_timestamp(self.from_plain(value))
        return Literal(scalar=Scalar(primitive=Primitive(datetime=timestamp)))


@dataclass(frozen=True)
class Duration(ConvertingCodec):
    """Durations. A number is taken as seconds, a text as protobuf's `1.5s` or ISO 8601's `PT1.5S`."""

    label = "timedelta"

    def to_python(self, literal: Literal) -> Any:
        primitive = primitive_of(literal)
        if primitive is not None and primitive.duration is not None:
            return times.duration_to_timedelta(primitive.duration)
        return self.unusual(literal)

    def from_plain(self, value: Any) -> timedelta:
        if isinstance(value, timedelta):
            return value
        if self.converts and isinstance(value, str):
            return times.parse_duration(value)
        if self.converts and isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return timedelta(seconds=value)
            except (ValueError, OverflowError):
                raise LiteralError(f"{describe_value(value)} is out of range for seconds (10000 years)") from None
        raise mismatch(self.label, describe_value(value))

    def to_literal(self, value: Any) -> Literal:
        duration = times.timedelta_to_duration(self.from_plain(value))
        return Literal(scalar=Scalar(primitive=Primitive(duration=duration)))


@dataclass(frozen=True)
class Nothing(Codec):
    """None, as a literal that says so: an empty literal is an error."""

    label = "None"

    def to_python(self, literal: Literal) -> Any:
        if literal.scalar is not None and literal.scalar.none_type is not None:
            return None
        return self.unusual(literal)

    def from_plain(self, value: Any) -> None:
        if value is not None:
            raise mismatch(self.label, describe_value(value))

    def to_literal(self, value: Any) -> Literal:
        self.from_plain(value)
        return Literal(scalar=Scalar(none_type=Void()))


@dataclass(frozen=True)
class Enumeration(Codec):
    """One of the texts that an enum declares. A member of a Python enum is taken as its name."""

    values: tuple[str, ...]

    @cached_property
    def label(self) -> str:
        return f"enum[{quoted_names(self.values)}]"

    @cached_property
    def _members(self) -> frozenset[str]:
        return frozenset(self.values)

    def to_python(self, literal: Literal) -> Any:
        primitive = primitive_of(literal)
        if primitive is not None and primitive.string_value is not None:
            return self.from_plain(primitive.string_value)
        return self.unusual(literal)

    def from_plain(self, value: Any) -> str:
        name = value.name if isinstance(value, Enum) else value
        if not isinstance(name, str) or name not in self._members:
            raise mismatch(self.label, describe_value(value))
        return name

    def to_literal(self, value: Any) -> Literal:
        return Literal(scalar=Scalar(primitive=Primitive(string_value=encodable(self.from_plain(value)))))
