"""A server that misbehaves as grpc's "Negative HTTP/2 Interop Test Case Descriptions" say.

What grpc-go installs as `interop/http2` is the client of these cases. Their server is a program for Python 2, so they
are played here, and grpc-go's client is asked whether they are played well.
"""

from __future__ import annotations

import struct
from collections import Counter

import anyio
from anyio.abc import ByteStream, SocketAttribute, TaskStatus
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, PingAckReceived, RequestReceived, WindowUpdated
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame

from interop.messages import Payload, SimpleRequest, SimpleResponse

CASES = [
    "goaway",
    "rst_after_header",
    "rst_during_data",
    "rst_after_data",
    "ping",
    "max_streams",
    "data_frame_padding",
    "no_df_padding_sanity_test",
]

_HEADERS = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-encoding", "identity")]
_PREFIX = struct.Struct(">BI")
_FRAME = 16_384
_SMALL_FRAME = 5  # bytes of payload, in frames that are nearly all padding
_PADDING = 255


class Misbehaving:
    """Plays one of `CASES` to whoever connects.

    :ivar connections: how many there were
    :ivar answered: how many calls were answered in full
    :ivar pings: how many PINGs were sent, and how many of these came back
    :ivar most_streams: how many streams there were at once, at most
    """

    def __init__(self, case: str) -> None:
        self.case = case
        self.connections = 0
        self.answered = 0
        self.pings: Counter[str] = Counter()
        self.most_streams = 0

    async def serve(self, *, task_status: TaskStatus[int]) -> None:
        """Serve until cancelled; reports the port."""
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            task_status.started(listener.extra(SocketAttribute.local_port))
            await listener.serve(self._serve_connection)

    async def _serve_connection(self, transport: ByteStream) -> None:
        self.connections += 1
        async with transport:
            connection = _Connection(self)
            try:
                while True:
                    await transport.send(connection.output())
                    connection.receive(await transport.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass


class _Connection:
    """One connection: bytes in, bytes out."""

    def __init__(self, server: Misbehaving) -> None:
        self._server = server
        self._case = server.case
        self._h2 = H2Connection(H2Configuration(client_side=False))
        self._requests: dict[int, bytearray] = {}
        self._responses: dict[int, bytes] = {}
        self._farewell = b""
        self._h2.initiate_connection()
        if self._case == "max_streams":
            # not with the first SETTINGS: the client has to learn of it
            self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})

    def output(self) -> bytes:
        data = self._h2.data_to_send() + self._farewell
        self._farewell = b""
        return data

    def receive(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            self._handle(event)

    def _handle(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event.stream_id)
        elif isinstance(event, DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self._read(event.stream_id, event.data)
        elif isinstance(event, WindowUpdated):
            for stream_id in list(self._responses):
                self._send(stream_id)
        elif isinstance(event, PingAckReceived):
            self._server.pings["came back"] += 1

    def _begin(self, stream_id: int) -> None:
        self._requests[stream_id] = bytearray()
        self._server.most_streams = max(self._server.most_streams, len(self._requests))
        self._ping()
        self._h2.send_headers(stream_id, _HEADERS)
        self._ping()
        if self._case == "rst_after_header":
            self._reset(stream_id)

    def _read(self, stream_id: int, data: bytes) -> None:
        request = self._requests.get(stream_id)
        if request is None:
            return
        request += data
        if len(request) >= _PREFIX.size and len(request) == _PREFIX.size + _PREFIX.unpack_from(request)[1]:
            self._respond(stream_id, SimpleRequest.parse(bytes(request[_PREFIX.size :])))

    def _respond(self, stream_id: int, request: SimpleRequest) -> None:
        message = bytes(SimpleResponse(payload=Payload(body=bytes(request.response_size))))
        response = _PREFIX.pack(0, len(message)) + message
        if self._case == "rst_during_data":
            response = response[: len(response) // 2]
        self._ping()
        self._responses[stream_id] = response
        self._send(stream_id)
        self._ping()

    def _send(self, stream_id: int) -> None:
        padding = _PADDING if self._case == "data_frame_padding" else None
        overhead = 0 if padding is None else padding + 1
        size = _SMALL_FRAME if self._case in ("data_frame_padding", "no_df_padding_sanity_test") else _FRAME
        response, sent = self._responses[stream_id], 0
        while sent < len(response):
            room = min(size, self._h2.local_flow_control_window(stream_id) - overhead)
            if room <= 0:
                self._responses[stream_id] = response[sent:]
                return
            chunk = response[sent : sent + room]
            self._h2.send_data(stream_id, chunk, pad_length=padding)
            sent += len(chunk)
        del self._responses[stream_id]
        self._finish(stream_id)

    def _finish(self, stream_id: int) -> None:
        if self._case in ("rst_during_data", "rst_after_data"):
            self._reset(stream_id)
            return
        self._h2.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)
        del self._requests[stream_id]
        self._server.answered += 1
        if self._case == "goaway":
            # not h2's own, which would end the connection for both sides
            self._farewell += GoAwayFrame(0, last_stream_id=stream_id).serialize()

    def _reset(self, stream_id: int) -> None:
        del self._requests[stream_id]
        self._h2.reset_stream(stream_id)

    def _ping(self) -> None:
        if self._case == "ping":
            self._server.pings["sent"] += 1
            self._h2.ping(bytes(8))
