"""The server's side of the core: admitting streams, the drain (gRFC A9), and what a client may not do."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    Event,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    SettingsAcknowledged,
    StreamReset,
    UnknownFrameReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes

from connectrio.rpc._http2.budgets import PingPolicy, TokenBucket
from connectrio.rpc._http2.connection import LAST_POSSIBLE_STREAM, Connection, ConnectionState, EndCause
from connectrio.rpc._http2.drainable import FrameWithoutEffect, MalformedMessage, OversizedRequest
from connectrio.rpc._http2.stream import Stream, Termination
from connectrio.rpc._http2.traffic import Traffic
from connectrio.rpc.options import ServerOptions

_DRAIN_PING = b"drain..."

# frames that a client may send for each DATA frame it was sent: a WINDOW_UPDATE for the stream and for the connection.
# For each call that was answered it may send one: a reset that has crossed the answer.
# Small frames that the client's window caused earn nothing: to open it by a byte at a time is an attack of its own
# (CVE-2019-9511)
_EARNED = 2

# seconds. Resetting a call at least this old costs nothing: MAX_CONCURRENT_STREAMS bounds such calls
_RAPID = 1.0
# seconds. Nor does resetting a call when its deadline passes, which the client's clock may say a little earlier than
# ours: its call was on the way before it came here. Of a short deadline, half must have passed
_DEADLINE_TOLERANCE = 0.05
# seconds; a call must be at least this old, or a deadline of a nanosecond would make all resets free
_LEAST_PATIENCE = 0.005
# ended calls that may still be cleaning up, besides the running ones; MAX_CONCURRENT_STREAMS if that is more. A client
# that keeps to its limit never waits for our cleaning up
_WINDING_UP = 100
# seconds until a budget for resets that was used up is whole again, as in nghttp2: 1,000 at once, and 33 a second
_RESET_RECOVERY = 30.0


class Cost(enum.Enum):
    """What a frame of the client's uses up."""

    CONTROL = enum.auto()  # one of the frames that carry no call
    PING = enum.auto()  # the same, and it must not come too often
    RESET = enum.auto()  # a stream that was begun for nothing


_COSTS: dict[type[Event], Cost] = {
    WindowUpdated: Cost.CONTROL,
    RemoteSettingsChanged: Cost.CONTROL,
    SettingsAcknowledged: Cost.CONTROL,
    PriorityUpdated: Cost.CONTROL,
    UnknownFrameReceived: Cost.CONTROL,
    FrameWithoutEffect: Cost.CONTROL,
    ConnectionTerminated: Cost.CONTROL,
    PingAckReceived: Cost.CONTROL,
    PingReceived: Cost.PING,
    StreamReset: Cost.RESET,
    MalformedMessage: Cost.RESET,
}


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A stream was admitted. By now it may be terminated.

    :ivar stream: its `headers` are set, unless they were too large
    :ivar oversized: bytes, as RFC 9113 §6.5.2 counts them, of a header list over `max_header_list_size`; else 0
    """

    stream: Stream
    oversized: int = 0


@dataclass(frozen=True, slots=True)
class StreamTerminated:
    """A stream was cut short, by anything but `Stream.reset`."""

    stream: Stream


class ServerConnection(Connection):
    """A connection that a client opened."""

    options: ServerOptions

    def __init__(
        self,
        options: ServerOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        traffic: Traffic | None = None,
    ) -> None:
        settings: dict[SettingCodes | int, int] = {SettingCodes.MAX_CONCURRENT_STREAMS: options.max_concurrent_streams}
        super().__init__(options, client_side=False, settings=settings, clock=clock, traffic=traffic)
        now = self.heard_at
        self._events: list[RequestArrived | StreamTerminated] = []
        self._resets = TokenBucket(options.reset_budget, now, rate=options.reset_budget / _RESET_RECOVERY)
        self._control_frames = TokenBucket(options.control_budget, now)
        self._ping_policy = PingPolicy(options.min_ping_interval)
        self._handlers |= {
            RequestReceived: (self._request_received,),
            OversizedRequest: (self._request_received,),
            PingAckReceived: (self._ping_acknowledged,),
        }
        for kind, cost in _COSTS.items():
            self._handlers[kind] = (partial(self._charge, cost), *self._handlers.get(kind, ()))

    @property
    def had_calls(self) -> bool:
        """Whether the client has opened a stream."""
        return self.h2.highest_inbound_stream_id > 0

    def take_events(self) -> list[RequestArrived | StreamTerminated]:
        """Take what has happened since the last time, in order. Called after whatever may have caused events."""
        if not self._events:
            return []
        events, self._events = self._events, []
        return events

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

    # what the client's frames mean

    def _request_received(self, event: RequestReceived | OversizedRequest) -> None:
        limit, count = self.options.max_concurrent_streams, len(self.streams)
        # full: too many streams are open for the client, or too many are open or cleaning up
        is_full = count >= limit and (count >= limit + max(limit, _WINDING_UP) or self.running() >= limit)
        if is_full or self.state is ConnectionState.GOING_AWAY:
            self.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            self.h2.forget_stream(event.stream_id)
            self.traffic.stream_reset("us", ErrorCodes.REFUSED_STREAM)
            self._charge(Cost.RESET)
            return
        stream = self.streams[event.stream_id] = Stream(self, event.stream_id)
        stream.opened_at = self.heard_at
        self.idle_since = None
        self.traffic.streams_opened += 1
        if isinstance(event, RequestReceived):
            stream.headers = event.headers  # type: ignore[assignment]  # header_encoding is set, so these are str
            self._events.append(RequestArrived(stream))
        else:
            self._events.append(RequestArrived(stream, event.size))

    def _ping_acknowledged(self, event: PingAckReceived) -> None:
        if event.ping_data == _DRAIN_PING:
            self.settle()

    def _terminate(self, stream: Stream, termination: Termination) -> None:
        if stream.terminate(termination):
            self._events.append(StreamTerminated(stream))

    # what they cost

    def _charge(self, cost: Cost, event: Event | None = None) -> None:
        """Charge a frame, and end the connection of a client that has used up its budget."""
        now = self._clock()
        if cost is Cost.RESET:
            if isinstance(event, StreamReset) and event.remote_reset:
                stream = self.streams.get(event.stream_id)
                if stream is not None and self._is_patient_reset(stream):
                    return
            if not self._resets.take(now):
                self._calm("too many streams were reset")
        elif not self._control_frames.take(now, earned=_EARNED * self.data_frames_sent + self.streams_ended):
            self._calm("too many frames that carry no call")
        elif cost is Cost.PING and not self._ping_policy.is_allowed(
            now, has_calls=bool(self.streams), pieces_sent=self.pieces_sent
        ):
            self._calm("too_many_pings")  # the words that clients look for (gRFC A8)

    def _is_patient_reset(self, stream: Stream) -> bool:
        """Return whether a client has waited before it resets `stream` now: to its deadline, or long enough.

        Times are those of the reads: calls that come together with their resets have waited for nothing.
        """
        timeout = stream.deadline - stream.opened_at
        patience = max(timeout - _DEADLINE_TOLERANCE, timeout / 2, _LEAST_PATIENCE)
        return self.heard_at - stream.opened_at >= min(patience, _RAPID)

    def _calm(self, reason: str) -> None:
        """End the connection of a client that asks for too much."""
        self.h2.send_goaway(ErrorCodes.ENHANCE_YOUR_CALM, self.h2.highest_inbound_stream_id, reason.encode())
        self.fail(reason, EndCause.ABUSE)
