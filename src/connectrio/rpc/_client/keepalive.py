"""Finding out that a server is gone although nobody said so.

Source: gRFC A8, "Client-side Keepalive".
"""

from __future__ import annotations

import anyio

from connectrio.logs import get_logger
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.connection import ConnectionState

log = get_logger("connectrio.rpc")


class Keepalive:
    """When the connections of one channel ping.

    :ivar time: seconds without a byte until there is a PING
    :param timeout: seconds for any byte to come after it
    :param without_calls: whether to ping while no call is running
    """

    def __init__(self, time: float, timeout: float, *, without_calls: bool) -> None:
        self.time = time
        self._timeout = timeout
        self._without_calls = without_calls

    def slow_down(self, server: str) -> None:
        """The server has had too many PINGs: new connections ping half as often."""
        self.time *= 2
        log.warning(
            "the server closed a connection because of too many pings; set keepalive_time to what it allows",
            server=server,
            keepalive_time=self.time,
        )

    async def watch(self, connection: ClientConnection) -> None:
        """Ping when the connection is silent, until it is over; end it when there is no answer."""
        time = self.time
        while connection.state is not ConnectionState.CLOSED:
            silence = anyio.current_time() - connection.heard_at
            if silence < time:
                await anyio.sleep(time - silence)
            elif not (connection.streams or self._without_calls):
                # a call that begins after a long silence pings at once
                await connection.opened.wait()
            else:
                await self._ping(connection)

    async def _ping(self, connection: ClientConnection) -> None:
        reads = connection.reads
        connection.ping()
        with anyio.move_on_after(self._timeout):
            while connection.reads == reads and connection.state is not ConnectionState.CLOSED:
                await connection.received.wait()
            return
        connection.fail(f"keepalive: nothing came for {self._timeout:g} seconds after a PING")
