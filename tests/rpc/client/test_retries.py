"""When a call may be repeated, without a call."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes

from connectrio.rpc import ChannelOptions
from connectrio.rpc._client.attempts import Retries
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.stream import Stream, Termination, TerminationCause


def cut_short(cause: TerminationCause, code: ErrorCodes | None = None) -> Stream:
    stream = a_stream()
    stream.termination = Termination(cause, code)
    return stream


def a_stream() -> Stream:
    return Stream(ClientConnection(ChannelOptions()), 1)


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
        pauses.append(retries.pause)
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
    assert not Retries().allow(a_stream())
