"""An attacker's connection: it sends arbitrary frames, and counts the answers."""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Decoder

from drills.orders import GET
from rpc.kit.frames import FrameFactory, request_headers

_HEADERS, _RST_STREAM, _GOAWAY = 0x1, 0x3, 0x7
_END_STREAM = 0x1

# bytes of frames to send at once in a flood
BATCH = 16 * 1024


class AttackEndedError(Exception):
    """The host has closed the connection, or the attacker's time is over."""


@dataclass(frozen=True)
class Answer:
    """The answers to an attacker on one connection.

    :ivar ending: how the host ended it: "GOAWAY <code>", "closed", "reset" or "refused"; "open" if it did not, and the
        attacker had nothing more to do; "time" if it did not as long as the attacker had time
    :ivar frames: how many frames it had sent by then
    :ivar seconds: how long that took
    :ivar resets: the streams that the host has reset, by error code
    :ivar statuses: the calls that the host has answered, by gRPC status
    """

    ending: str
    frames: int
    seconds: float
    resets: Mapping[str, int]
    statuses: Mapping[str, int]


class Wire:
    """A connection to a host; its owner closes it.

    :param ends: when the attacker's time is over, on the monotonic clock
    :param receive_buffer: bytes that the kernel holds for this end; small, a peer that does not read is felt soon
    :ivar make: makes frames
    :ivar frames: how many were sent
    :ivar reads: whether it takes in what the host sends
    """

    def __init__(self, target: str, ends: float, *, receive_buffer: int | None = None) -> None:
        self.make = FrameFactory()
        self.frames = 0
        self.reads = True
        self._ends = ends
        self._began = time.monotonic()
        self._ending: str | None = None
        self._input = b""
        self._decoder = Decoder()
        self._decoder.max_allowed_table_size = 2**32 - 1
        self._resets: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        host, _, port = target.rpartition(":")
        try:
            self._socket.connect((host, int(port)))
        except OSError:
            self._ending = "refused"
        self._socket.setblocking(False)

    def close(self) -> Answer:
        """Close the connection. Return the counts."""
        self._socket.close()
        seconds = time.monotonic() - self._began
        return Answer(self._ending or "open", self.frames, seconds, dict(self._resets), dict(self._statuses))

    # sending

    def open(self, settings: Mapping[SettingCodes, int] | None = None) -> None:
        """Do the client's part of the HTTP/2 handshake."""
        self.send(self.make.preface(settings) + self.make.settings_ack(), frames=2)

    def request(self, stream_id: int, *, end_stream: bool = False) -> bytes:
        """Return the headers of a call of GetTask."""
        return self.make.headers(stream_id, request_headers({":path": GET}), end_stream=end_stream)

    def call(self, stream_id: int, message: bytes) -> bytes:
        """Return a whole call of GetTask."""
        return self.request(stream_id) + self.make.message(stream_id, message, end_stream=True)

    def send(self, data: bytes, *, frames: int = 1) -> None:
        """Send bytes, that are so many frames, and take in what the host says meanwhile.

        :raises AttackEndedError: as it says
        """
        view = memoryview(data)
        while view:
            view = view[self._turn(view) :]
        self.frames += frames

    def flood(self, frame: bytes) -> None:
        """Send the same frame until the host ends it, or the time is over.

        :raises AttackEndedError: always
        """
        count = max(1, BATCH // len(frame))
        while True:
            self.send(frame * count, frames=count)

    def wait(self, seconds: float | None = None) -> None:
        """Send nothing for some time, or until the end.

        :raises AttackEndedError: as it says; always, if there is no end to the waiting
        """
        until = self._ends if seconds is None else min(self._ends, time.monotonic() + seconds)
        while seconds is None or time.monotonic() < until:
            self._turn(None, until)

    def wait_for_answers(self, count: int) -> None:
        """Send nothing until so many streams were answered, with a status or a reset.

        :raises AttackEndedError: as it says
        """
        while self._resets.total() - self._resets["NO_ERROR"] + self._statuses.total() < count:
            self._turn(None)

    def _turn(self, view: memoryview | None, until: float | None = None) -> int:
        """Wait until the socket is ready, then receive or send. Return the number of bytes sent."""
        left = (self._ends if until is None else until) - time.monotonic()
        if self._ending is None and self._ends <= time.monotonic():
            self._ending = "time"
        if self._ending is not None:
            raise AttackEndedError
        poll = select.poll()
        poll.register(self._socket, (select.POLLIN if self.reads else 0) | (select.POLLOUT if view is not None else 0))
        for _, events in poll.poll(max(0.0, left) * 1000):
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._receive()
            if view is not None and events & select.POLLOUT:
                return self._send(view)
        return 0

    def _send(self, view: memoryview) -> int:
        try:
            return self._socket.send(view)
        except BlockingIOError:
            return 0
        except OSError:
            self._receive_the_rest()
            self._ending = self._ending or "reset"
            return 0

    # receiving

    def _receive(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self._ending = self._ending or "reset"
            return
        if data:
            self._input += data
            self._read_frames()
        else:
            self._ending = self._ending or "closed"

    def _receive_the_rest(self) -> None:
        while self._ending is None:
            before = len(self._input)
            self._receive()
            if len(self._input) == before:
                return

    def _read_frames(self) -> None:
        data, position = self._input, 0
        while len(data) - position >= 9:
            end = position + 9 + int.from_bytes(data[position : position + 3], "big")
            if end > len(data):
                break
            self._frame_received(data[position + 3], data[position + 4], data[position + 9 : end])
            position = end
        self._input = data[position:]

    def _frame_received(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _GOAWAY:
            self._ending = f"GOAWAY {_name(payload[4:8])}"
        elif kind == _RST_STREAM:
            self._resets[_name(payload)] += 1
        elif kind == _HEADERS:
            headers = dict(self._decoder.decode(payload))
            if flags & _END_STREAM:
                self._statuses[headers.get("grpc-status", "none")] += 1


def _name(code: bytes) -> str:
    return ErrorCodes(int.from_bytes(code, "big")).name
