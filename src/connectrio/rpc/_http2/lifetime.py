"""When a server's connection is due for something: a keepalive ping, its maximum age, giving up on a silent client.

Synchronous: the shell asks `due`, sleeps, and calls `tick`. Every limit begins with something that `tick` can see, and
no limit is shorter than `interval`, so that a shell which ticks at least that often is never late.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from connectrio.rpc._http2.connection import ConnectionState

if TYPE_CHECKING:
    from connectrio.rpc._http2.server_side import ServerConnection

# gRFC A9: so that the connections of many clients do not all end at once
_AGE_JITTER = 0.1


class Lifetime:
    """The clocks of one connection.

    :param connection: what is watched, and acted on
    :param now: seconds, on the clock that later calls use
    """

    def __init__(self, connection: ServerConnection, now: float) -> None:
        options = connection.options
        self._connection = connection
        self._options = options
        self._began = now
        self._age_limit = now + options.max_connection_age * random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)  # noqa: S311
        self._idle_since: float | None = now
        self._pinged_at: float | None = None
        self._drained_for_age = False

    @property
    def interval(self) -> float:
        """Seconds; the shortest limit that is set."""
        options = self._options
        return min(
            options.handshake_timeout,
            options.header_block_timeout,
            options.write_stall_timeout,
            options.keepalive_time,
            options.keepalive_timeout,
            options.max_connection_idle,
            options.max_connection_age,
            options.max_connection_age_grace,
        )

    def due(self) -> float:
        """When the next limit is reached, as things are now; infinity for never."""
        return min(
            self._handshake_limit(),
            self._header_block_limit(),
            self._write_limit(),
            self._keepalive_limit(),
            self._idle_limit(),
            self._age_limit,
        )

    def tick(self, now: float) -> None:
        """Act on the limits that are reached."""
        connection = self._connection
        self._see_whether_idle(now)
        if now >= self._handshake_limit():
            connection.fail("the client did not complete the HTTP/2 handshake in time")
        elif now >= self._header_block_limit():
            connection.fail("the client did not complete a header block in time")
        elif now >= self._write_limit():
            connection.fail("the client does not read")
        elif now >= self._keepalive_limit():
            self._keep_alive(now)
        elif now >= self._idle_limit():
            connection.drain()
        elif now >= self._age_limit:
            self._end_of_age(now)

    def _handshake_limit(self) -> float:
        return math.inf if self._connection.settings_received else self._began + self._options.handshake_timeout

    def _header_block_limit(self) -> float:
        since = self._connection.header_block_since
        return math.inf if since is None else since + self._options.header_block_timeout

    def _write_limit(self) -> float:
        since = self._connection.writing_since
        return math.inf if since is None else since + self._options.write_stall_timeout

    def _keepalive_limit(self) -> float:
        if self._pinged_at is not None and self._connection.heard_at < self._pinged_at:
            return self._pinged_at + self._options.keepalive_timeout
        return self._connection.heard_at + self._options.keepalive_time

    def _idle_limit(self) -> float:
        if self._idle_since is None or self._connection.state is not ConnectionState.OPEN:
            return math.inf
        return self._idle_since + self._options.max_connection_idle

    def _see_whether_idle(self, now: float) -> None:
        if self._connection.streams:
            self._idle_since = None
        elif self._idle_since is None or self._connection.released_at > self._idle_since:
            self._idle_since = self._connection.released_at or now

    def _keep_alive(self, now: float) -> None:
        if self._pinged_at is not None and self._connection.heard_at < self._pinged_at:
            self._connection.fail("the client did not answer a keepalive ping in time")
        else:
            self._pinged_at = now
            self._connection.ping()

    def _end_of_age(self, now: float) -> None:
        if self._drained_for_age:
            self._age_limit = math.inf
            self._connection.request_abort()
        else:
            self._drained_for_age = True
            self._age_limit = now + self._options.max_connection_age_grace
            self._connection.drain()
