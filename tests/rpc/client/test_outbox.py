"""What a call sends, and when it may be sent again; without a connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from h2.errors import ErrorCodes
from hypothesis import given
from hypothesis import strategies as st

from connectrio.rpc._client.outbox import Outbox, Retries
from connectrio.rpc._http2.stream import StreamTerminatedError, Termination, TerminationCause


class SlowStream:
    """Accepts as many bytes at a time as it is told."""

    def __init__(self, accepts: Iterator[int] | None = None) -> None:
        self.accepts = accepts
        self.sent = b""
        self.is_ended = False
        self.headers = None
        self.termination: Termination | None = None

    def send_some(self, data: memoryview, *, end_stream: bool = False) -> int:
        if self.termination is not None:
            raise StreamTerminatedError(self.termination)
        assert not self.is_ended
        count = len(data) if self.accepts is None else min(len(data), next(self.accepts, len(data)))
        self.sent += bytes(data[:count])
        self.is_ended = end_stream and count == len(data)
        return count


messages = st.lists(st.binary(min_size=1, max_size=30), max_size=8)
sizes = st.lists(st.integers(min_value=0, max_value=12), max_size=30)


@given(messages, sizes, sizes)
def test_every_byte_goes_out_once_and_again_when_asked(parts, first_sizes, second_sizes):
    outbox = Outbox(limit=1000)
    first, second = SlowStream(iter(first_sizes)), SlowStream(iter(second_sizes))
    for part in parts:
        outbox.add(part, end=False)
        outbox.push(first)
    assert b"".join(parts).startswith(first.sent)

    outbox.rewind()
    outbox.end()
    for _ in range(100):
        if outbox.push(second):
            break
    assert second.sent == b"".join(parts)
    assert second.is_ended


@given(messages, sizes)
def test_what_was_sent_is_forgotten_once_it_will_not_be_needed(parts, sizes):
    outbox = Outbox(limit=1000)
    stream = SlowStream(iter(sizes))
    for number, part in enumerate(parts):
        outbox.add(part, end=False)
        outbox.push(stream)
        if number == len(parts) // 2:
            outbox.commit()
    outbox.end()
    for _ in range(100):
        if outbox.push(stream):
            break
    assert stream.sent == b"".join(parts)
    assert stream.is_ended
    assert outbox.is_replayable == (not parts)
    assert len(outbox._waiting) == (1 if not parts else 0)


def test_beyond_the_limit_nothing_is_kept():
    outbox, stream = Outbox(limit=10), SlowStream()
    outbox.add(b"12345", end=False)
    outbox.push(stream)
    assert outbox.is_replayable
    outbox.add(b"678901", end=True)
    assert not outbox.is_replayable
    outbox.push(stream)
    assert stream.sent == b"12345678901"
    assert stream.is_ended
    assert not outbox._waiting


def test_a_single_message_beyond_the_limit_is_sent_all_the_same():
    outbox, stream = Outbox(limit=10), SlowStream(iter([7, 7]))
    outbox.add(bytes(20), end=True)
    assert [outbox.push(stream) for _ in range(3)] == [False, False, True]
    assert stream.sent == bytes(20)


def test_ending_twice_is_ending_once():
    outbox, stream = Outbox(limit=10), SlowStream()
    outbox.end()
    outbox.end()
    assert outbox.push(stream)
    assert outbox.push(stream)
    assert stream.is_ended


def test_nothing_is_counted_as_sent_that_a_stream_did_not_take():
    outbox, dead, alive = Outbox(limit=10), SlowStream(iter([2])), SlowStream()
    outbox.add(b"12345", end=True)
    assert not outbox.push(dead)
    dead.termination = Termination(TerminationCause.CONNECTION_LOST)
    with pytest.raises(StreamTerminatedError):
        outbox.push(dead)
    outbox.rewind()
    assert outbox.push(alive)
    assert alive.sent == b"12345"


def cut_short(cause: TerminationCause, code: ErrorCodes | None = None) -> SlowStream:
    stream = SlowStream()
    stream.termination = Termination(cause, code)
    return stream


REFUSED = [
    (TerminationCause.RESET_BY_PEER, ErrorCodes.REFUSED_STREAM),
    (TerminationCause.UNPROCESSED, ErrorCodes.NO_ERROR),
    (TerminationCause.UNPROCESSED, ErrorCodes.ENHANCE_YOUR_CALM),
]


@pytest.mark.parametrize(("cause", "code"), REFUSED)
def test_a_refused_call_is_repeated_a_number_of_times(cause, code):
    retries, stream = Retries(), cut_short(cause, code)
    for _ in range(7):
        assert retries.allow(stream)
        assert retries.allow(stream), "asking is not repeating"
        retries.count(stream)
    assert not retries.allow(stream)


def test_it_is_repeated_at_once_and_then_after_pauses_that_grow():
    retries, stream = Retries(), cut_short(*REFUSED[0])
    pauses = []
    while retries.allow(stream):
        pauses.append(retries.pause())
        retries.count(stream)
    assert pauses[0] == 0
    for number, pause in enumerate(pauses[1:]):
        assert 0.005 * 2**number <= pause <= 0.015 * 2**number
    assert 0.3 < sum(pauses) < 1


def test_a_call_that_never_left_is_repeated_for_ever():
    retries, stream = Retries(), cut_short(TerminationCause.NEVER_SENT)
    for _ in range(100):
        assert retries.allow(stream)
        retries.count(stream)
    assert retries.allow(cut_short(*REFUSED[0])), "that did not count"


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (TerminationCause.CONNECTION_LOST, None),
        (TerminationCause.RESET_BY_US, ErrorCodes.REFUSED_STREAM),
        *[
            (TerminationCause.RESET_BY_PEER, code)
            for code in [None, *ErrorCodes]
            if code is not ErrorCodes.REFUSED_STREAM
        ],
    ],
)
def test_a_call_that_a_server_may_have_seen_is_not_repeated(cause, code):
    assert not Retries().allow(cut_short(cause, code))


@pytest.mark.parametrize("cause", [TerminationCause.NEVER_SENT, TerminationCause.UNPROCESSED])
def test_a_call_that_was_answered_is_not_repeated(cause):
    stream = cut_short(cause)
    stream.headers = [(":status", "200")]
    assert not Retries().allow(stream)


def test_a_call_that_goes_on_is_not_repeated():
    assert not Retries().allow(SlowStream())
