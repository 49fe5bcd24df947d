"""The server's side of the core: admitting streams, the drain (gRFC A9), and what a client may not do."""

from __future__ import annotations

import time
from collections.abc import Callable

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamReset,
    UnknownFrameReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes

from connectrio.rpc._http2.budgets import PingPolicy, TokenBucket
from connectrio.rpc._http2.connection import LAST_POSSIBLE_STREAM, Connection, ConnectionState
from connectrio.rpc._http2.drainable import FrameWithoutEffect, MalformedMessage
from connectrio.rpc._http2.lifetime import Lifetime
from connectrio.rpc._http2.stream import Headers, Stream
from connectrio.rpc.options import ServerOptions

_DRAIN_PING = b"drain..."
_KEEPALIVE_PING = b"keepaliv"

# frames that a client may send for each DATA frame it was sent: a WINDOW_UPDATE for the stream and for the connection
_EARNED = 2
# bytes; less than this, and not the end of a message, is what the client's window let through. Windows that open by a
# byte at a time are an attack of their own (CVE-2019-9511)
_DRIBBLE = 1024

# seconds; a call that lasted as long had to be within MAX_CONCURRENT_STREAMS, and its reset is what deadlines and
# impatience look like when a host is slow
_RAPID = 1.0
# calls that may be winding up on a connection besides those that run, if MAX_CONCURRENT_STREAMS is less: a client that
# keeps to its limit never waits for our own cleaning up
_WINDING_UP = 100
# seconds until a budget for resets that was used up is whole again, as in nghttp2: 1,000 at once, and 33 a second
_RESET_RECOVERY = 30.0


class ServerConnection(Connection):
    """A connection that a client opened.

    :param on_request: called with each admitted stream; its `headers` are set
    :param on_processed: called when everything that was fed has been acted on
    :param on_abort: called when the calls that are left are to be cancelled
    :param clock: seconds

    :ivar lifetime: when something is due
    :ivar settings_received: the client's part of the handshake is done
    :ivar heard_at: when the last bytes came
    :ivar released_at: when a stream was last released; 0 for never
    :ivar header_block_since: when the header block began that is not complete yet
    """

    options: ServerOptions

    def __init__(
        self,
        options: ServerOptions,
        on_request: Callable[[Stream], None],
        *,
        on_processed: Callable[[], None] = lambda: None,
        on_abort: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings: dict[SettingCodes | int, int] = {SettingCodes.MAX_CONCURRENT_STREAMS: options.max_concurrent_streams}
        super().__init__(options, client_side=False, settings=settings)
        now = clock()
        self.settings_received = False
        self.heard_at = now
        self.released_at = 0.0
        self.header_block_since: float | None = None
        self.lifetime = Lifetime(self, now)
        self._on_request = on_request
        self._on_processed = on_processed
        self._on_abort = on_abort
        self._clock = clock
        self._resets = TokenBucket(options.reset_budget, now, rate=options.reset_budget / _RESET_RECOVERY)
        self._control_frames = TokenBucket(options.control_budget, now)
        self._ping_policy = PingPolicy(options.min_ping_interval)
        self._handlers |= {
            PingReceived: self._ping_received,
            PriorityUpdated: self._control_frame_received,
            SettingsAcknowledged: self._control_frame_received,
            UnknownFrameReceived: self._control_frame_received,
            FrameWithoutEffect: self._control_frame_received,
        }

    # the end of a connection

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

    def request_abort(self) -> None:
        """Have the calls that are left cancelled."""
        self._on_abort()

    def ping(self) -> None:
        """Ask whether the client is still there; any answer shows in `heard_at`."""
        self.h2.ping(_KEEPALIVE_PING)
        self.output_ready.wake()

    def _calm(self, reason: str) -> None:
        """End the connection of a client that asks for too much."""
        self.h2.send_goaway(ErrorCodes.ENHANCE_YOUR_CALM, self.h2.highest_inbound_stream_id, reason.encode())
        self.fail(reason)

    # what comes and goes

    def feed(self, data: bytes) -> None:
        """See `Connection.feed`."""
        self.heard_at = self._clock()
        super().feed(data)

    def process(self, max_frames: int) -> bool:
        """See `Connection.process`."""
        more = super().process(max_frames)
        if not more:
            self._on_processed()
        if not self.h2.is_inside_header_block():
            self.header_block_since = None
        elif self.header_block_since is None:
            self.header_block_since = self._clock()
        return more

    def send_headers(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None:
        """See `Stream.send_headers`."""
        self._ping_policy.data_sent()
        super().send_headers(stream, headers, end_stream=end_stream)

    def send_data(self, stream: Stream, data: memoryview, *, end_stream: bool) -> int:
        """See `Stream.send_some`."""
        sent = super().send_data(stream, data, end_stream=end_stream)
        self._ping_policy.data_sent()
        if sent == len(data) or sent >= _DRIBBLE:
            self._control_frames.earn(_EARNED * (1 + sent // self.h2.max_outbound_frame_size))
        return sent

    def forget(self, stream: Stream, unread: int) -> None:
        """See `Stream.release`."""
        super().forget(stream, unread)
        self.released_at = self._clock()

    # what the client's frames mean

    def _headers_received(self, event: RequestReceived | ResponseReceived) -> None:
        if self.state is ConnectionState.GOING_AWAY or self._is_full():
            self.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            self.h2.forget_stream(event.stream_id)
            self._reset_happened()
            return
        stream = self.streams[event.stream_id] = Stream(self, event.stream_id)
        stream.opened_at = self.heard_at
        stream.headers = event.headers  # type: ignore[assignment]  # header_encoding is set, so these are str
        if event.stream_ended is not None:
            stream.remote_ended()  # its own event comes too late for a request that is refused right here
        self._on_request(stream)

    def _is_full(self) -> bool:
        """Whether a stream is one too many: of those that are open for the client, or with the calls that wind up."""
        limit, count = self.options.max_concurrent_streams, len(self.streams)
        if count < limit:
            return False
        return count >= limit + max(limit, _WINDING_UP) or self.running() >= limit

    def _stream_reset(self, event: StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        super()._stream_reset(event)
        if stream is None or not event.remote_reset or self._clock() - stream.opened_at < _RAPID:
            self._reset_happened()

    def _malformed_received(self, event: MalformedMessage) -> None:
        super()._malformed_received(event)
        self._reset_happened()

    def _reset_happened(self) -> None:
        if not self._resets.take(self._clock()):
            self._calm("too many streams were reset")

    def _data_received(self, event: DataReceived) -> None:
        if not event.data and event.stream_ended is None:
            self._control_frame_received(event)
        super()._data_received(event)

    def _window_updated(self, event: WindowUpdated) -> None:
        self._control_frame_received(event)
        super()._window_updated(event)

    def _settings_changed(self, event: RemoteSettingsChanged) -> None:
        self.settings_received = True
        self._control_frame_received(event)
        super()._settings_changed(event)

    def _control_frame_received(self, event: object) -> None:  # noqa: ARG002 - a handler of events
        if not self._control_frames.take(self._clock()):
            self._calm("too many frames that carry no call")

    def _ping_received(self, event: PingReceived) -> None:
        self._control_frame_received(event)
        if not self._ping_policy.is_allowed(self._clock(), has_calls=bool(self.streams)):
            self._calm("too_many_pings")  # the words that clients look for (gRFC A8)

    def _goaway_received(self, event: ConnectionTerminated) -> None:
        """A client that goes away closes the connection when its calls are done; nothing to do before."""
        self._control_frame_received(event)

    def _ping_acknowledged(self, event: PingAckReceived) -> None:
        self._control_frame_received(event)
        if event.ping_data == _DRAIN_PING:
            self.settle()
