"""A client and a server that send exactly the frames a test tells them to, over in-memory transports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

import anyio
from anyio.abc import AnyByteStream
from h2.settings import SettingCodes

from connectrio.rpc import Server
from connectrio.rpc.testing import memory_transport_pair
from rpc.kit.frames import AnyFrame, Data, FrameFactory, FrameReader, Headers, Reset

LARGE_WINDOWS = {SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1}


class RawPeer:
    """One end of a connection.

    :ivar make: makes frames to send
    :ivar seen: every frame that was read so far
    """

    def __init__(self, transport: AnyByteStream) -> None:
        self.transport = transport
        self.make = FrameFactory()
        self.seen: list[AnyFrame] = []
        self._reader = FrameReader()

    async def send(self, *data: bytes) -> None:
        await self.transport.send(b"".join(data))

    async def until(self, condition: Callable[[AnyFrame], bool]) -> AnyFrame:
        """Read until a frame, among those seen before as well, meets the condition."""
        while True:
            for frame in self.seen:
                if condition(frame):
                    return frame
            self.seen += self._reader.read(await self.transport.receive())

    async def until_closed(self) -> list[AnyFrame]:
        """Read to the end; all frames that were seen."""
        try:
            while True:
                self.seen += self._reader.read(await self.transport.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return self.seen

    def of(self, stream_id: int) -> list[AnyFrame]:
        """The frames seen of a stream, window updates aside."""
        return [
            frame for frame in self.seen if isinstance(frame, Headers | Data | Reset) and frame.stream_id == stream_id
        ]

    async def whole(self, stream_id: int) -> list[AnyFrame]:
        """Read to the end of a stream; its frames."""
        await self.until(
            lambda frame: (
                (isinstance(frame, Reset) and frame.stream_id == stream_id)
                or (isinstance(frame, Headers | Data) and frame.stream_id == stream_id and frame.end_stream)
            )
        )
        return self.of(stream_id)

    async def trailers(self, stream_id: int) -> Headers:
        """Read to the end of a response; the headers that end it."""
        trailers = [frame for frame in await self.whole(stream_id) if isinstance(frame, Headers)][-1]
        assert trailers.end_stream
        return trailers


@asynccontextmanager
async def raw_client(
    server: Server, settings: Mapping[SettingCodes, int] = LARGE_WINDOWS, *, buffered_sends: float = float("inf")
) -> AsyncIterator[RawPeer]:
    """A client of `server` that has opened a connection."""
    ours, theirs = memory_transport_pair(buffered_sends)
    async with anyio.create_task_group() as tasks, ours:
        tasks.start_soon(server.serve_connection, theirs)
        client = RawPeer(ours)
        await client.send(client.make.preface(settings), client.make.settings_ack())
        if settings is LARGE_WINDOWS:
            await client.send(client.make.window_update(0, 2**30))
        yield client


class RawServer:
    """Takes the connections of a channel; give its `connect` to the channel. A context manager that closes them.

    :ivar connections: how many there were
    :ivar pair: makes the two ends of a connection
    """

    pair = staticmethod(memory_transport_pair)

    def __init__(self) -> None:
        self.connections = 0
        self._send, self._accepted = anyio.create_memory_object_stream[RawPeer](10)
        self._transports = AsyncExitStack()

    async def connect(self) -> AnyByteStream:
        ours, theirs = self.pair()
        self._transports.push_async_callback(theirs.aclose)
        self.connections += 1
        self._send.send_nowait(RawPeer(theirs))
        return ours

    async def accept(self, settings: Mapping[SettingCodes, int] = LARGE_WINDOWS) -> RawPeer:
        """The next connection, its handshake done."""
        peer = await self.accept_silently()
        await peer.send(peer.make.settings(settings), peer.make.settings_ack())
        if settings is LARGE_WINDOWS:
            await peer.send(peer.make.window_update(0, 2**30))
        return peer

    async def accept_silently(self) -> RawPeer:
        """The next connection, on which nothing was said yet."""
        return await self._accepted.receive()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._send.close()
        self._accepted.close()
        await self._transports.aclose()
