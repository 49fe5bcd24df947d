"""A server's and a client's core without an event loop, and what they send, frame by frame."""

from __future__ import annotations

from typing import Any

from connectrio.rpc._client_connection import ClientConnection
from connectrio.rpc._connection import Connection
from connectrio.rpc._framing import MessageReader
from connectrio.rpc._server_connection import ServerConnection
from connectrio.rpc._stream import Stream
from connectrio.rpc.options import ChannelOptions, ServerOptions
from rpc.frames import AnyFrame, FrameFactory, FrameReader


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
    """A `ServerConnection` whose admitted streams are collected in `requests`."""

    connection: ServerConnection

    def __init__(self, *, handshake: bool = True, **options: Any) -> None:
        self.requests: list[Stream] = []
        super().__init__(ServerConnection(ServerOptions(**options), self.requests.append))
        self.connection.start()
        if handshake:
            self.exchange(self.peer.preface(), self.peer.settings_ack())

    def request(self, stream_id: int, **kwargs: Any) -> Stream:
        """Let the client open a stream; the stream it becomes."""
        self.receive(self.peer.request(stream_id, **kwargs))
        return self.requests[-1]


class ClientCore(Core):
    """A `ClientConnection` that has read a server's settings."""

    connection: ClientConnection

    def __init__(self, *, handshake: bool = True, **options: Any) -> None:
        super().__init__(ClientConnection(ChannelOptions(**options)))
        self.connection.start()
        if handshake:
            self.exchange(self.peer.settings({}), self.peer.settings_ack())


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
