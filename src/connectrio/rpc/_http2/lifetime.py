"""When a server's connection is due for something: a keepalive ping, its maximum age, giving up on a silent client.

Synchronous: the driver of the connection asks `due`, sleeps, calls `tick`, and does what `tick` returns. A driver that
sleeps until `due`, but never for longer than `interval`, is never late: no limit that begins meanwhile is shorter.
"""

from __future__ import annotations

import enum
import math
import random
from dataclasses import dataclass

from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc._http2.server_side import ServerConnection

# gRFC A9: so that the connections of many clients do not all end at once
_AGE_JITTER = 0.1


class Due(enum.Enum):
    """What a connection is due for."""

    PING = enum.auto()
    DRAIN = enum.auto()
    ABORT = enum.auto()  # cancel the calls that are left


@dataclass(frozen=True)
class Failure:
    """The connection is to be failed, for this reason."""

    reason: str


_HANDSHAKE = Failure("the client did not complete the HTTP/2 handshake in time")
_HEADER_BLOCK = Failure("the client did not complete a header block in time")
_WRITE = Failure("the client does not read")
_KEEPALIVE = Failure("the client did not answer a keepalive ping in time")


class Lifetime:
    """Says which limit of a connection is reached when. Reads the connection, never changes it.

    Make it together with the connection: age and handshake are counted from then.
    """

    def __init__(self, connection: ServerConnection) -> None:
        options, now = connection.options, connection.heard_at
        self._connection = connection
        self._options = options
        self._began = now
        self._age_limit = now + options.max_connection_age * random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)  # noqa: S311
        self._at_age = Due.DRAIN
        self._pinged_at = -math.inf

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
        """Return when the next limit is reached, as things are now; infinity for never."""
        return min(at for at, _ in self._limits())

    def tick(self, now: float) -> Due | Failure | None:
        """Return what is due at `now`, if anything is. The caller does it, once."""
        at, due = next(((at, due) for at, due in self._limits() if now >= at), (0.0, None))
        if due is Due.PING:
            self._pinged_at = now
        elif at == self._age_limit:
            grace = self._options.max_connection_age_grace
            self._age_limit = now + grace if due is Due.DRAIN else math.inf
            self._at_age = Due.ABORT
        return due

    def _limits(self) -> list[tuple[float, Due | Failure]]:
        """Return what may be due and when, as things are now; if several are, the first counts."""
        connection, options = self._connection, self._options
        limits: list[tuple[float, Due | Failure]] = []
        if not connection.settings_received:
            limits.append((self._began + options.handshake_timeout, _HANDSHAKE))
        if connection.header_block_since is not None:
            limits.append((connection.header_block_since + options.header_block_timeout, _HEADER_BLOCK))
        if connection.writing_since is not None:
            limits.append((connection.writing_since + options.write_stall_timeout, _WRITE))
        if connection.heard_at < self._pinged_at:
            limits.append((self._pinged_at + options.keepalive_timeout, _KEEPALIVE))
        else:
            limits.append((connection.heard_at + options.keepalive_time, Due.PING))
        if connection.idle_since is not None and connection.state is ConnectionState.OPEN:
            limits.append((connection.idle_since + options.max_connection_idle, Due.DRAIN))
        limits.append((self._age_limit, self._at_age))
        return limits
