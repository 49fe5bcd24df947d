"""What a call sends, and sends again; without a connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectrio.rpc._client.attempts import Outbox
from connectrio.rpc._http2.stream import StreamTerminatedError, Termination, TerminationCause


class SlowStream:
    """Accepts a given number of bytes at a time."""

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
    assert len(outbox._messages) == (1 if not parts else 0)


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
    assert not outbox._messages


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
