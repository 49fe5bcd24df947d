"""The connections of a server: how many there may be, and which one makes room for another.

1. There are at most `max_connections`, and no peer's address has more than half of them, so that one client cannot shut
   the others out. A /64 of IPv6 counts as one address, and an IPv4 address that is mapped to IPv6 as itself.
2. Idle connections make room: when an address has its share, its longest idle one is told to go (GOAWAY); when nine
   tenths of all are taken, the longest idle one of the address that has the most. Those that never had a call go first.
3. Those that were told to go are there for a while, but an address never has more than a fifth beyond its share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio

from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc._server.connection import ServedConnection
from connectrio.rpc.peer import share_of

# seconds without a call after which a connection that had calls may be told to go
_REST = 1.0


class FullError(Exception):
    """There is no room for a connection; the text says why."""


class Connections:
    """The connections that are open or ending.

    :param limit: the most that there may be
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = max(1, limit // 2)
        self._most = self._share + max(1, self._share // 5)
        self._crowded = max(1, limit * 9 // 10)
        self._addresses: dict[ServedConnection, str | None] = {}
        # a transport without an address, as in tests and from Unix sockets, has no share: whoever made it is trusted
        self._counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[ServedConnection]:
        return iter(list(self._addresses))

    def __len__(self) -> int:
        return len(self._addresses)

    def check_room(self, peer: Any) -> None:
        """Check that there is room for one more of the peer with this address, and let an idle one go if it is short.

        :param peer: (host, port), or anything else for a transport without one
        :raises FullError: there is none
        """
        address = host_of(peer)
        if len(self) >= self._limit:
            raise FullError(f"there are {self._limit}, as many as max_connections allows")
        count = 0 if address is None else self._counts[address]
        if count >= self._share:
            if count >= self._most or not self._send_away(address):
                share = "its share, half of what max_connections allows"
                raise FullError(f"{address} has more than {share}, and no idle one can make room")
        elif len(self) >= self._crowded and self._counts:
            self._send_away(self._counts.most_common(1)[0][0])

    def add(self, connection: ServedConnection, peer: Any) -> None:
        """Count a connection of the peer with this address."""
        address = self._addresses[connection] = host_of(peer)
        if address is not None:
            self._counts[address] += 1

    def remove(self, connection: ServedConnection) -> None:
        """Count a connection that has ended no more."""
        address = self._addresses.pop(connection)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def _send_away(self, address: str | None) -> bool:
        """Tell the longest idle connection from `address` to go; return whether there was one."""
        now = anyio.current_time()
        idle = [
            (since, connection)
            for connection, host in self._addresses.items()
            if host == address
            and connection.core.state is ConnectionState.OPEN
            and (since := connection.core.idle_since) is not None
        ]
        # those first that never had a call; the others only when they rest, not between two calls of a busy client
        unused = [each for each in idle if not each[1].core.had_calls]
        resting = [each for each in idle if now - each[0] >= _REST]
        _, longest = min(unused or resting, key=lambda found: found[0], default=(0.0, None))
        if longest is None:
            return False
        longest.make_room()
        return True


def host_of(peer: Any) -> str | None:
    """Return the address or network of a peer that has one share; None for a transport without an address."""
    return share_of(str(peer[0])) if isinstance(peer, tuple) else None
