"""The client's side of the core: opening streams, and the server's GOAWAY."""

from __future__ import annotations

from h2.events import ConnectionTerminated, PingAckReceived, RemoteSettingsChanged, RequestReceived, ResponseReceived
from h2.settings import SettingCodes

from connectrio.rpc._connection import Connection, ConnectionState
from connectrio.rpc._stream import Headers, Stream, Termination, TerminationCause
from connectrio.rpc.options import ChannelOptions


class ClientConnection(Connection):
    """A connection that we opened.

    :ivar is_ready: the server's settings are known, and with them how many streams it allows
    """

    def __init__(self, options: ChannelOptions) -> None:
        super().__init__(options, client_side=True, settings={SettingCodes.ENABLE_PUSH: 0})
        self.is_ready = False

    def can_open(self) -> bool:
        """Whether the server allows one more stream now."""
        return (
            self.is_ready
            and self.state is ConnectionState.OPEN
            and len(self.streams) < self.h2.remote_settings.max_concurrent_streams
        )

    def open(self, headers: Headers, *, end_stream: bool) -> Stream:
        """Begin a stream with `headers`; ask `can_open` first."""
        stream_id = self.h2.get_next_available_stream_id()
        stream = self.streams[stream_id] = Stream(self, stream_id)
        stream.send_headers(headers, end_stream=end_stream)
        return stream

    def _headers_received(self, event: RequestReceived | ResponseReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.headers = event.headers  # type: ignore[assignment]  # header_encoding is set, so these are str
            stream.readable.wake()

    def _settings_changed(self, event: RemoteSettingsChanged) -> None:
        self.is_ready = True
        super()._settings_changed(event)

    def _goaway_received(self, event: ConnectionTerminated) -> None:
        if self.state is ConnectionState.OPEN:
            self._enter(ConnectionState.GOING_AWAY)
        reason = (event.additional_data or b"").decode("utf-8", "replace")
        termination = Termination(TerminationCause.UNPROCESSED, event.error_code, reason)
        last = event.last_stream_id or 0
        for stream in [stream for stream_id, stream in self.streams.items() if stream_id > last]:
            stream.terminate(termination)

    def _ping_acknowledged(self, event: PingAckReceived) -> None:
        """This side sends no PINGs, so none can come back."""
