"""The client's side of the core: opening streams, and the server's GOAWAY.

Beyond the rules of `Connection`: a stream whose headers were never written when the connection is lost will not be
written any more, and says so (NEVER_SENT), because such a call can be made again without harm (gRFC A6).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, RequestReceived, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes

from connectrio.rpc._http2.connection import LAST_POSSIBLE_STREAM, Connection, ConnectionState, EndCause
from connectrio.rpc._http2.drainable import OversizedRequest
from connectrio.rpc._http2.stream import Headers, Stream, Termination, TerminationCause
from connectrio.rpc._http2.wakeup import Wakeup
from connectrio.rpc.options import ChannelOptions

_TOO_MANY_PINGS = "too_many_pings"  # gRFC A8


class ClientConnection(Connection):
    """A connection that we opened.

    Beyond what `Connection` says, `changed` is woken when a full connection has room again, and, if there is an
    `idle_timeout`, when the last call is released.

    :ivar has_answered: a response has come, so this connection was worth opening
    :ivar goodbye: the error code and the words with which the server has gone away; "" when it gave none
    :ivar told_to_ping_less: the server goes away because we sent too many PINGs
    :ivar opened: woken when a stream is opened
    :ivar watch: the stream of the channel's own health check, which is no call; None without one
    """

    options: ChannelOptions

    def __init__(self, options: ChannelOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(options, client_side=True, settings={SettingCodes.ENABLE_PUSH: 0}, clock=clock)
        self.has_answered = False
        self.goodbye = ""
        self.told_to_ping_less = False
        self.opened = Wakeup()
        self.watch: Stream | None = None
        self._handlers |= {
            ResponseReceived: (self._response_received,),
            RequestReceived: (self._request_received,),
            OversizedRequest: (self._request_received,),
            StreamEnded: (self._stream_ended, self._close_early, self._room_made),
            StreamReset: (self._stream_reset, self._room_made),
            ConnectionTerminated: (self._goaway_received,),
        }

    @property
    def is_busy(self) -> bool:
        """Whether a call is running."""
        return len(self.streams) > (self.watch is not None and self.watch.id in self.streams)

    def can_open(self) -> bool:
        """Return whether the server allows one more stream now."""
        if not self.settings_received or self.state is not ConnectionState.OPEN:
            return False
        allowed = self.h2.remote_settings.max_concurrent_streams
        # streams that are over but not released do not count; only near the limit are they worth counting out
        return len(self.streams) < allowed or self.running() < allowed

    def open(self, headers: Headers, *, end_stream: bool = False) -> Stream:
        """Begin a stream with `headers`; ask `can_open` first.

        :raises HeadersTooLargeError: the server does not take so much; nothing was sent
        """
        stream_id = self.h2.get_next_available_stream_id()
        stream = Stream(self, stream_id)
        stream.send_headers(headers, end_stream=end_stream)
        self.streams[stream_id] = stream
        self.idle_since = None
        self._unwritten.add(stream)
        self.opened.wake()
        if stream_id + 2 > LAST_POSSIBLE_STREAM:
            self._enter(ConnectionState.GOING_AWAY)
        return stream

    def retire(self) -> None:
        """Take no more calls; those that run go on."""
        if self.state is ConnectionState.OPEN:
            self._enter(ConnectionState.GOING_AWAY)

    def fail(self, reason: str, cause: EndCause = EndCause.LOST) -> None:
        """End a connection that cannot go on, as `Connection.fail`; the reason names the server's goodbye."""
        super().fail(f"{reason}; before that it said {self.goodbye}" if self.goodbye else reason, cause)

    def forget(self, stream: Stream, unread: int) -> None:
        """Credit the `unread` bytes of `stream`, and remove it."""
        self._room_made()
        super().forget(stream, unread)
        if not self.is_busy and self.options.idle_timeout != math.inf:
            self.changed.wake()

    # what the server's frames mean

    def _response_received(self, event: ResponseReceived) -> None:
        self.has_answered = True
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.headers = event.headers  # type: ignore[assignment]  # header_encoding is set, so these are str
            stream.is_trailers_only = event.stream_ended is not None
            stream.readable.wake()

    def _request_received(self, event: RequestReceived | OversizedRequest) -> None:
        """End the connection: a server opens no streams (RFC 9113 §8.4), and h2 would keep what it opens for ever."""
        self.h2.send_goaway(ErrorCodes.PROTOCOL_ERROR, 0)
        reason = f"the peer broke the protocol: a server cannot open a stream, and this one opened {event.stream_id}"
        self.fail(reason, EndCause.PROTOCOL_ERROR)

    def _close_early(self, event: StreamEnded) -> None:
        """Reset a stream that the server has ended and we have not: "Early Server Closure" in gRPC over HTTP2."""
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.reset(ErrorCodes.NO_ERROR, "the server has answered")

    def _room_made(self, event: Event | None = None) -> None:  # noqa: ARG002 - a handler of events
        """Wake who waits for room on a connection that was full until now."""
        if len(self.streams) >= self.h2.remote_settings.max_concurrent_streams:
            self.changed.wake()

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
