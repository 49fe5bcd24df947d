"""The client's side of the core: opening streams, and the server's GOAWAY.

Beyond the rules of `Connection`: a stream whose headers were never written when the connection is lost will not be
written any more, and says so (NEVER_SENT), because such a call can be made again without harm (gRFC A6).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes

from connectrio.rpc._http2.connection import LAST_POSSIBLE_STREAM, Connection, ConnectionState
from connectrio.rpc._http2.stream import Headers, Stream, Termination, TerminationCause
from connectrio.rpc._http2.wakeup import Wakeup
from connectrio.rpc.options import ChannelOptions

_KEEPALIVE_PING = b"keepaliv"
_TOO_MANY_PINGS = "too_many_pings"  # gRFC A8


class ClientConnection(Connection):
    """A connection that we opened.

    :param clock: seconds; the event loop's, where there is one
    :ivar is_ready: the server's settings are known, and with them how many streams it allows
    :ivar has_answered: a response has come, so this connection was worth opening
    :ivar goodbye: the error code and the words with which the server has gone away; "" when it gave none
    :ivar told_to_ping_less: the server goes away because we sent too many PINGs
    :ivar last_read: when something came last, by the clock
    :ivar reads: how many times something came
    :ivar on_change: called when the state changes, and when one more stream may be opened
    :ivar received: woken when something comes
    :ivar opened: woken when a stream is opened
    :ivar gone: woken when the state changes
    """

    def __init__(self, options: ChannelOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(options, client_side=True, settings={SettingCodes.ENABLE_PUSH: 0})
        self.is_ready = False
        self.has_answered = False
        self.told_to_ping_less = False
        self.on_change: Callable[[], None] | None = None
        self.received = Wakeup()
        self.opened = Wakeup()
        self.gone = Wakeup()
        self.last_read = clock()
        self.reads = 0
        self._clock = clock
        self._unwritten: list[Stream] = []
        self.goodbye = ""
        self._handlers |= {RequestReceived: self._request_received}

    def feed(self, data: bytes) -> None:
        """See `Connection.feed`."""
        self.last_read = self._clock()
        self.reads += 1
        self.received.wake()
        super().feed(data)

    def take_output(self) -> bytes:
        """See `Connection.take_output`."""
        self._unwritten.clear()
        return super().take_output()

    def can_open(self) -> bool:
        """Whether the server allows one more stream now."""
        if not self.is_ready or self.state is not ConnectionState.OPEN:
            return False
        allowed = self.h2.remote_settings.max_concurrent_streams
        # streams that are over but not released do not count; only near the limit are they worth counting out
        return len(self.streams) < allowed or self.running() < allowed

    def open(self, headers: Headers, *, end_stream: bool = False) -> Stream:
        """Begin a stream with `headers`; ask `can_open` first.

        :raises GRPCError: INTERNAL, the headers are larger than the server takes; nothing was sent
        """
        self._check_size(headers)
        stream_id = self.h2.get_next_available_stream_id()
        stream = self.streams[stream_id] = Stream(self, stream_id)
        self._unwritten.append(stream)
        stream.send_headers(headers, end_stream=end_stream)
        self.opened.wake()
        if stream_id + 2 > LAST_POSSIBLE_STREAM:
            self._enter(ConnectionState.GOING_AWAY)
        return stream

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        self.h2.ping(_KEEPALIVE_PING)
        self.output_ready.wake()

    def retire(self) -> None:
        """Take no more calls; those that run go on."""
        if self.state is ConnectionState.OPEN:
            self._enter(ConnectionState.GOING_AWAY)

    def fail(self, reason: str) -> None:
        """See `Connection.fail`."""
        if self.state is ConnectionState.CLOSED:
            return
        reason = f"{reason}; before that it said {self.goodbye}" if self.goodbye else reason
        if self._unwritten:
            self.h2.clear_outbound_data_buffer()
            for stream in self._unwritten:
                stream.terminate(Termination(TerminationCause.NEVER_SENT, detail=reason))
        super().fail(reason)

    def finish(self) -> None:
        """See `Connection.finish`."""
        self._unwritten.clear()
        super().finish()

    def forget(self, stream: Stream, unread: int) -> None:
        """See `Connection.forget`."""
        super().forget(stream, unread)
        self._changed()

    def _check_size(self, headers: Headers) -> None:
        limit = self.h2.remote_settings.max_header_list_size
        if limit is not None:
            size = sum(len(name) + len(value) + 32 for name, value in headers)  # RFC 9113 §6.5.2
            if size > limit:
                message = f"the request's headers take {size} bytes, but the server takes at most {limit}"
                raise GRPCError(Status.INTERNAL, f"{message}: send less metadata")

    def _enter(self, state: ConnectionState) -> None:
        super()._enter(state)
        self.gone.wake()
        self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _headers_received(self, event: RequestReceived | ResponseReceived) -> None:
        self.has_answered = True
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.headers = event.headers  # type: ignore[assignment]  # header_encoding is set, so these are str
            stream.readable.wake()

    def _request_received(self, event: RequestReceived) -> None:
        """A server opens no streams (RFC 9113 §8.4); h2 would keep what it opens for ever."""
        self.h2.send_goaway(ErrorCodes.PROTOCOL_ERROR, 0)
        self.fail(f"the peer broke the protocol: a server cannot open a stream, and this one opened {event.stream_id}")

    def _stream_ended(self, event: StreamEnded) -> None:
        super()._stream_ended(event)
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            # "Early Server Closure" in gRPC over HTTP2; does nothing when we had ended the stream as well
            stream.reset(ErrorCodes.NO_ERROR, "the server has answered")
        self._changed()

    def _stream_reset(self, event: StreamReset) -> None:
        super()._stream_reset(event)
        self._changed()

    def _settings_changed(self, event: RemoteSettingsChanged) -> None:
        self.is_ready = True
        super()._settings_changed(event)
        self._changed()

    def _goaway_received(self, event: ConnectionTerminated) -> None:
        reason = (event.additional_data or b"").decode("utf-8", "replace")
        code = event.error_code
        if code != ErrorCodes.NO_ERROR or reason:
            self.goodbye = f"{code.name if isinstance(code, ErrorCodes) else code} {reason}".rstrip()
        self.told_to_ping_less |= code == ErrorCodes.ENHANCE_YOUR_CALM and reason == _TOO_MANY_PINGS
        self.retire()
        last = event.last_stream_id or 0
        for stream in [stream for stream_id, stream in self.streams.items() if stream_id > last]:
            cause = TerminationCause.NEVER_SENT if stream in self._unwritten else TerminationCause.UNPROCESSED
            stream.terminate(Termination(cause, event.error_code, reason))

    def _ping_acknowledged(self, event: PingAckReceived) -> None:
        """Nothing to do: any byte that comes shows that the server is there."""
