"""When a call may be repeated, without a call."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes

from connectrio.rpc import ChannelOptions, RetryPolicy, RetryThrottling, Status
from connectrio.rpc._client.retries import Retries, RetryTokens
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.stream import Stream, Termination, TerminationCause

RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]


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


def pauses(retries: Retries, *streams: Stream, may_repeat: bool = True) -> list[float | None]:
    return [retries.pause_after(stream, may_repeat=may_repeat) for stream in streams]


def refused(count: int) -> list[Stream]:
    return [cut_short(*REFUSED[0]) for _ in range(count)]


@pytest.mark.parametrize(("cause", "code"), REFUSED)
def test_a_refused_call_is_repeated_a_number_of_times(cause, code):
    found = pauses(Retries(), *[cut_short(cause, code) for _ in range(9)])
    assert [pause is not None for pause in found] == [True] * 7 + [False] * 2


def test_it_is_repeated_at_once_and_then_after_pauses_that_grow():
    first, *rest = pauses(Retries(), *refused(7))
    assert first == 0
    for number, pause in enumerate(rest):
        assert 0.005 * 2**number <= pause <= 0.015 * 2**number
    assert 0.3 < sum(rest) < 1


def test_asking_again_changes_nothing():
    retries, streams = Retries(), refused(7)
    for stream in streams:
        assert len(set(pauses(retries, *[stream] * 10))) == 1
    assert pauses(retries, *refused(1)) == [None]


def test_a_call_that_never_left_is_repeated_for_ever():
    retries = Retries()
    assert pauses(retries, *[cut_short(TerminationCause.NEVER_SENT) for _ in range(100)]) == [0] * 100
    assert pauses(retries, *refused(1)) == [0], "that did not count"


def test_a_call_that_cannot_be_sent_again_is_not_repeated():
    assert pauses(Retries(), *refused(1), cut_short(TerminationCause.NEVER_SENT), may_repeat=False) == [None, None]


SEEN = [
    (TerminationCause.CONNECTION_LOST, None),
    (TerminationCause.RESET_BY_US, ErrorCodes.REFUSED_STREAM),
    *[(TerminationCause.RESET_BY_PEER, code) for code in [None, *ErrorCodes] if code is not ErrorCodes.REFUSED_STREAM],
]


@pytest.mark.parametrize(("cause", "code"), SEEN)
def test_a_call_that_a_server_may_have_seen_is_not_repeated(cause, code):
    assert pauses(Retries(), cut_short(cause, code)) == [None]


@pytest.mark.parametrize("cause", [TerminationCause.NEVER_SENT, TerminationCause.UNPROCESSED])
def test_a_call_that_was_answered_is_not_repeated(cause):
    stream = cut_short(cause)
    stream.headers = RESPONSE
    assert pauses(Retries(RetryPolicy()), stream) == [None]


def test_a_call_that_goes_on_is_not_repeated():
    assert pauses(Retries(RetryPolicy()), a_stream()) == [None]


# policies


def ended(status: Status, *more: tuple[str, str], http: str = "200") -> Stream:
    """A call that the server has ended with nothing but a status."""
    stream = a_stream()
    stream.headers = [(":status", http), *RESPONSE[1:], ("grpc-status", str(status.value)), *more]
    stream.is_trailers_only = True
    stream.is_complete = True
    return stream


def unavailable(pushback: str | None = None) -> Stream:
    return ended(Status.UNAVAILABLE, *([("grpc-retry-pushback-ms", pushback)] if pushback is not None else []))


def test_a_policy_makes_a_number_of_attempts():
    retries = Retries(RetryPolicy(max_attempts=3))
    first, second, third = pauses(retries, unavailable(), unavailable(), unavailable())
    assert 0.08 <= first <= 0.12
    assert 0.16 <= second <= 0.24
    assert third is None
    assert retries.previous_attempts == 2


def test_pauses_grow_to_the_longest():
    policy = RetryPolicy(max_attempts=10, initial_backoff=2, max_backoff=5, backoff_multiplier=2)
    for pause, middle in zip(pauses(Retries(policy), *[unavailable() for _ in range(5)]), [2, 4, 5, 5, 5], strict=True):
        assert middle * 0.8 <= pause <= middle * 1.2
    [pause] = pauses(Retries(RetryPolicy(initial_backoff=9, max_backoff=1)), unavailable())
    assert 0.8 <= pause <= 1.2


@pytest.mark.parametrize(
    ("stream", "is_retried"),
    [
        (ended(Status.UNAVAILABLE), True),
        (ended(Status.ABORTED), True),
        (ended(Status.INTERNAL), False),
        (ended(Status.OK), False),
        (cut_short(TerminationCause.CONNECTION_LOST), True),
        (cut_short(TerminationCause.RESET_BY_PEER, ErrorCodes.INTERNAL_ERROR), False),
    ],
)
def test_which_failures_are_retried(stream: Stream, is_retried: bool):
    policy = RetryPolicy(retryable_status_codes=[Status.UNAVAILABLE, Status.ABORTED])
    assert (pauses(Retries(policy), stream) != [None]) == is_retried


@pytest.mark.parametrize(("http", "is_retried"), [("503", True), ("404", False)])
def test_an_http_error_has_a_status_too(http: str, is_retried: bool):
    stream = a_stream()
    stream.headers = [(":status", http), ("content-type", "text/html")]
    assert (pauses(Retries(RetryPolicy()), stream) != [None]) == is_retried


def test_refusals_are_repeated_before_the_policy_counts():
    retries = Retries(RetryPolicy(max_attempts=2))
    assert None not in pauses(retries, *refused(7))
    assert retries.previous_attempts == 0
    first, second = pauses(retries, *refused(2))
    assert (first is not None, second, retries.previous_attempts) == (True, None, 1)


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        ("0", 0),
        ("50", 0.05),
        ("2147483647", 2147483.647),
        ("2147483648", None),
        ("-1", None),
        ("", None),
        ("05", None),
        ("+5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
    ],
)
def test_a_server_names_the_pause_or_forbids_a_retry(value: str, pause: float | None):
    assert pauses(Retries(RetryPolicy()), unavailable(value)) == [pause]


def test_after_a_pause_that_the_server_has_named_pauses_begin_anew():
    policy = RetryPolicy(max_attempts=10, initial_backoff=1, max_backoff=100)
    found = pauses(Retries(policy), unavailable(), unavailable(), unavailable("7000"), unavailable())
    assert found[2] == 7
    assert found[3] <= 1.2


def test_a_server_that_names_a_pause_makes_no_status_retryable():
    assert pauses(Retries(RetryPolicy()), ended(Status.INTERNAL, ("grpc-retry-pushback-ms", "1"))) == [None]


# tokens


def call(tokens: RetryTokens, *streams: Stream, status: Status, policy: RetryPolicy | None = None) -> int:
    """Make a call that fails on these streams in turn, and ends with the status; how often it was retried."""
    retries = Retries(policy, tokens)
    count = 0
    for stream in streams:
        if retries.pause_after(stream, may_repeat=True) is None:
            break
        count += 1
    retries.finish(streams[min(count, len(streams) - 1)], status)
    return count


ALWAYS = RetryPolicy(max_attempts=100)


def test_failures_stop_retries_and_successes_allow_them_again():
    tokens = RetryTokens(RetryThrottling(max_tokens=4, token_ratio=0.5))
    # the second failure leaves half of the tokens
    assert call(tokens, *[unavailable() for _ in range(9)], status=Status.UNAVAILABLE, policy=ALWAYS) == 1
    assert call(tokens, unavailable(), status=Status.UNAVAILABLE, policy=ALWAYS) == 0
    for _ in range(2):
        call(tokens, ended(Status.OK), status=Status.OK)
    assert call(tokens, unavailable(), status=Status.UNAVAILABLE, policy=ALWAYS) == 0
    for _ in range(5):
        call(tokens, ended(Status.OK), status=Status.OK)
    assert call(tokens, unavailable(), ended(Status.OK), status=Status.OK, policy=ALWAYS) == 1


def test_tokens_are_never_more_than_the_most_nor_less_than_none():
    tokens = RetryTokens(RetryThrottling(max_tokens=2, token_ratio=1))
    for _ in range(10):
        call(tokens, ended(Status.OK), status=Status.OK)
    for _ in range(10):
        call(tokens, unavailable(), status=Status.UNAVAILABLE, policy=ALWAYS)
    for _ in range(3):
        call(tokens, ended(Status.OK), status=Status.OK)
    assert call(tokens, unavailable(), ended(Status.OK), status=Status.OK, policy=ALWAYS) == 0
    call(tokens, ended(Status.OK), status=Status.OK)


@pytest.mark.parametrize(
    ("stream", "status", "takes"),
    [
        (ended(Status.INTERNAL), Status.INTERNAL, False),
        (unavailable("-1"), Status.UNAVAILABLE, True),
        (cut_short(TerminationCause.CONNECTION_LOST), Status.UNAVAILABLE, True),
        (cut_short(*REFUSED[0]), Status.UNAVAILABLE, False),
        (cut_short(TerminationCause.RESET_BY_US), Status.UNAVAILABLE, False),
    ],
    ids=["another status", "forbidden", "lost", "refused", "left"],
)
def test_which_failures_take_a_token(stream: Stream, status: Status, takes: bool):
    tokens = RetryTokens(RetryThrottling(max_tokens=3, token_ratio=0.001))
    retries = Retries(ALWAYS, tokens)
    was_left = stream.termination is not None and stream.termination.cause is TerminationCause.RESET_BY_US
    if was_left or retries.pause_after(stream, may_repeat=True) is None:
        retries.finish(stream, status)
    assert tokens.count_failure() == (not takes)


def test_a_call_that_fails_after_its_response_has_begun_takes_a_token():
    tokens = RetryTokens(RetryThrottling(max_tokens=6, token_ratio=0.001))
    retries, stream = Retries(ALWAYS, tokens), a_stream()
    stream.headers = RESPONSE
    assert retries.pause_after(stream, may_repeat=True) is None
    stream.is_complete = True
    retries.finish(stream, Status.UNAVAILABLE)
    retries.finish(stream, Status.UNAVAILABLE)  # once
    assert [tokens.count_failure() for _ in range(2)] == [True, False]
