"""How much a peer may make a server do, beyond answering calls. Synchronous, on any clock.

Sources: CVE-2023-44487 (rapid reset), CVE-2025-8671 (made you reset), CVE-2019-9512 to 9518 (floods of frames that cost
the sender little), gRFC A8 (pings).
"""

from __future__ import annotations

_STRIKES = 2
# gRFC A8: a client with no calls has little reason to ping
IDLE_PING_INTERVAL = 7200.0


class TokenBucket:
    """Allows `size` uses at once after a quiet time, and `rate` a second in the long run; earned uses come on top.

    :param size: uses
    :param now: seconds on the clock that later calls use
    :param rate: per second; `size` if not given
    """

    __slots__ = ("_at", "_earned", "_left", "_rate", "_size")

    def __init__(self, size: float, now: float, *, rate: float | None = None) -> None:
        self._size = size
        self._rate = size if rate is None else rate
        self._left = size
        self._at = now
        self._earned = 0

    def take(self, now: float, *, earned: int = 0) -> bool:
        """Take one use.

        :param earned: uses that the peer has earned until now, in all; the bucket never holds more than twice its size
        :returns: False when none is left
        """
        if earned > self._earned:
            self._left = min(2 * self._size, self._left + earned - self._earned)
            self._earned = earned
        if self._left < self._size:
            self._left = min(self._size, self._left + (now - self._at) * self._rate)
        self._left -= 1
        self._at = now
        return self._left >= 0


class PingPolicy:
    """How often a client may ping (gRFC A8): a ping that comes too soon is a strike, and the third one is refused.

    :param interval: seconds between pings while there are calls
    """

    __slots__ = ("_interval", "_last", "_pieces_sent", "_strikes")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: float | None = None
        self._pieces_sent = 0
        self._strikes = 0

    def is_allowed(self, now: float, *, has_calls: bool, pieces_sent: int) -> bool:
        """Judge a ping that has come.

        :param pieces_sent: header blocks and pieces of data sent so far; when this has changed, the strikes are reset,
            because clients ping to measure bandwidth
        :returns: False when the client has pinged too fast too often
        """
        if pieces_sent != self._pieces_sent:
            self._pieces_sent, self._strikes, self._last = pieces_sent, 0, None
        interval = self._interval if has_calls else max(self._interval, IDLE_PING_INTERVAL)
        if self._last is not None and now - self._last < interval:
            self._strikes += 1
        self._last = now
        return self._strikes <= _STRIKES
