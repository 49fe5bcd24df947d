"""h2's connection, without the behaviour that gRPC cannot use.

h2 closes its state machine when a GOAWAY is sent or received, so that nothing can follow it; a gRPC server drains
instead (gRFC A9), and RFC 9113 §6.8 lets streams that were begun before it finish. h2 also ends the whole connection
when a peer opens one stream too many or sends one malformed message, and counts its streams by walking through all of
them. Here GOAWAY is a frame like any other, a malformed message ends only its own stream (RFC 9113 §8.1.1), and our
core counts, refuses and forgets streams.

h2 also answers each frame of a stream that we have reset with one more RST_STREAM, which proxies take for a failed
answer, and servers for an attack. Here they are ignored (RFC 9113 §5.1): the peer may have sent them before it read the
first one.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from h2.connection import AllowedStreamIDs, ConnectionInputs, H2Connection, _decode_headers
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event
from h2.exceptions import FrameTooLargeError, InvalidBodyLengthError, ProtocolError, StreamClosedError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes
from h2.stream import StreamClosedBy, StreamInputs
from hpack.exceptions import HPACKError
from hyperframe.exceptions import InvalidPaddingError
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame

from connectrio.rpc._http2.hpack import HeaderDecoder, OversizedListError

if TYPE_CHECKING:
    from h2.config import H2Configuration


class FrameWithoutEffect(Event):
    """A frame that meant nothing, such as a WINDOW_UPDATE of a stream that is over, or an empty DATA frame.

    It still took time to read.
    """


# The largest header table that the peer's SETTINGS_HEADER_TABLE_SIZE can make our encoder hold. 4096 is the protocol's
# default, and gRPC's few headers fit in it (h2 would accept any number up to 2³²-1).
MAX_ENCODER_TABLE_SIZE = 4096

# Header lists over our limit are decoded to their end, so that both sides' tables agree, and only their streams are
# refused. Proxies send the calls of many clients over one connection, and let more through than we take (Envoy 60 KiB
# by default). A list this many times as large as the limit ends the connection.
_DECODED_LISTS = 16

# characters; h2 puts the header that it does not like into the text of its error
_LONGEST_REASON = 300

_FRAME_HEADER_SIZE = 9
# RFC 9113 §4.1 and §6.9: the whole frame; the stream's id is in the group, the first bit of both numbers is reserved
_ZERO_INCREMENT = re.compile(rb"\0\0\x04\x08.(....)[\0\x80]\0\0\0", re.DOTALL)
_ZERO_INCREMENT_SIZE = 13


@dataclass(frozen=True)
class MalformedMessage(Event):
    """The peer sent headers, trailers or a body that cannot be accepted; its stream was reset."""

    stream_id: int
    reason: str
    error_code: ErrorCodes = ErrorCodes.PROTOCOL_ERROR


@dataclass(frozen=True)
class OversizedRequest(Event):
    """The peer opened a stream with a header list over our limit; the stream can be answered.

    :ivar size: bytes, as RFC 9113 §6.5.2 counts them
    """

    stream_id: int
    size: int


class DrainableH2Connection(H2Connection):
    """An `H2Connection` that keeps working after a GOAWAY, and leaves counting streams to its owner."""

    # For this many closed streams h2 remembers how they ended, to tell a late frame from a wrong one. Its own 65,536
    # would cost megabytes on a busy connection; this covers a second of 8,000 calls.
    MAX_CLOSED_STREAMS = 8192

    decoder: HeaderDecoder

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self.decoder = HeaderDecoder()

    def limit_header_list(self, size: int) -> None:
        """Advertise and enforce SETTINGS_MAX_HEADER_LIST_SIZE; call it before `initiate_connection`.

        h2 applies the setting to its decoder only when a change of it is acknowledged, never the initial value.
        """
        self.local_settings[SettingCodes.MAX_HEADER_LIST_SIZE] = size
        self.decoder.accepted_list_size = size
        self.decoder.max_header_list_size = _DECODED_LISTS * size

    @property
    def open_inbound_streams(self) -> int:
        """Always 0: the owner counts, and refuses a stream without ending the connection."""
        return 0

    @property
    def open_outbound_streams(self) -> int:
        """Always 0: the owner counts, and queues what the peer does not allow yet."""
        return 0

    def feed(self, data: bytes) -> None:
        """Take in bytes from the peer; `next_events` returns what they mean."""
        self.incoming_buffer.add_data(data)
        self.incoming_buffer.max_frame_size = self.max_inbound_frame_size

    def next_events(self) -> list[Event] | None:
        """Return the events of the next whole frame, or None when there is none yet.

        Data of a stream that is over is no event: a client cannot know how much of what it sends comes too late.

        :raises ProtocolError: the peer broke the protocol; a GOAWAY is waiting to be sent, and this connection is over
        """
        if len(self.incoming_buffer._data) < _FRAME_HEADER_SIZE:  # noqa: SLF001 - h2 does not tell otherwise
            return None
        try:
            self._check_frame_size()
            stream_id = self._take_zero_increment()
            if stream_id:
                return [self._refuse_malformed(stream_id, "a WINDOW_UPDATE by 0")]
            frame = next(self.incoming_buffer, None)
            if frame is None:
                return None
            events = self._receive_frame(frame)
        except InvalidPaddingError as error:
            self._terminate_connection(ErrorCodes.PROTOCOL_ERROR)
            raise ProtocolError("Received frame with invalid padding.") from error
        except ProtocolError as error:
            self._terminate_connection(error.error_code)
            raise
        if isinstance(frame, DataFrame) and (frame.data or (events and "END_STREAM" in frame.flags)):
            return events
        return [*events, FrameWithoutEffect()] if isinstance(frame, DataFrame) or not events else events

    def discard_input(self) -> None:
        """Forget what was fed and not read, and how to read more: call neither `feed` nor `next_events` any more."""
        self.incoming_buffer = FrameBuffer()
        self._frame_dispatch_table = {}

    def has_pending_output(self) -> bool:
        """Return whether `data_to_send` would return anything."""
        return bool(self._data_to_send)

    def pending_output_size(self) -> int:
        """Return how many bytes `data_to_send` would return."""
        return len(self._data_to_send)

    def is_inside_header_block(self) -> bool:
        """Return whether a header block has begun, in HEADERS or CONTINUATION frames, and not ended."""
        return bool(self.incoming_buffer._headers_buffer)  # noqa: SLF001 - as above

    def forget_stream(self, stream_id: int) -> None:
        """Drop h2's record of a closed stream, remembering only how it ended."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.closed:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.closed_by

    def send_goaway(self, error_code: ErrorCodes, last_stream_id: int, reason: bytes = b"") -> None:
        """Send a GOAWAY (RFC 9113 §6.8) and stay open for the streams up to `last_stream_id`."""
        frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=error_code, additional_data=reason)
        self._prepare_for_sending([frame])

    def _check_frame_size(self) -> None:
        """Check the next frame's size before all of it has come, as h2 does not: up to 16 MiB would wait for its end.

        :raises FrameTooLargeError: it is over our SETTINGS_MAX_FRAME_SIZE
        """
        size = int.from_bytes(self.incoming_buffer._data[:3], "big")  # noqa: SLF001 - as above
        if size > self.max_inbound_frame_size:
            raise FrameTooLargeError(f"a frame of {size} bytes, more than the {self.max_inbound_frame_size} allowed")

    def _take_zero_increment(self) -> int:
        """Take a WINDOW_UPDATE by 0 from the buffer, which is an error of its stream alone (RFC 9113 §6.9).

        :returns: the stream; 0 if the next frame is another, or h2 must judge it
        """
        buffer = self.incoming_buffer
        found = None if self.is_inside_header_block() else _ZERO_INCREMENT.match(buffer._data)  # noqa: SLF001 - as above
        stream_id = int.from_bytes(found[1], "big") if found else 0
        if stream_id not in self.streams:
            return 0
        del buffer._data[:_ZERO_INCREMENT_SIZE]  # noqa: SLF001 - as above
        return stream_id

    def _is_reset_by_us(self, stream_id: int) -> bool:
        return self._stream_closed_by(stream_id) is StreamClosedBy.SEND_RST_STREAM

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        if self._is_reset_by_us(frame.stream_id):
            self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
            with suppress(OversizedListError):
                _decode_headers(self.decoder, frame.data)  # which may change HPACK's table
            return [], []
        try:
            return super()._receive_headers_frame(frame)
        except OversizedListError as error:
            return [], self._refuse_oversized(frame, error)
        except ProtocolError as error:
            is_open = frame.stream_id in self.streams and not isinstance(error, StreamClosedError)
            if not is_open or isinstance(error.__cause__, HPACKError):  # whose table is lost, with the connection
                raise
            return [], [self._refuse_malformed(frame.stream_id, str(error))]

    def _refuse_oversized(self, frame: HeadersFrame, error: OversizedListError) -> list[Event]:
        """Reset the stream of a header list over our limit; a stream that it opens is left to the owner to answer."""
        is_new = frame.stream_id not in self.streams
        self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        stream = self._get_or_create_stream(frame.stream_id, AllowedStreamIDs(not self.config.client_side))
        machine = stream.state_machine
        machine.process_input(StreamInputs.RECV_HEADERS)
        ended = machine.process_input(StreamInputs.RECV_END_STREAM) if "END_STREAM" in frame.flags else []
        if is_new:
            return [OversizedRequest(frame.stream_id, error.size), *ended]
        return [self._refuse_malformed(frame.stream_id, str(error), ErrorCodes.ENHANCE_YOUR_CALM)]

    def _receive_data_frame(self, frame: DataFrame) -> tuple[list[Frame], list[Event]]:
        length = frame.flow_controlled_length
        if self._is_reset_by_us(frame.stream_id):
            self.state_machine.process_input(ConnectionInputs.RECV_DATA)
            self._inbound_flow_control_window_manager.window_consumed(length)
            self.acknowledge_received_data(length, frame.stream_id)
            return [], []
        try:
            return super()._receive_data_frame(frame)
        except InvalidBodyLengthError as error:  # another length than content-length has
            event = self._refuse_malformed(frame.stream_id, str(error))
            self.acknowledge_received_data(length, frame.stream_id)
            return [], [event]

    def _receive_naked_continuation(self, frame: ContinuationFrame) -> None:
        raise ProtocolError(f"CONTINUATION on stream {frame.stream_id} outside of a header block (RFC 9113 §6.10)")

    def _refuse_malformed(
        self, stream_id: int, reason: str, error_code: ErrorCodes = ErrorCodes.PROTOCOL_ERROR
    ) -> MalformedMessage:
        if not self.streams[stream_id].closed:
            self.reset_stream(stream_id, error_code)
        return MalformedMessage(stream_id, reason[:_LONGEST_REASON], error_code)

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        try:
            code: ErrorCodes | int = ErrorCodes(frame.error_code)
        except ValueError:
            code = frame.error_code
        event = ConnectionTerminated()
        event.error_code = code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]

    def _acknowledge_settings(self) -> list[Frame]:
        frames = super()._acknowledge_settings()
        if self.encoder.header_table_size > MAX_ENCODER_TABLE_SIZE:
            self.encoder.header_table_size = MAX_ENCODER_TABLE_SIZE
        return frames
