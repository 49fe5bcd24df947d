"""Timestamps and Durations where they are datetimes and timedeltas, as betterproto2's compiler makes them."""

from __future__ import annotations

import copy
from dataclasses import make_dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import betterproto2
import pytest
from google.protobuf import duration_pb2, timestamp_pb2
from hypothesis import given
from hypothesis import strategies as st

from connectrio.idl.google.protobuf import Duration, Timestamp
from connectrio.rpc.codec import EncodeError, decode, encode
from idl.wire import delimited, number

LARGE = 2**62
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def field(index: int, element: Any, **options: Any) -> Any:
    return betterproto2.field(index, betterproto2.TYPE_MESSAGE, unwrap=lambda: element, **options)


def mapped(index: int, element: Any) -> Any:
    meta = betterproto2.map_meta(betterproto2.TYPE_STRING, betterproto2.TYPE_MESSAGE, unwrap_2=lambda: element)
    return betterproto2.field(index, betterproto2.TYPE_MAP, map_meta=meta)


Times: Any = make_dataclass(
    "Times",
    [
        ("at", datetime | None, field(1, Timestamp, optional=True)),
        ("lasts", timedelta | None, field(2, Duration, optional=True)),
        ("name", str, betterproto2.field(3, betterproto2.TYPE_STRING)),
        ("when", datetime | None, field(4, Timestamp, optional=True, group="pick")),
        ("never", bool | None, betterproto2.field(5, betterproto2.TYPE_BOOL, optional=True, group="pick")),
        ("all_at", list[datetime], field(6, Timestamp, repeated=True)),
        ("all_last", list[timedelta], field(7, Duration, repeated=True)),
        ("named", dict[str, datetime], mapped(8, Timestamp)),
    ],
    bases=(betterproto2.Message,),
    eq=False,
    repr=False,
)
Around: Any = make_dataclass(
    "Around",
    [("times", Times | None, betterproto2.field(1, betterproto2.TYPE_MESSAGE, optional=True))],
    bases=(betterproto2.Message,),
    eq=False,
    repr=False,
)


def stamp(seconds: int = 0, nanos: int = 0) -> bytes:
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos).SerializeToString()


def span(seconds: int = 0, nanos: int = 0) -> bytes:
    return duration_pb2.Duration(seconds=seconds, nanos=nanos).SerializeToString()


seconds = st.one_of(st.sampled_from([0, 1, -1, 253402300799, 253402300800, -62135596800, -62135596801, LARGE]))
nanos = st.sampled_from(
    [0, 1, -1, 999, 1000, -1000, 500_000_000, -500_000_000, 999_999_999, 10**9, -(10**9), 2**31 - 1]
)


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1) | seconds, nanos), max_size=4))
def test_whatever_came_is_written_again(pairs):
    data = b"".join(delimited(1, stamp(*pair)) for pair in pairs[:1])
    data += b"".join(delimited(2, span(*pair)) for pair in pairs[:1])
    data += b"".join(delimited(4, stamp(*pair)) for pair in pairs[:1])
    data += b"".join(delimited(6, stamp(*pair)) for pair in pairs)
    data += b"".join(delimited(7, span(*pair)) for pair in pairs)
    data += b"".join(
        delimited(8, delimited(1, str(index).encode()) + delimited(2, stamp(*pair))) for index, pair in enumerate(pairs)
    )
    message = decode(data, Times)
    assert encode(message) == data
    assert encode(decode(encode(message), Times)) == data


@given(st.timedeltas())
def test_durations_are_as_protobufs(lasts):
    theirs = duration_pb2.Duration()
    # protobuf's own conversion stops at 10,000 years
    part = lasts % timedelta(days=3_000_000) if lasts > timedelta() else -(-lasts % timedelta(days=3_000_000))
    theirs.FromTimedelta(part)
    data = encode(Times(lasts=part))
    assert data == delimited(2, theirs.SerializeToString())
    assert decode(data, Times).lasts == part
    assert decode(encode(Times(lasts=lasts)), Times).lasts == lasts


@pytest.mark.parametrize(
    ("lasts", "parts"),
    [
        (timedelta(seconds=-1.5), (-1, -500_000_000)),
        (timedelta(seconds=-0.25), (0, -250_000_000)),
        (timedelta(seconds=1.5), (1, 500_000_000)),
        (timedelta(microseconds=-1), (0, -1000)),
    ],
)
def test_both_parts_of_a_duration_have_its_sign(lasts, parts):
    data = delimited(2, span(*parts))
    assert encode(Times(lasts=lasts)) == data
    assert decode(data, Times).lasts == lasts


def test_nanoseconds_are_cut_to_what_python_holds():
    message = decode(delimited(1, stamp(-1, 999_999_999)) + delimited(2, span(-1, -1999)), Times)
    assert message.at == datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)
    assert message.lasts == timedelta(seconds=-1, microseconds=-1)


def test_a_datetime_of_another_zone_is_the_same_instant():
    at = datetime(2020, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert decode(encode(Times(at=at)), Times).at == at


class TestWhatPythonCannotHold:
    data = delimited(1, stamp(LARGE, 5)) + delimited(2, span(-LARGE)) + delimited(3, b"n") + delimited(4, stamp(LARGE))

    def test_costs_its_own_field_alone(self):
        message = decode(self.data, Times)
        assert message.name == "n"
        assert message.never is None
        message.name = "m"
        assert encode(message) == self.data.replace(b"\1n", b"\1m")

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("at", f"Times.at is a Timestamp of {LARGE} s and 5 ns: Python's datetime cannot hold it"),
            ("lasts", f"Times.lasts is a Duration of {-LARGE} s and 0 ns: Python's timedelta cannot hold it"),
            ("when", f"Times.when is a Timestamp of {LARGE} s and 0 ns: Python's datetime cannot hold it"),
        ],
    )
    def test_is_an_error_where_it_is_read(self, name, text):
        with pytest.raises(OverflowError) as caught:
            getattr(decode(self.data, Times), name)
        assert str(caught.value) == text

    def test_is_replaced_by_what_is_assigned(self):
        message = decode(self.data, Times)
        message.at, message.lasts, message.when = EPOCH, None, None
        assert encode(message) == delimited(1) + delimited(3, b"n")
        message.at = None
        assert encode(message) == delimited(3, b"n")

    def test_stays_as_it_came_in_a_list_and_in_a_map(self):
        entry = delimited(8, delimited(1, b"k") + delimited(2, stamp(LARGE)))
        message = decode(delimited(6, stamp(1)) + delimited(6, stamp(LARGE)) + delimited(7, span(LARGE)) + entry, Times)
        assert message.all_at == [EPOCH + timedelta(seconds=1), Timestamp(seconds=LARGE)]
        assert message.all_last == [Duration(seconds=LARGE)]
        assert message.named == {"k": Timestamp(seconds=LARGE)}

    def test_is_no_obstacle_to_naming_another_field(self):
        message = decode(self.data, Times)
        message.name = 5
        with pytest.raises(EncodeError, match=r"^Times\.name: expected str, got int"):
            encode(message)

    def test_other_messages_of_the_class_are_as_ever(self):
        decode(self.data, Times)
        assert Times().at is None
        assert repr(Times(at=EPOCH)) == f"Times(at={EPOCH!r})"
        assert copy.copy(Times(at=EPOCH)) == Times(at=EPOCH)


def test_a_changed_time_is_written_as_it_is_now():
    message = decode(delimited(1, stamp(1, 123)) + delimited(6, stamp(2, 456)), Times)
    message.at += timedelta(seconds=1)
    message.all_at[0] = EPOCH
    message.all_at.append(EPOCH + timedelta(seconds=3))
    assert encode(message) == delimited(1, stamp(2)) + delimited(6, stamp()) + delimited(6, stamp(3))


def test_what_a_time_has_that_we_do_not_know_is_kept():
    data = delimited(1, stamp(5) + number(9, 1)) + delimited(7, span(5) + number(9, 1))
    message = decode(data, Times)
    assert message.at == EPOCH + timedelta(seconds=5)
    assert encode(message) == data


def test_messages_are_taken_in_place_of_pythons_values():
    assert encode(Times(at=Timestamp(seconds=LARGE))) == delimited(1, stamp(LARGE))


class TestMerging:
    """A message that comes twice is merged, also where Python has a value in place of the message."""

    def test_parts_of_a_time(self):
        data = (
            delimited(1, stamp(5)) + delimited(1, stamp(0, 7000)) + delimited(2, span(-5)) + delimited(2, span(0, -7))
        )
        message = decode(data, Times)
        assert message.at == EPOCH + timedelta(seconds=5, microseconds=7)
        assert encode(message) == delimited(1, stamp(5, 7000)) + delimited(2, span(-5, -7))

    def test_a_time_that_python_cannot_hold(self):
        assert decode(delimited(1, stamp(LARGE)) + delimited(1, stamp(1)), Times).at == EPOCH + timedelta(seconds=1)
        message = decode(delimited(1, stamp(LARGE, 1)) + delimited(1, stamp(0, 2)), Times)
        assert encode(message) == delimited(1, stamp(LARGE, 2))

    def test_in_a_message_that_comes_twice(self):
        inner = delimited(1, stamp(5, 1)) + delimited(4, stamp(LARGE)) + delimited(6, stamp(1, 1))
        again = delimited(1, stamp(6)) + delimited(6, stamp(LARGE))
        message = decode(delimited(1, inner) + delimited(1, again), Around)
        assert encode(message) == delimited(
            1,
            delimited(1, stamp(6, 1))
            + delimited(4, stamp(LARGE))
            + delimited(6, stamp(1, 1))
            + delimited(6, stamp(LARGE)),
        )

    def test_the_value_of_a_map_entry(self):
        entry = delimited(1, b"k") + delimited(2, stamp(5)) + delimited(2, stamp(0, 7000))
        assert decode(delimited(8, entry), Times).named == {"k": EPOCH + timedelta(seconds=5, microseconds=7)}

    def test_the_last_member_of_a_oneof_wins(self):
        message = decode(delimited(4, stamp(LARGE)) + number(5, 1), Times)
        assert (message.when, message.never) == (None, True)
        message = decode(number(5, 1) + delimited(4, stamp(1)), Times)
        assert (message.when, message.never) == (EPOCH + timedelta(seconds=1), None)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Times(at=datetime(2020, 1, 1)), "Times.at: the datetime has no time zone"),  # noqa: DTZ001
        (Times(at="now"), "Times.at: expected datetime, got str"),
        (Times(lasts=5), "Times.lasts: expected timedelta, got int"),
        (Times(all_at=[EPOCH, 5]), "Times.all_at: expected datetime, got int"),
        (Times(named={"k": 5}), "Times.named: expected datetime, got int"),
    ],
)
def test_what_is_no_time_is_named(message, text):
    with pytest.raises(EncodeError) as caught:
        encode(message)
    assert str(caught.value).startswith(text)
