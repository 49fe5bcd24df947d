"""The server's side of the core: admitting streams, and the drain (gRFC A9)."""

from __future__ import annotations

from collections.abc import Callable

from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, PingAckReceived, RequestReceived, ResponseReceived
from h2.settings import SettingCodes

from connectrio.rpc._connection import LAST_POSSIBLE_STREAM, Connection, ConnectionState
from connectrio.rpc._stream import Stream
from connectrio.rpc.options import ServerOptions

_DRAIN_PING = b"drain..."


class ServerConnection(Connection):
    """A connection that a client opened.

    :param on_request: called with each admitted stream; its `headers` are set
    """

    options: ServerOptions

    def __init__(self, options: ServerOptions, on_request: Callable[[Stream], None]) -> None:
        settings: dict[SettingCodes | int, int] = {SettingCodes.MAX_CONCURRENT_STREAMS: options.max_concurrent_streams}
        super().__init__(options, client_side=False, settings=settings)
        self._on_request = on_request

    def drain(self) -> None:
        """Announce that this connection will close: GOAWAY(2³¹-1) and a PING.

        When the PING comes back, every stream that the client had begun before it read the GOAWAY is here, and the
        final GOAWAY names the last of them.
        """
        if self.state is ConnectionState.OPEN:
            self._enter(ConnectionState.DRAINING)
            self.h2.send_goaway(ErrorCodes.NO_ERROR, LAST_POSSIBLE_STREAM)
            self.h2.ping(_DRAIN_PING)
            self.output_ready.wake()

    def settle(self) -> None:
        """Send the final GOAWAY: the streams that are here finish, new ones are refused."""
        if self.state is ConnectionState.DRAINING:
            self._enter(ConnectionState.GOING_AWAY)
            self.h2.send_goaway(ErrorCodes.NO_ERROR, self.h2.highest_inbound_stream_id)
            self.output_ready.wake()

    def _headers_received(self, event: RequestReceived | ResponseReceived) -> None:
        if self.state is ConnectionState.GOING_AWAY or len(self.streams) >= self.options.max_concurrent_streams:
            self.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            self.h2.forget_stream(event.stream_id)
            return
        stream = self.streams[event.stream_id] = Stream(self, event.stream_id)
        stream.headers = event.headers  # type: ignore[assignment]  # header_encoding is set, so these are str
        if event.stream_ended is not None:
            stream.remote_ended()  # its own event comes too late for a request that is refused right here
        self._on_request(stream)

    def _goaway_received(self, event: ConnectionTerminated) -> None:
        """A client that goes away closes the connection when its calls are done; nothing to do before."""

    def _ping_acknowledged(self, event: PingAckReceived) -> None:
        if event.ping_data == _DRAIN_PING:
            self.settle()
