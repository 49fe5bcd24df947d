"""Whether a failed call is made again, and when. Synchronous; nothing here waits.

Source: gRFC A6, transparent retries and retry policies. Hedging is not supported.

A6 repeats a call that no application has seen once. Servers on gRPC's C core refuse calls that keep to their
MAX_CONCURRENT_STREAMS, again and again, because calls they have answered count until their memory is freed. So a call
that is refused again waits a little and joins the queue anew, a bounded number of times. Only then its policy counts.
"""

from __future__ import annotations

import re

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from connectrio.rpc._client.response_status import check_response, error_from_termination, status_from_trailers
from connectrio.rpc._grpc import RETRY_PUSHBACK
from connectrio.rpc._http2.stream import Stream, TerminationCause
from connectrio.rpc.backoff import Backoff
from connectrio.rpc.options import RetryPolicy, RetryThrottling

# refusals that end a call; its pauses add up to some 0.6 s by then
_MAX_REFUSALS = 8
# seconds; each pause is twice the one before, give or take a half
_INITIAL_PAUSE = 0.01

# A6, after its change of 2024: pauses are a fifth longer or shorter
_JITTER = 0.2
_PUSHBACK = re.compile(r"0|[1-9][0-9]{0,9}")
_LARGEST_PUSHBACK = 2**31 - 1


class RetryTokens:
    """Counts the failures of a channel against its successes ("Throttling Retry Attempts" in A6)."""

    def __init__(self, throttling: RetryThrottling) -> None:
        # in thousandths, so that sums are exact
        self._most = self._left = round(throttling.max_tokens * 1000)
        self._ratio = int(throttling.token_ratio * 1000)

    def count_success(self) -> None:
        """Give tokens back: a call has succeeded."""
        self._left = min(self._most, self._left + self._ratio)

    def count_failure(self) -> bool:
        """Take a token: an attempt has failed. Return whether it may be retried."""
        self._left = max(0, self._left - 1000)
        return self._left > self._most // 2


class Retries:
    """How often a call was made, and whether it is made once more.

    :param policy: of the call; None if only calls that no server has seen are repeated
    :param tokens: of the channel; None if nothing throttles retries
    :ivar previous_attempts: attempts that the policy has made before this one
    """

    __slots__ = (
        "_backoff",
        "_counted",
        "_judged",
        "_pause",
        "_policy",
        "_refusals",
        "_refused_backoff",
        "_tokens",
        "previous_attempts",
    )

    def __init__(self, policy: RetryPolicy | None = None, tokens: RetryTokens | None = None) -> None:
        self.previous_attempts = 0
        self._policy = policy
        self._tokens = tokens
        self._refusals = 0
        self._refused_backoff: Backoff | None = None
        self._backoff = None if policy is None else _backoff(policy)
        self._judged: Stream | None = None
        self._counted: Stream | None = None
        self._pause: float | None = None

    @property
    def has_policy(self) -> bool:
        """Whether a call that a server has ended may be made again."""
        return self._policy is not None

    def pause_after(self, failed: Stream, *, may_repeat: bool) -> float | None:
        """Return the seconds until the call is made again; None when it is not. The answer for a stream stays the same.

        :param failed: the stream that the call was on; one that goes on, or that was answered, is not repeated
        :param may_repeat: whether all that the call has sent can be sent again
        """
        if failed is not self._judged:
            self._judged = failed
            self._pause = self._pause_if_unseen(failed) if may_repeat else None
            if self._pause is None:
                status = _failure(failed)
                if status is not None:
                    self._counted = failed
                    self._pause = self.pause_after_status(status, _pushback(failed), may_repeat=may_repeat)
        return self._pause

    def pause_after_status(
        self, status: Status, pushback: str | None = None, *, may_repeat: bool = True
    ) -> float | None:
        """Count an attempt that has failed, and return the seconds until the next; None when there is none.

        :param pushback: the server's `grpc-retry-pushback-ms`, if it has sent one
        """
        policy = self._policy
        if policy is None or self._backoff is None or status not in policy.retryable_status_codes:
            return None
        # always counted, also where something else forbids a retry
        if self._tokens is not None and not self._tokens.count_failure():
            return None
        if not may_repeat or self.previous_attempts + 1 >= policy.max_attempts:
            return None
        if pushback is None:
            pause = self._backoff.next()
        elif _PUSHBACK.fullmatch(pushback) is None or int(pushback) > _LARGEST_PUSHBACK:
            return None
        else:
            pause = int(pushback) / 1000
            self._backoff.reset()
        self.previous_attempts += 1
        return pause

    def finish(self, stream: Stream | None, status: Status) -> None:
        """Count how the call has ended on `stream`, unless that was counted."""
        if self._tokens is None or stream is None or stream is self._counted:
            return
        if status is Status.OK:
            self._tokens.count_success()
        elif stream.is_complete or (
            stream.termination and stream.termination.cause is not TerminationCause.RESET_BY_US
        ):
            self.pause_after_status(status, may_repeat=False)
        self._tokens = None

    def _pause_if_unseen(self, failed: Stream) -> float | None:
        """Return the pause of a call that no server has seen, which its policy does not count; None for others.

        A call that was never sent is repeated without limit. One that servers refused is not: refusing costs them.
        """
        termination = failed.termination
        if termination is None or failed.headers is not None:
            return None
        if termination.cause is TerminationCause.NEVER_SENT:
            return 0.0
        refused = termination.cause is TerminationCause.UNPROCESSED or (
            termination.cause is TerminationCause.RESET_BY_PEER and termination.error_code == ErrorCodes.REFUSED_STREAM
        )
        if not refused or self._refusals == _MAX_REFUSALS - 1:
            return None
        self._refusals += 1
        if self._refused_backoff is None:
            self._refused_backoff = Backoff(_INITIAL_PAUSE, factor=2, jitter=0.5)
            return 0.0
        return self._refused_backoff.next()


def _backoff(policy: RetryPolicy) -> Backoff:
    return Backoff(
        min(policy.initial_backoff, policy.max_backoff),
        factor=policy.backoff_multiplier,
        maximum=policy.max_backoff,
        jitter=_JITTER,
    )


def _failure(stream: Stream) -> Status | None:
    """Return the status with which the server, or what became of the stream, has failed the call; None if it has not.

    A stream of which the response has begun has not failed: from there on the call stays where it is.
    """
    if stream.headers is None:
        return None if stream.termination is None else error_from_termination(stream.termination).status
    try:
        check_response(stream.headers, trailers_only=stream.is_trailers_only)
    except GRPCError as error:  # whatever has answered, it was no gRPC server
        return error.status
    status = status_from_trailers(stream.headers)[0] if stream.is_trailers_only else Status.OK
    return None if status is Status.OK else status


def _pushback(stream: Stream) -> str | None:
    return dict(stream.headers or ()).get(RETRY_PUSHBACK)
