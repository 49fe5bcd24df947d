"""h2's connection, without the behaviour that gRPC cannot use.

h2 closes its state machine when a GOAWAY is sent or received, so that nothing can follow it; a gRPC server drains
instead (gRFC A9), and RFC 9113 §6.8 lets streams that were begun before it finish. h2 also ends the whole connection
when a peer opens one stream too many or sends one malformed message, and counts its streams by walking through all of
them. Here GOAWAY is a frame like any other, a malformed message ends only its own stream (RFC 9113 §8.1.1), and our
core counts, refuses and forgets streams.
"""

from __future__ import annotations

from dataclasses import dataclass

from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event
from h2.exceptions import InvalidBodyLengthError, ProtocolError, StreamClosedError
from h2.settings import SettingCodes
from hpack.exceptions import HPACKError
from hyperframe.exceptions import InvalidPaddingError
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame


class FrameWithoutEffect(Event):
    """A frame that meant nothing, such as a WINDOW_UPDATE of a stream that is over, or an empty DATA frame.

    It still took time to read.
    """


# The largest header table that the peer's SETTINGS_HEADER_TABLE_SIZE can make our encoder hold. 4096 is the protocol's
# default, and gRPC's few headers fit in it (h2 would accept any number up to 2³²-1).
MAX_ENCODER_TABLE_SIZE = 4096


@dataclass(frozen=True)
class MalformedMessage(Event):
    """The peer sent headers, trailers or a body that HTTP forbids; its stream was reset with PROTOCOL_ERROR."""

    stream_id: int
    reason: str


class DrainableH2Connection(H2Connection):
    """An `H2Connection` that keeps working after a GOAWAY, and leaves counting streams to its owner."""

    # For this many closed streams h2 remembers how they ended, to tell a late frame from a wrong one. Its own 65,536
    # would cost megabytes on a busy connection; this covers a second of 8,000 calls.
    MAX_CLOSED_STREAMS = 8192

    def limit_header_list(self, size: int) -> None:
        """Advertise and enforce SETTINGS_MAX_HEADER_LIST_SIZE; call it before `initiate_connection`.

        h2 applies the setting to its decoder only when a change of it is acknowledged, never the initial value.
        """
        self.local_settings[SettingCodes.MAX_HEADER_LIST_SIZE] = size
        self.decoder.max_header_list_size = size

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
        try:
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

    def has_pending_output(self) -> bool:
        """Return whether `data_to_send` would return anything."""
        return bool(self._data_to_send)

    def pending_output_size(self) -> int:
        """Return how many bytes `data_to_send` would return."""
        return len(self._data_to_send)

    def is_inside_header_block(self) -> bool:
        """Return whether a header block has begun, in HEADERS or CONTINUATION frames, and not ended."""
        return bool(self.incoming_buffer._headers_buffer)  # noqa: SLF001 - h2 does not tell otherwise

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

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        try:
            return super()._receive_headers_frame(frame)
        except ProtocolError as error:
            is_open = frame.stream_id in self.streams and not isinstance(error, StreamClosedError)
            if not is_open or isinstance(error.__cause__, HPACKError):  # whose table is lost, with the connection
                raise
            return [], [self._refuse_malformed(frame.stream_id, error)]

    def _receive_data_frame(self, frame: DataFrame) -> tuple[list[Frame], list[Event]]:
        try:
            return super()._receive_data_frame(frame)
        except InvalidBodyLengthError as error:  # another length than content-length has
            event = self._refuse_malformed(frame.stream_id, error)
            self.acknowledge_received_data(frame.flow_controlled_length, frame.stream_id)
            return [], [event]

    def _refuse_malformed(self, stream_id: int, error: ProtocolError) -> MalformedMessage:
        if not self.streams[stream_id].closed:
            self.reset_stream(stream_id, ErrorCodes.PROTOCOL_ERROR)
        return MalformedMessage(stream_id, str(error))

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
