"""Calls in tasks of their own, and a server that the test plays, frame by frame."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
from anyio.abc import AnyByteStream, TaskGroup
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from connectrio.rpc import Channel, ChannelOptions
from connectrio.rpc._client.target import Target
from connectrio.rpc.testing import memory_transport_pair
from rpc.kit.addresses import Names
from rpc.kit.frames import AnyFrame, Headers
from rpc.kit.raw import RawPeer, RawServer
from rpc.kit.script import UNARY, Note
from rpc.kit.serving import PATIENCE, leaving_nothing, turns
from rpc.kit.virtual_time import LONG

# a server that the test plays does not hang up by itself
PROMPT = {"close_timeout": 0.02}
RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


class Call:
    """A unary call in a task of its own, and what became of it."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.ended = anyio.Event()
        self.reply: str | None = None
        self.error: Exception | None = None

    async def run(self, channel: Channel, **options: Any) -> None:
        try:
            async with channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note, **options) as stream:
                await stream.send_message(Note(self.text))
                note = await stream.recv_message()
                await stream.recv_trailing_metadata()
            self.reply = None if note is None else note.text
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        finally:
            self.ended.set()

    async def status(self) -> Status:
        """How it ended, once it has."""
        await self.ended.wait()
        if self.error is None:
            return Status.OK
        assert isinstance(self.error, GRPCError), repr(self.error)
        return self.error.status

    async def answer(self) -> str | None:
        """The reply, once it is there."""
        await self.ended.wait()
        if self.error is not None:
            raise self.error
        return self.reply


class Played:
    """A channel, and the server that the test plays to it."""

    def __init__(self, raw: RawServer, channel: Channel, tasks: TaskGroup) -> None:
        self.raw = raw
        self.channel = channel
        self.tasks = tasks

    def call(self, text: str = "", **options: Any) -> Call:
        """Begin a call."""
        call = Call(text)
        self.tasks.start_soon(lambda: call.run(self.channel, **options))
        return call

    async def called(self, text: str = "", **options: Any) -> Call:
        """Begin a call, and let it come as far as it can."""
        call = self.call(text, **options)
        await turns()
        return call

    async def connected(self, settings: Any = None) -> RawPeer:
        """Connect without a call; the server's end of the connection."""
        self.tasks.start_soon(self.channel.wait_until_ready)
        peer = await self.accept(settings)
        await self.channel.wait_until_ready()
        return peer

    async def accept(self, settings: Any = None) -> RawPeer:
        """The server's end of the next connection, after the handshake."""
        return await (self.raw.accept() if settings is None else self.raw.accept(settings))


class Place(RawServer):
    """An address where the test plays the server, or is away.

    :ivar error: why nobody is there
    :ivar tried: when somebody tried to connect
    """

    def __init__(self, name: str = "place", error: Exception | None = None) -> None:
        super().__init__()
        self.name = name
        self.error = error
        self.tried: list[float] = []

    async def connect(self) -> AnyByteStream:
        self.tried.append(anyio.current_time())
        if self.error is not None:
            raise self.error
        return await super().connect()

    def __str__(self) -> str:
        return self.name


class UnreadServer(RawServer):
    """Whatever is sent to it stays in the sender's hands until the test reads it."""

    pair = staticmethod(partial(memory_transport_pair, buffered_sends=0))


@asynccontextmanager
async def playing(
    server: type[RawServer] = RawServer, *, patience: float = PATIENCE, channel: Any = None, **options: Any
) -> AsyncIterator[Played]:
    """A channel to a server that the test plays, for at most `patience` seconds.

    :param channel: further arguments of the channel, by their names
    """
    async with (
        leaving_nothing(patience),
        server() as raw,
        Channel(raw.connect, options=ChannelOptions(**{**PROMPT, **options}), **channel or {}) as made,
        anyio.create_task_group() as tasks,
    ):
        yield Played(raw, made, tasks)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def playing_at(names: Names, *, patience: float = LONG, **options: Any) -> AsyncIterator[Played]:
    """A channel to a name, and what the test plays at the addresses that it has, for use in virtual time."""
    places = list(names.addresses)
    async with leaving_nothing(patience), AsyncExitStack() as stack:
        for place in places:
            await stack.enter_async_context(place)
        channel = Channel(places[0].connect, options=ChannelOptions(**{**PROMPT, "backoff_jitter": 0, **options}))
        channel._target = Target("connectors.test", "connectors.test", names)
        async with channel, anyio.create_task_group() as tasks:
            yield Played(places[0], channel, tasks)
            tasks.cancel_scope.cancel()


async def answer(peer: RawPeer, stream_id: int, text: str = "") -> None:
    """Answer a unary call."""
    await peer.send(
        peer.make.headers(stream_id, RESPONSE),
        peer.make.message(stream_id, text.encode()),
        peer.make.headers(stream_id, OK, end_stream=True),
    )


async def echo(peer: RawPeer, stream_id: int) -> None:
    """Answer a unary call with its own message, once that is here."""
    frames = await peer.whole(stream_id)
    await answer(peer, stream_id, b"".join(frame.data for frame in frames[1:])[5:].decode())


@asynccontextmanager
async def channel_to(raw: RawServer, **options: Any) -> AsyncIterator[Channel]:
    """A channel to a server that the test plays, and that does not hang up by itself."""
    async with leaving_nothing(), raw, Channel(raw.connect, options=ChannelOptions(**PROMPT, **options)) as channel:
        yield channel


def request_on(stream_id: int) -> Callable[[AnyFrame], bool]:
    """Recognizes the frame that opens a stream."""
    return lambda frame: isinstance(frame, Headers) and frame.stream_id == stream_id
