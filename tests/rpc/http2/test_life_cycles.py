"""Calls in any state, frames in any order, cut at any byte, ended from any side: each ends as the model has it."""

from __future__ import annotations

import anyio
from anyio.abc import TaskGroup
from grpclib.const import Status
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectrio.rpc import Server, ServerOptions
from connectrio.rpc._grpc import MessageReader
from connectrio.rpc._http2.stream import Stream, StreamState
from connectrio.rpc.testing import memory_channel, memory_transport_pair
from rpc.kit.core import ServerCore, check_windows, take_messages
from rpc.kit.frames import Data, Ping
from rpc.kit.lives import MAX_CALLS, MAX_MESSAGE, Conversation, Life, Theatre, conversations, cut, outcome
from rpc.kit.raw import RawPeer
from rpc.kit.script import Note, ScriptStub
from rpc.kit.serving import PATIENCE, eventually, leaving_nothing

unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck))

LAST_PING = b"the last"
# what acts make the server say
EXPECTED = {
    "the servicer of %(rpc)s raised",
    "the servicer of %(rpc)s returned without a response",
    "the connection of %(peer)s has ended (%(cause)s): %(reason)s",
}
# every client hangs up; none is hung up on before it has been told all
PATIENT = {"linger": PATIENCE, "drain_ping_timeout": PATIENCE}


# the core


def core_after(pieces: list[bytes]) -> tuple[ServerCore, bytes]:
    """A server's core that has read these pieces, and its answer, before any call has done anything."""
    core = ServerCore(handshake=False, max_concurrent_streams=MAX_CALLS)
    for piece in pieces:
        core.receive(piece)
    return core, core.connection.take_output()


def state_of(stream: Stream) -> tuple[object, ...]:
    return stream.id, stream.headers, stream.state, stream.is_complete, stream.termination


def received(stream: Stream) -> bytes:
    """The bytes of the whole request."""
    taken = []
    while (chunk := stream.take()) is not None:
        taken.append(chunk)
    return b"".join(taken)


@given(conversations(), st.data())
@settings(unhurried, max_examples=40)
def test_the_core_takes_the_same_bytes_the_same_way_however_they_are_cut(conversation: Conversation, data):
    whole, answer = core_after([conversation.data])
    pieces, same_answer = core_after(data.draw(cut(conversation.data)))
    assert same_answer == answer
    assert [state_of(stream) for stream in pieces.requests] == [state_of(stream) for stream in whole.requests]
    for one, other in zip(pieces.requests, whole.requests, strict=True):
        assert received(one) == received(other)
    for core in pieces, whole:
        check_core(core, conversation)


def check_core(core: ServerCore, conversation: Conversation) -> None:
    """Each call is where its client has led it; released, nothing is left of them."""
    admitted = {stream.id: stream for stream in core.requests}
    assert set(admitted) == conversation.admitted_without_answers()
    for stream_id, life in conversation.numbered():
        if stream_id in admitted:
            stream = admitted[stream_id]
            assert stream.is_complete == ("half-close" in life.endings)
            assert (stream.state is StreamState.CLOSED) == life.is_reset
            stream.reset(ErrorCodes.NO_ERROR)
            stream.release()
    core.connection.take_output()
    check_windows(core.connection)


@given(conversations())
@settings(unhurried, max_examples=30)
def test_the_core_delivers_what_was_sent(conversation: Conversation):
    core, _ = core_after([conversation.data])
    for stream in core.requests:
        life = conversation.lives[stream.id // 2]
        if not any(text in ("flag", "too large") for text in life.messages):
            whole = [text.encode() for text in life.messages if text not in ("no UTF-8", "cut short")]
            assert take_messages(stream)[: len(whole)] == whole


# the whole server


class Client:
    """One connection of a client that plays a conversation."""

    def __init__(self, server: Server, tasks: TaskGroup) -> None:
        ours, theirs = memory_transport_pair()
        self.peer = RawPeer(ours)
        self.serving = anyio.CancelScope()
        self._tasks = tasks
        tasks.start_soon(self._serve, server, theirs)

    async def _serve(self, server: Server, transport) -> None:
        with self.serving:
            await server.serve_connection(transport)

    async def play(self, conversation: Conversation, pieces: list[bytes]) -> None:
        """Send it all, and wait until the server has read it."""
        for piece in pieces:
            await self.peer.send(piece)
        await self.peer.send(conversation.make.ping(LAST_PING))
        await self.peer.until(lambda frame: frame == Ping(LAST_PING, ack=True))

    async def finish(self, conversation: Conversation) -> None:
        """Open the windows, end every request, and read every answer."""
        make = conversation.make
        await self.peer.send(make.settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**20}), make.window_update(0, 2**20))
        for stream_id, life in conversation.numbered():
            if life.is_endless and not life.is_reset and outcome(self.peer.of(stream_id)) is None:
                await self.peer.send(make.reset(stream_id))
            elif not life.endings:
                await self.peer.send(make.data(stream_id, end_stream=True))
        for stream_id, life in conversation.numbered():
            if not life.is_reset and not life.is_endless:
                await self.peer.whole(stream_id)


def check_outcome(conversation: Conversation, stream_id: int, life: Life, peer: RawPeer, finale: str) -> None:
    """The call has ended as the model has it."""
    frames = peer.of(stream_id)
    seen = outcome(frames)
    if conversation.may_be_refused(stream_id) and seen is ErrorCodes.REFUSED_STREAM:
        return
    assert not conversation.must_be_refused(stream_id), seen
    allowed: set[object] = set(life.outcomes())
    if life.is_reset or life.is_endless or finale in ("hang up", "cancel"):
        allowed.add(None)
    if finale == "shutdown":
        allowed |= {Status.UNAVAILABLE}
    assert seen in allowed, (life, seen)
    if seen is Status.OK and life.act == "echo":
        reader = MessageReader(MAX_MESSAGE)
        reader.feed(b"".join(frame.data for frame in frames if isinstance(frame, Data)))
        replies = list(iter(reader.next_message, None))
        assert [raw.decode() for _, raw in replies] == life.replies()


async def play(conversation: Conversation, pieces: list[bytes], finale: str) -> None:
    theatre = Theatre()
    options = ServerOptions(max_concurrent_streams=MAX_CALLS, max_receive_message_size=MAX_MESSAGE, **PATIENT)
    server = Server([theatre], options=options)
    async with leaving_nothing() as log, memory_channel(server) as channel, anyio.create_task_group() as tasks:
        good = ScriptStub(channel, metadata={"x-act": "echo"})
        await good.unary(Note("before"))
        client = Client(server, tasks)
        async with client.peer.transport:
            await client.play(conversation, pieces)
            assert await good.unary(Note("meanwhile")) == Note("meanwhile")
            await end_with(finale, server, client, conversation)
            for stream_id, life in conversation.numbered():
                check_outcome(conversation, stream_id, life, client.peer, finale)
        await eventually(lambda: server.active_calls == 0 and len(server._connections) <= 1)
        assert theatre.begun == theatre.ended
        if finale != "shutdown":
            assert await good.unary(Note("after")) == Note("after")
    assert {entry["event"] for entry in log} <= EXPECTED


async def end_with(finale: str, server: Server, client: Client, conversation: Conversation) -> None:
    if finale == "finish":
        await client.finish(conversation)
        await eventually(lambda: server.active_calls == 0)
        for connection in server._connections:
            check_windows(connection.core)
    elif finale == "shutdown":
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.shutdown, 0)
            await client.peer.until_closed()
            await client.peer.transport.aclose()
    elif finale == "cancel":
        client.serving.cancel()
        await client.peer.until_closed()
    else:
        await client.peer.transport.aclose()


@given(conversations(), st.data(), st.sampled_from(["finish", "finish", "shutdown", "cancel", "hang up"]))
@settings(unhurried, max_examples=40)
async def test_every_call_ends_as_predicted(conversation: Conversation, data, finale: str):
    await play(conversation, data.draw(cut(conversation.data)), finale)
