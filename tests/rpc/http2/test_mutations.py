"""Good conversations, spoiled: only declared errors come of them, and whoever works beside them notices nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import cache
from typing import Any

import anyio
import pytest
from anyio.abc import AnyByteStream, ByteStream
from grpclib.exceptions import GRPCError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectrio.rpc import Channel, ChannelOptions, Server, ServerOptions
from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc.testing import memory_channel, memory_transport_pair
from rpc.kit.core import check_windows
from rpc.kit.frames import PREFACE
from rpc.kit.script import Note, Script, ScriptStub
from rpc.kit.serving import eventually, leaving_nothing, same_server, turns

COMPRESSIONS = ["identity", "gzip"]

unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck))


# good conversations, as our own client and server have them


class Tap(ByteStream):
    """A transport that keeps a copy of what goes through it."""

    def __init__(self, transport: AnyByteStream) -> None:
        self._transport = transport
        self.sent = self.received = b""

    async def send(self, item: bytes) -> None:
        self.sent += item
        await self._transport.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._transport.receive()
        self.received += data
        return data

    async def send_eof(self) -> None:
        await self._transport.send_eof()

    async def aclose(self) -> None:
        await self._transport.aclose()


async def every_kind_of_call(stub: ScriptStub) -> None:
    """One call of each kind, one that is left early, and one that nobody knows."""
    await stub.unary(Note("unary"), metadata={"x-text": "a", "x-raw-bin": b"\0\1\2"}, timeout=1000)
    await stub.client_streaming([Note("a"), Note("b" * 300)])
    [_ async for _ in stub.server_streaming(Note("server streaming"))]
    async with aclosing(stub.bidi([Note("1"), Note("2"), Note("3")])) as answers:
        await anext(answers)
    with suppress(GRPCError):
        await stub._unary_unary("/no/such", Note(), Note)
    await stub.unary(Note("x" * 2000))


@cache
def recorded(compression: str) -> tuple[list[bytes], list[bytes]]:
    """What a client and a server say to each other, frame by frame."""
    taps = []

    async def record() -> None:
        async with memory_channel(Server([Script()])) as channel:

            async def connect() -> AnyByteStream:
                taps.append(Tap(await same_server(channel)()))
                return taps[-1]

            async with Channel(connect, options=ChannelOptions(compression=compression)) as tapped:
                await every_kind_of_call(ScriptStub(tapped))

    anyio.run(record)
    [tap] = taps
    return [PREFACE, *frames(tap.sent.removeprefix(PREFACE))], frames(tap.received)


@pytest.fixture(scope="module", autouse=True)
def recordings() -> None:
    """Record before anything is drawn: connections use random numbers of their own."""
    for compression in COMPRESSIONS:
        recorded(compression)


def frames(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = 9 + int.from_bytes(data[:3], "big")
        found.append(data[:size])
        data = data[size:]
    return found


# what is done to them


def flip(frames: list[bytes], draw: Callable) -> None:
    index = pick(frames, draw)
    changed = bytearray(frames[index])
    for _ in range(draw(st.integers(1, 3))):
        changed[draw(st.integers(0, len(changed) - 1))] ^= 1 << draw(st.integers(0, 7))
    frames[index] = bytes(changed)


def truncate(frames: list[bytes], draw: Callable) -> None:
    index = pick(frames, draw)
    frames[index] = frames[index][: draw(st.integers(1, len(frames[index])))]


def shorten(frames: list[bytes], draw: Callable) -> None:
    """A frame that ends early, and says so."""
    index = pick(frames, draw)
    head, body = frames[index][3:9], frames[index][9:]
    body = body[: draw(st.integers(0, len(body)))]
    frames[index] = len(body).to_bytes(3, "big") + head + body


def drop(frames: list[bytes], draw: Callable) -> None:
    if len(frames) > 1:
        del frames[pick(frames, draw)]


def duplicate(frames: list[bytes], draw: Callable) -> None:
    index = pick(frames, draw)
    frames[index:index] = [frames[index]] * draw(st.sampled_from([1, 1, 2, 50]))


def reorder(frames: list[bytes], draw: Callable) -> None:
    start = pick(frames, draw)
    frames[start : start + 5] = draw(st.permutations(frames[start : start + 5]))


def lengthen(frames: list[bytes], draw: Callable) -> None:
    """A frame, or the message in it, that claims to be longer than it is."""
    index = pick(frames, draw)
    frame = frames[index]
    if draw(st.booleans()) or len(frame) < 14:
        frames[index] = draw(st.sampled_from([2**14, 2**14 + 1, 2**24 - 1])).to_bytes(3, "big") + frame[3:]
    else:
        frames[index] = frame[:10] + draw(st.sampled_from([2**16, 2**31, 2**32 - 1])).to_bytes(4, "big") + frame[14:]


def splice(frames: list[bytes], draw: Callable) -> None:
    """Goes on with another conversation, or with the other side's part of this one."""
    other = draw(st.sampled_from([side for compression in COMPRESSIONS for side in recorded(compression)]))
    frames[pick(frames, draw) :] = other[pick(other, draw) :]


def renumber(frames: list[bytes], draw: Callable) -> None:
    index = pick(frames, draw)
    stream_id = draw(st.sampled_from([0, 1, 2, 3, 5, 99, 2**31 - 1]))
    frames[index] = frames[index][:5] + stream_id.to_bytes(4, "big") + frames[index][9:]


def retype(frames: list[bytes], draw: Callable) -> None:
    """Another type, other flags."""
    index = pick(frames, draw)
    kind = bytes([draw(st.integers(0, 12)), draw(st.integers(0, 255))])
    frames[index] = frames[index][:3] + kind + frames[index][5:]


def noise(frames: list[bytes], draw: Callable) -> None:
    frames.insert(pick(frames, draw), draw(st.binary(min_size=1, max_size=30)))


def pick(frames: list[bytes], draw: Callable) -> int:
    return draw(st.integers(0, len(frames) - 1))


MUTATIONS = [flip, truncate, shorten, drop, duplicate, reorder, lengthen, splice, renumber, retype, noise]


@st.composite
def spoiled(draw: Callable, side: int) -> list[bytes]:
    """One side of a conversation, after some mutations, in pieces as a socket might deliver them."""
    whole = list(recorded(draw(st.sampled_from(COMPRESSIONS)))[side])
    for mutation in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=4)):
        mutation(whole, draw)
    data = b"".join(whole)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def test_what_is_recorded_is_all_there():
    """The tool of these tests: unspoiled, the conversations have every kind of frame that gRPC needs."""
    for compression in COMPRESSIONS:
        ours, theirs = recorded(compression)
        assert {frame[3] for frame in ours[1:]} >= {0, 1, 3, 4, 8}
        assert {frame[3] for frame in theirs} >= {0, 1, 4}
        assert ours[0] == PREFACE


# servers


class Worker:
    """A good client that works while others do not."""

    def __init__(self, channel: Channel) -> None:
        self._stub = ScriptStub(channel)
        self.answers = 0

    async def work(self) -> None:
        while True:
            note = Note(str(self.answers))
            assert await self._stub.unary(note) == note
            assert [each async for each in self._stub.bidi([note, note])] == [note, note]
            self.answers += 1

    async def go_on(self) -> None:
        """Wait for two more rounds, one of which has begun after now."""
        enough = self.answers + 2
        await eventually(lambda: self.answers >= enough)


async def send_all(transport: AnyByteStream, pieces: list[bytes]) -> None:
    with suppress(anyio.BrokenResourceError):  # it has hung up
        for piece in pieces:
            await transport.send(piece)


async def read_all(transport: AnyByteStream) -> None:
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            await transport.receive()


@given(st.lists(spoiled(side=0), min_size=1, max_size=3))
@settings(unhurried, max_examples=15)
async def test_a_server_among_spoiled_clients(clients: list[list[bytes]]):
    server = Server([Script()], options=ServerOptions(linger=0.01, drain_ping_timeout=0.01))
    async with leaving_nothing() as log, memory_channel(server) as channel, anyio.create_task_group() as tasks:
        worker = Worker(channel)
        tasks.start_soon(worker.work)
        await worker.go_on()
        [good] = server._connections
        for pieces in clients:
            ours, theirs = memory_transport_pair()
            async with ours, anyio.create_task_group() as client:
                client.start_soon(server.serve_connection, theirs)
                client.start_soon(read_all, ours)
                await send_all(ours, pieces)
                await worker.go_on()
                await ours.aclose()
            assert list(server._connections) == [good]
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await eventually(lambda: server.active_calls == 0)
            check_windows(good.core)
            assert good.core.state is ConnectionState.OPEN
    assert not unexpected(log)


def unexpected(log: list[Any]) -> list[Any]:
    """What says that something was wrong with us."""
    return [entry for entry in log if entry["log_level"] in ("error", "critical") or "exc_info" in entry]


# clients


class Declared:
    """Makes calls, whatever comes of them, as long as it is something that a call may end with."""

    def __init__(self, channel: Channel) -> None:
        self._stub = ScriptStub(channel)
        self.ended = 0

    async def calls(self) -> None:
        """The calls of the recorded conversation, one by one, so that their streams are those."""
        stub = self._stub
        for call in (
            lambda: stub.unary(Note("unary")),
            lambda: stub.client_streaming([Note("a"), Note("b" * 300)]),
            lambda: everything(stub.server_streaming(Note("server streaming"))),
            lambda: everything(stub.bidi([Note("1"), Note("2"), Note("3")])),
            lambda: stub.unary(Note()),
        ):
            with suppress(GRPCError):
                await call()
            self.ended += 1


async def everything(answers: AsyncIterator[Note]) -> None:
    async for _ in answers:
        pass


@asynccontextmanager
async def spoiled_at_first(pieces: list[bytes]) -> AsyncIterator[Channel]:
    """A channel whose first connection is to a spoiled server, which hangs up when it has said all; others are not."""
    first = [True]

    async def connect() -> AnyByteStream:
        if not first:
            return await same_server(good)()
        first.clear()
        ours, theirs = memory_transport_pair()
        tasks.start_soon(spoil, theirs)
        return ours

    async def spoil(transport: AnyByteStream) -> None:
        async with transport, anyio.create_task_group() as reading:
            reading.start_soon(read_all, transport)
            await send_all(transport, pieces)
            await turns(200)
            reading.cancel_scope.cancel()

    options = ChannelOptions(close_timeout=0.01, initial_backoff=0.001, backoff_multiplier=1)
    async with (
        memory_channel(Server([Script()])) as good,
        anyio.create_task_group() as tasks,
        Channel(connect, options=options) as channel,
    ):
        yield channel


@given(spoiled(side=1))
@settings(unhurried, max_examples=25)
async def test_a_client_of_a_spoiled_server(pieces: list[bytes]):
    async with leaving_nothing() as log, spoiled_at_first(pieces) as channel:
        client = Declared(channel)
        await client.calls()
        assert client.ended == 5
        assert await ScriptStub(channel.when_ready).unary(Note("recovered")) == Note("recovered")
        assert not channel._policy.is_busy
        assert not channel._queue
    assert not unexpected(log)


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_unspoiled_the_client_is_answered(compression: str):
    """The tool of these tests again: the recording plays."""
    async with leaving_nothing(), spoiled_at_first(recorded(compression)[1]) as channel:
        assert await ScriptStub(channel).unary(Note("whatever")) == Note("unary")
