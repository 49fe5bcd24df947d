"""The synchronous core of a connection: bytes in → streams and events; calls in → bytes out. Nothing here awaits.

Rules:
1. `feed` and `process` are called by one reader, `take_output` by one writer. Everything else may be called by any task
   of the same event loop, between awaits.
2. The core calls nobody. What happened is in its state, in its streams and, on a server, in `take_events`; a `Wakeup`
   tells the task that waits for it.
3. The output begins with the preface and our settings, and leaves only through `take_output`. Whoever takes it must
   write all of it, or end the connection.
4. A stream belongs to the connection until it is released; by then everything it received was credited.
5. If the peer breaks the protocol, the connection ends (state CLOSED, a GOAWAY in the output) and every stream is
   terminated. Nothing is raised to the caller.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from connectrio.rpc._http2.drainable import MalformedMessage
from connectrio.rpc._http2.fast_path import FastH2Connection
from connectrio.rpc._http2.stream import Headers, Stream, StreamState, Termination, TerminationCause
from connectrio.rpc._http2.traffic import Traffic
from connectrio.rpc._http2.wakeup import Wakeup
from connectrio.rpc.options import PROTOCOL_WINDOW, ConnectionOptions

LAST_POSSIBLE_STREAM = 2**31 - 1

_TLS_RECORD = b"\x16\x03"  # RFC 8446 §5.1: what a TLS client sends first
_KEEPALIVE_PING = b"keepaliv"
# bytes; a client that accepts less is sent so much all the same, because it could be told nothing at all
_LEAST_ANSWER = 1024
# bytes. A smaller DATA frame that does not finish the data was most often cut by the peer's window. It earns no control
# frames (`_EARNED` in server_side.py)
_SMALL_FRAME = 1024


def h2_configuration(*, client_side: bool) -> H2Configuration:
    """Return how we configure h2."""
    return H2Configuration(
        client_side=client_side,
        # latin-1 never fails, so that no byte a peer puts into a header can break anything
        header_encoding="latin-1",
        # what we send is ours, and checked where it is made
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        # a server must be strict; a client accepts more (grpc's C core sends values that end in spaces)
        validate_inbound_headers=not client_side,
    )


class ConnectionState(enum.Enum):
    """Where a connection is in its life. It only ever moves down this list."""

    OPEN = enum.auto()
    DRAINING = enum.auto()  # a server has sent GOAWAY(2³¹-1): new streams are still accepted
    GOING_AWAY = enum.auto()  # the last stream is settled: new ones are refused
    CLOSED = enum.auto()  # nothing more is read; what is in the output is sent


class EndCause(enum.Enum):
    """Why a connection ended. The values are the words of the host's metrics.

    Only the last three are the peer's fault.
    """

    CLOSED_BY_PEER = "closed_by_peer"
    LOST = "lost"  # reading or writing failed
    DRAINED = "drained"
    STOPPED = "stopped"  # at once, from our side
    TIMEOUT = "timeout"  # the peer was too slow, or silent
    PROTOCOL_ERROR = "protocol_error"
    ABUSE = "abuse"  # a budget was used up

    @property
    def is_violation(self) -> bool:
        """Whether the peer did what it may not do."""
        return self in (EndCause.TIMEOUT, EndCause.PROTOCOL_ERROR, EndCause.ABUSE)


# how a connection ends that had no more to do than to drain
_ORDINARY = (EndCause.CLOSED_BY_PEER, EndCause.LOST, EndCause.STOPPED)


class HeadersTooLargeError(ValueError):
    """The headers to be sent are larger than the peer accepts (SETTINGS_MAX_HEADER_LIST_SIZE); nothing was sent."""


class Connection:
    """What a server's and a client's connection have in common.

    :param clock: seconds; the event loop's, where there is one
    :param traffic: counts what passes; None for counts of its own
    :ivar streams: the streams that are not released yet, by id
    :ivar end_reason: why the state is CLOSED, for people
    :ivar end_cause: the same in one of a few words; None before
    :ivar settings_received: the peer's settings are known, so that its part of the handshake is done
    :ivar heard_at: when the last bytes came
    :ivar reads: how many times bytes came
    :ivar idle_since: since when `streams` is empty; None while it is not
    :ivar header_block_since: when the unfinished header block began; None if there is none
    :ivar writing_since: when the unfinished write began; None if there is none
    :ivar pieces_sent: how many header blocks and pieces of data were sent
    :ivar data_frames_sent: how many DATA frames were sent, without those that are small because of the peer's window
    :ivar streams_ended: how many streams we have ended by headers, as a server ends each call that it answers
    :ivar header_list_limit: bytes, as RFC 9113 §6.5.2 counts them; the largest header list that the peer accepts
    :ivar received: woken when bytes come
    :ivar output_ready: woken when there is something for the writer
    :ivar output_taken: woken when the writer has taken everything, so that there is room again
    :ivar changed: woken when the state changes, when settings come, and by every stream released once the connection
        is ending
    """

    def __init__(
        self,
        options: ConnectionOptions,
        *,
        client_side: bool,
        settings: dict[SettingCodes | int, int],
        clock: Callable[[], float],
        traffic: Traffic | None = None,
    ) -> None:
        self.options = options
        self.state = ConnectionState.OPEN
        self.end_reason = ""
        self.end_cause: EndCause | None = None
        self.settings_received = False
        self.heard_at = clock()
        self.reads = 0
        self.idle_since: float | None = self.heard_at
        self.header_block_since: float | None = None
        self.writing_since: float | None = None
        self.pieces_sent = 0
        self.data_frames_sent = 0
        self.streams_ended = 0
        self.header_list_limit = math.inf
        self.traffic = Traffic() if traffic is None else traffic
        self.streams: dict[int, Stream] = {}
        self.received = Wakeup()
        self.output_ready = Wakeup()
        self.output_taken = Wakeup()
        self.changed = Wakeup()
        self._clock = clock
        self._blocked: dict[Stream, None] = {}
        self._unwritten: set[Stream] = set()  # a client's, whose request waits in the output
        # each event goes to its handlers in this order
        self._handlers: dict[type[Event], tuple[Callable[..., None], ...]] = {
            TrailersReceived: (self._trailers_received,),
            DataReceived: (self._data_received,),
            StreamEnded: (self._stream_ended,),
            StreamReset: (self._stream_reset,),
            MalformedMessage: (self._malformed_received,),
            WindowUpdated: (self._window_updated,),
            RemoteSettingsChanged: (self._settings_changed,),
        }
        self.h2 = FastH2Connection(h2_configuration(client_side=client_side))
        self.h2.limit_header_list(options.max_header_list_size)
        self.h2.local_settings.update({SettingCodes.INITIAL_WINDOW_SIZE: options.stream_window, **settings})
        self.h2.local_settings.acknowledge()  # in force from the first byte, not only once the peer has answered
        self.h2.initiate_connection()
        extra = options.connection_window - PROTOCOL_WINDOW
        if extra > 0:
            self.h2.increment_flow_control_window(extra)

    # the reader's side

    def feed(self, data: bytes) -> None:
        """Take in bytes from the peer; drop them if the connection is over."""
        if self.state is ConnectionState.CLOSED:
            return
        self.heard_at = self._clock()
        self.reads += 1
        self.traffic.bytes_received += len(data)
        self.received.wake()
        try:
            self.h2.feed(data)
        except ProtocolError as error:
            hint = "; the client speaks TLS, which this port does not" if data[:2] == _TLS_RECORD else ""
            self.fail(f"not HTTP/2: {error}{hint}", EndCause.PROTOCOL_ERROR)

    def process(self, max_frames: int) -> bool:
        """Act on up to `max_frames` whole frames of what was fed.

        :returns: whether there may be more
        """
        h2, handlers = self.h2, self._handlers
        for _ in range(max_frames):
            if self.state is ConnectionState.CLOSED:
                return False
            try:
                events = h2.next_events()
            except ProtocolError as error:
                self.fail(f"the peer broke the protocol: {error}", EndCause.PROTOCOL_ERROR)
                return False
            if events is None:
                break
            for event in events:
                for handler in handlers.get(type(event), ()):
                    handler(event)
        else:
            return True
        if not h2.is_inside_header_block():
            self.header_block_since = None
        elif self.header_block_since is None:
            self.header_block_since = self._clock()
        if h2.has_pending_output():
            self.output_ready.wake()
        return False

    def fail(self, reason: str, cause: EndCause = EndCause.LOST) -> None:
        """End a connection that cannot go on: terminate its streams. Only the first reason counts.

        What is in the output is still sent, unless a client's requests are in it. Then all of it is discarded, and the
        streams of these requests are terminated as NEVER_SENT.
        """
        if self.state is ConnectionState.CLOSED:
            return
        self.end_reason = reason
        is_draining = self.state is not ConnectionState.OPEN
        self.end_cause = EndCause.DRAINED if is_draining and cause in _ORDINARY else cause
        self._enter(ConnectionState.CLOSED)
        if self._unwritten:
            self.h2.clear_outbound_data_buffer()
        for stream in list(self.streams.values()):
            never_sent = stream in self._unwritten
            how = TerminationCause.NEVER_SENT if never_sent else TerminationCause.CONNECTION_LOST
            self._terminate(stream, Termination(how, detail=reason))
        # what is not read by now never is. Without these cycles no garbage collector is needed for it
        self._handlers = {}
        self.h2.discard_input()
        self.output_ready.wake()
        self.output_taken.wake()

    def finish(self) -> None:
        """End a connection that has done its work: the output that is there is sent, and nothing more is read."""
        self._unwritten.clear()
        self.fail("the connection was closed", EndCause.STOPPED)

    def ping(self) -> None:
        """Ask the peer for a sign of life; any byte that comes is one."""
        self.h2.ping(_KEEPALIVE_PING)
        self.output_ready.wake()

    def running(self) -> int:
        """Return how many streams are open for the peer: those that are over do not count, released or not."""
        return sum(stream.state is not StreamState.CLOSED for stream in self.streams.values())

    # the writer's side

    def output_size(self) -> int:
        """Return how many bytes wait for the writer."""
        return self.h2.pending_output_size()

    def take_output(self) -> bytes:
        """Take all bytes that wait; the caller must write them, or end the connection."""
        data = self.h2.data_to_send()
        self.traffic.bytes_sent += len(data)
        self._unwritten.clear()
        self.output_taken.wake()
        if self._blocked:
            self._unblock_all()
        return data

    # what streams ask: see `stream.StreamOwner`

    def send_headers(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None:
        """Put a header block into the output.

        :raises HeadersTooLargeError: the peer does not accept so much; nothing was sent
        """
        limit = self.header_list_limit
        if limit != math.inf:
            size = 0
            for name, value in headers:
                size += len(name) + len(value) + 32
            if size > limit:
                peer = "server" if self.h2.config.client_side else "client"
                raise HeadersTooLargeError(
                    f"the headers take {size} bytes, but the {peer} takes at most {limit}: send less metadata"
                )
        self.h2.put_headers(stream.id, headers, end_stream=end_stream)
        self.pieces_sent += 1
        if end_stream:
            self.streams_ended += 1
            stream.local_ended()
        self.output_ready.wake()

    def send_data(self, stream: Stream, data: memoryview, *, end_stream: bool) -> int:
        """Put as much of `data` into the output as the windows and the write buffer allow; return how much."""
        h2, size, sent = self.h2, len(data), 0
        if size == 0 and end_stream:
            h2.end_stream(stream.id)
            stream.local_ended()
        while sent < size:
            room = min(
                h2.local_flow_control_window(stream.id),
                h2.max_outbound_frame_size,
                self.options.write_buffer - h2.pending_output_size(),
            )
            if room <= 0:
                self._blocked[stream] = None
                break
            chunk = data[sent : sent + room]
            sent += len(chunk)
            last = end_stream and sent == size
            h2.put_data(stream.id, chunk, end_stream=last)
            if last:
                stream.local_ended()
        self.pieces_sent += 1
        if sent == size or sent >= _SMALL_FRAME:
            self.data_frames_sent += 1 + sent // h2.max_outbound_frame_size
        self.output_ready.wake()
        return sent

    def credit(self, stream_id: int, length: int) -> None:
        """Give `length` consumed bytes back to the peer's windows."""
        if length and self.state is not ConnectionState.CLOSED:
            self.h2.acknowledge_received_data(length, stream_id)
            if self.h2.has_pending_output():
                self.output_ready.wake()

    def reset(self, stream: Stream, error_code: ErrorCodes, detail: str) -> None:
        """Send RST_STREAM and terminate `stream`, unless it is over. This is no event: the caller knows it."""
        if stream.state is StreamState.CLOSED or self.state is ConnectionState.CLOSED:
            return
        self.h2.reset_stream(stream.id, error_code)
        self.traffic.stream_reset("us", error_code)
        stream.terminate(Termination(TerminationCause.RESET_BY_US, error_code, detail))
        self.output_ready.wake()

    def forget(self, stream: Stream, unread: int) -> None:
        """Credit the `unread` bytes of `stream`, and remove it."""
        if unread:
            self.credit(stream.id, unread)
        self._blocked.pop(stream, None)
        self.streams.pop(stream.id, None)
        self.h2.forget_stream(stream.id)
        if not self.streams:
            self.idle_since = self._clock()
        if self.state is not ConnectionState.OPEN:
            self.changed.wake()

    # what the peer's frames mean

    def _trailers_received(self, event: TrailersReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.trailers = event.headers  # type: ignore[assignment]  # header_encoding is set, so these are str
            stream.readable.wake()

    def _data_received(self, event: DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None or stream.termination is not None:
            self.credit(event.stream_id, event.flow_controlled_length)
        else:
            stream.received(event.data, event.flow_controlled_length)

    def _stream_ended(self, event: StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.remote_ended()

    def _stream_reset(self, event: StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            cause = TerminationCause.RESET_BY_PEER if event.remote_reset else TerminationCause.RESET_BY_US
            self.traffic.stream_reset("peer" if event.remote_reset else "us", event.error_code)
            self._terminate(stream, Termination(cause, event.error_code))

    def _malformed_received(self, event: MalformedMessage) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None or stream.state is not StreamState.CLOSED:
            self.traffic.stream_reset("us", event.error_code)
        if stream is None:
            self.h2.forget_stream(event.stream_id)
        else:
            reason = f"the peer sent a malformed message: {event.reason}"
            self._terminate(stream, Termination(TerminationCause.RESET_BY_US, event.error_code, reason))

    def _window_updated(self, event: WindowUpdated) -> None:
        if event.stream_id == 0:
            self._unblock_all()
            return
        stream = self.streams.get(event.stream_id)
        if stream is not None and stream in self._blocked:
            del self._blocked[stream]
            stream.writable.wake()

    def _settings_changed(self, event: RemoteSettingsChanged) -> None:
        self.settings_received = True
        if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
            self._unblock_all()
        limit = self.h2.remote_settings.max_header_list_size
        least = 0 if self.h2.config.client_side else _LEAST_ANSWER
        self.header_list_limit = math.inf if limit is None else max(limit, least)
        self.changed.wake()

    def _terminate(self, stream: Stream, termination: Termination) -> None:
        """Cut `stream` short, for another reason than `reset`."""
        stream.terminate(termination)

    def _unblock_all(self) -> None:
        blocked, self._blocked = self._blocked, {}
        for stream in blocked:
            stream.writable.wake()

    def _enter(self, state: ConnectionState) -> None:
        self.state = state
        self.changed.wake()
