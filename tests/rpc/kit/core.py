"""A server's and a client's core without an event loop, and what they send, frame by frame."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from h2.errors import ErrorCodes

from connectrio.rpc._grpc import MessageReader
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.connection import Connection, ConnectionState
from connectrio.rpc._http2.server_side import RequestArrived, ServerConnection
from connectrio.rpc._http2.stream import Stream
from connectrio.rpc._http2.wakeup import Wakeup
from connectrio.rpc.options import ChannelOptions, ServerOptions
from rpc.kit.frames import AnyFrame, FrameFactory, FrameReader, GoAway

# options; little may be under way at once, so that both sides often wait for the other
SMALL = {"stream_window": 65_535, "connection_window": 65_535, "write_buffer": 8_000}


class Core:
    """A core, its peer's frames (`peer`), and what the core sent."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.peer = FrameFactory()
        self._reader = FrameReader()

    def receive(self, data: bytes) -> None:
        """Let the core read `data`."""
        self.connection.feed(data)
        while self.connection.process(max_frames=64):
            pass
        self.act()

    def act(self) -> None:
        """Act on what has happened."""

    def sent(self) -> list[AnyFrame]:
        """What the core has put out since the last time."""
        frames = self._reader.read(self.connection.take_output())
        assert self._reader.is_between_frames()
        return frames

    def exchange(self, *received: bytes) -> list[AnyFrame]:
        """What the core answers to `received`."""
        for data in received:
            self.receive(data)
        return self.sent()


class ServerCore(Core):
    """A `ServerConnection` whose admitted streams are collected in `requests`, and those cut short in `terminated`."""

    connection: ServerConnection

    def __init__(self, *, handshake: bool = True, clock: Callable[[], float] = time.monotonic, **options: Any) -> None:
        self.requests: list[Stream] = []
        self.terminated: list[Stream] = []
        super().__init__(ServerConnection(ServerOptions(**options), clock=clock))
        if handshake:
            self.exchange(self.peer.preface(), self.peer.settings_ack())

    def act(self) -> None:
        for event in self.connection.take_events():
            (self.requests if isinstance(event, RequestArrived) else self.terminated).append(event.stream)

    def request(self, stream_id: int, **kwargs: Any) -> Stream:
        """Let the client open a stream; the stream it becomes."""
        self.receive(self.peer.request(stream_id, **kwargs))
        return self.requests[-1]


class ClientCore(Core):
    """A `ClientConnection` that has read a server's settings."""

    connection: ClientConnection

    def __init__(self, *, handshake: bool = True, **options: Any) -> None:
        super().__init__(ClientConnection(ChannelOptions(**options)))
        if handshake:
            self.exchange(self.peer.settings({}), self.peer.settings_ack())


class CountedWakeup(Wakeup):
    """Counts how often it is woken."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def wake(self) -> None:
        self.count += 1
        super().wake()


def take_all(stream: Stream) -> bytes:
    """All that has arrived on `stream`."""
    taken = []
    while (chunk := stream.take()) is not None:
        taken.append(chunk)
    return b"".join(taken)


def take_messages(stream: Stream, limit: int = 2**22) -> list[bytes]:
    """The whole messages among what has arrived."""
    reader = MessageReader(limit)
    reader.feed(take_all(stream))
    messages = []
    while (message := reader.next_message()) is not None:
        messages.append(message[1])
    return messages


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TimedCore(ServerCore):
    """A server's core whose clock a test moves."""

    def __init__(self, **options: int) -> None:
        self.clock = Clock()
        super().__init__(clock=self.clock, **options)

    @property
    def was_told_to_be_calm(self) -> bool:
        return self.connection.state is ConnectionState.CLOSED and any(
            isinstance(frame, GoAway) and frame.error_code is ErrorCodes.ENHANCE_YOUR_CALM for frame in self.sent()
        )


def check_windows(connection: Connection) -> None:
    """All that the peer has sent on this connection has been, or will be, credited."""
    manager = connection.h2._inbound_flow_control_window_manager
    assert manager.current_window_size + manager._bytes_processed == manager.max_window_size
    assert connection.streams == {}
