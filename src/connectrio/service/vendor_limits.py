"""When the next call to an account of another system may begin: the rate, the calls at once, and the circuit breaker.

1. In any `rate_seconds`, at most `rate_calls` calls begin. Those that nobody waits for are spread evenly over the time.
2. At most `max_vendor_calls` calls go on at once.
3. The breaker is CLOSED at first. `breaker_failures` failures in a row open it, and no call begins for `breaker_pause`.
   Then one does (PROBING): if the other system answers, the breaker is CLOSED again, otherwise OPEN.
4. When the other system asks to come again later, no call begins until then.

Nothing here waits, and nothing knows of an event loop. Times are those of any clock, in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum, auto

from connectrio.connector.policy import ConnectorPolicy

__all__ = ["Breaker", "CallOutcome", "VendorLimits"]

# by how much longer than `rate_seconds` its calls take: they reach the other system after delays that differ
_MARGIN = 1.01


class Breaker(Enum):
    """The state of a circuit breaker."""

    CLOSED = auto()
    OPEN = auto()
    PROBING = auto()


class CallOutcome(Enum):
    """What a call says of the other system.

    :cvar ANSWERED: it works
    :cvar FAILED: it is at fault, for the moment
    :cvar OTHER: nothing: the call was cancelled, or the request or the connector's code is at fault
    """

    ANSWERED = auto()
    FAILED = auto()
    OTHER = auto()


class VendorLimits:
    """The limits of one account.

    :ivar active: how many calls go on
    :ivar breaker: the state of the circuit breaker
    :ivar failures: how many calls have failed in a row
    """

    def __init__(self, policy: ConnectorPolicy) -> None:
        self._policy = policy
        self.active = 0
        self.breaker = Breaker.CLOSED
        self.failures = 0
        self._opens = -math.inf  # when the breaker lets a call pass
        self._held_until = -math.inf
        # when the last `rate_calls` calls began
        self._begun: deque[float] = deque(maxlen=max(1, policy.rate_calls))

    def wait(self, now: float, *, evenly: bool = False) -> float:
        """Return the seconds until the next call may begin; `inf` until one that goes on has ended.

        :param evenly: keep the same distance between calls, instead of beginning many at once
        """
        policy = self._policy
        if self.breaker is Breaker.PROBING or 0 < policy.max_vendor_calls <= self.active:
            return math.inf
        until = self._held_until
        if self.breaker is Breaker.OPEN:
            until = max(until, self._opens)
        if policy.rate_calls and self._begun:
            if len(self._begun) == policy.rate_calls:
                until = max(until, self._begun[0] + _MARGIN * policy.rate_seconds)
            if evenly:
                until = max(until, self._begun[-1] + _MARGIN * policy.rate_seconds / policy.rate_calls)
        return max(0.0, until - now)

    def begin(self, now: float) -> bool:
        """Count a call that begins; return whether it is the breaker's probe."""
        self.active += 1
        self._begun.append(now)
        if self.breaker is Breaker.OPEN:
            self.breaker = Breaker.PROBING
            return True
        return False

    def end(self, now: float, outcome: CallOutcome, *, is_probe: bool) -> bool:
        """Note the end of a call; return whether the breaker has opened or closed.

        :param is_probe: what `begin` has returned
        """
        self.active -= 1
        before = self.breaker
        if outcome is CallOutcome.ANSWERED:
            self.failures, self.breaker = 0, Breaker.CLOSED
        elif outcome is CallOutcome.FAILED:
            self._failed(now, may_open=is_probe or before is Breaker.CLOSED)
        elif is_probe and before is Breaker.PROBING:
            self.breaker = Breaker.OPEN  # the next call is the probe
        return (before is Breaker.CLOSED) is not (self.breaker is Breaker.CLOSED)

    def late(self, now: float) -> bool:
        """Note that a call that has ended as OTHER had failed after all; return whether the breaker has opened."""
        before = self.breaker
        self._failed(now, may_open=before is not Breaker.PROBING)
        return before is Breaker.CLOSED and self.breaker is not before

    def _failed(self, now: float, *, may_open: bool) -> None:
        self.failures += 1
        if may_open and 0 < self._policy.breaker_failures <= self.failures:
            self.breaker, self._opens = Breaker.OPEN, now + self._policy.breaker_pause

    def hold(self, until: float) -> None:
        """Let no call begin before `until`."""
        self._held_until = max(self._held_until, until)

    def is_idle(self, now: float) -> bool:
        """Return whether nothing has to be remembered: new limits would allow no more.

        Failures are forgotten when no call has begun for twice `breaker_pause`, or the account would be kept for ever.
        """
        policy = self._policy
        quiet = max(policy.rate_seconds, 2 * policy.breaker_pause if self.failures else 0.0)
        is_quiet = not self._begun or now - self._begun[-1] >= quiet
        return not self.active and is_quiet and now >= max(self._held_until, self._opens)

    def reason(self, now: float) -> str:
        """Return why no call may begin now, as a part of a sentence."""
        policy = self._policy
        if self.breaker is Breaker.PROBING:
            return f"{self.failures} calls in a row have failed, and one call finds out now whether that is over"
        if self.breaker is Breaker.OPEN:
            pause = _whole(self._opens - now)
            return f"{self.failures} calls in a row have failed, so none is made for {pause} s (breaker_pause)"
        if now < self._held_until:
            return f"it has asked to come again in {_whole(self._held_until - now)} s"
        if 0 < policy.max_vendor_calls <= self.active:
            return f"this host has {self.active} calls to this account at once (max_vendor_calls)"
        return (
            f"this host makes at most {policy.rate_calls} calls in {policy.rate_seconds:g} s to this account"
            " (rate_calls), and others come first"
        )


def _whole(seconds: float) -> int:
    """Return the next whole number of seconds, whatever the clock makes of fractions."""
    return max(0, math.ceil(round(seconds, 3)))
