"""One gRPC call at a time over a blocking socket: to see when a host serves, and that its answers are right.

Not for load. A client library would bring threads and reconnect in its own time; this one says what happened.
"""

from __future__ import annotations

import socket
import struct

import h2.config
import h2.connection
import h2.events
import h2.settings
from work import Work, frame

HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
_WINDOW = 2**31 - 1


def call(port: int, path: str, message: bytes, seconds: float = 60) -> tuple[str, list[bytes]]:
    """The status and the messages that a call of its own connection is answered with.

    :raises OSError: nobody is there, or the connection broke
    """
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Call(connection, port, path, frame(message)).run()


def verify(port: int, work: Work) -> int:
    """Make one call, and see that its answer is right; the size of the answer's DATA in bytes.

    :raises SystemExit: it is not
    """
    status, messages = call(port, work.path, work.request.SerializeToString())
    work.check(status, messages)
    return sum(len(frame(message)) for message in messages)


def is_serving(port: int) -> bool:
    """What the host says of its health; False also while nobody is there."""
    try:
        return call(port, HEALTH, b"", seconds=5) == ("0", [SERVING])
    except OSError:
        return False


class _Call:
    def __init__(self, connection: socket.socket, port: int, path: str, request: bytes) -> None:
        self._socket = connection
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW - 65535)
        self._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW})
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", f"127.0.0.1:{port}"),
            (":path", path),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        self._h2.send_headers(1, headers)
        self._unsent = request
        self._data = bytearray()
        self._status = ""
        self._done = False

    def run(self) -> tuple[str, list[bytes]]:
        while not self._done:
            self._send_some()
            self._socket.sendall(self._h2.data_to_send())
            received = self._socket.recv(1 << 16)
            if not received:
                raise ConnectionError("the server closed the connection before it answered")
            for event in self._h2.receive_data(received):
                self._on(event)
        return self._status, _messages(bytes(self._data))

    def _send_some(self) -> None:
        while self._unsent:
            room = min(self._h2.local_flow_control_window(1), self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            chunk, self._unsent = self._unsent[:room], self._unsent[room:]
            self._h2.send_data(1, chunk, end_stream=not self._unsent)

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self._data += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, 1)
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self._status = dict(event.headers or []).get("grpc-status", self._status)
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            self._done = True
        elif isinstance(event, h2.events.ConnectionTerminated):
            raise ConnectionError(f"the server went away: {event}")


def _messages(data: bytes) -> list[bytes]:
    found = []
    while data:
        _, length = struct.unpack(">BI", data[:5])
        found.append(data[5 : 5 + length])
        data = data[5 + length :]
    return found
