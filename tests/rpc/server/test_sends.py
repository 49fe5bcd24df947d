"""What becomes of a servicer's messages that the client will not read: each way, the servicer hears of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, ProtocolError

from connectrio.rpc import Server, StreamTerminatedError
from rpc.kit.raw import raw_client
from rpc.kit.script import SERVER_STREAMING, Note, Script
from rpc.kit.serving import eventually, in_memory


class Stubborn:
    """Does not let itself be cancelled, and sends when the client has gone."""

    def __init__(self) -> None:
        self.waits, self.go_on = anyio.Event(), anyio.Event()
        self.errors: list[Exception] = []

    async def __call__(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(Note("one"))
        sends: list[Callable[[], Awaitable[None]]] = [
            lambda: stream.send_message(Note("two")),
            lambda: stream.send_trailing_metadata(status=Status.OK),
        ]
        with anyio.CancelScope(shield=True):
            self.waits.set()
            await self.go_on.wait()
            for send in sends:
                with pytest.raises(StreamTerminatedError) as caught:
                    await send()
                self.errors.append(caught.value)


async def test_after_the_client_has_reset_the_stream_sending_raises():
    servicer, ends = Stubborn(), []
    server = Server([Script(server_streaming=servicer)], on_call=lambda _: lambda *end: ends.append(end))
    async with raw_client(server) as client:
        await client.send(client.make.request(1, path=SERVER_STREAMING), client.make.message(1, b"", end_stream=True))
        await servicer.waits.wait()
        await client.send(client.make.reset(1))
        await eventually(lambda: server.stats.streams_reset != {})
        servicer.go_on.set()
        await eventually(lambda: bool(ends))
        await client.transport.aclose()
    assert [str(error) for error in servicer.errors] == ["the peer reset the stream; error code CANCEL"] * 2
    assert ends == [(Status.CANCELLED, "the client is gone")]
    assert server.stats.streams_reset == {("peer", "CANCEL"): 1}


async def test_after_the_connection_is_lost_sending_raises():
    servicer, ends = Stubborn(), []
    server = Server([Script(server_streaming=servicer)], on_call=lambda _: lambda *end: ends.append(end))
    async with raw_client(server) as client:
        await client.send(client.make.request(1, path=SERVER_STREAMING), client.make.message(1, b"", end_stream=True))
        await servicer.waits.wait()
        await client.transport.aclose()
        await eventually(lambda: not server.connections or server.connections[0].state == "closed")
        servicer.go_on.set()
        await eventually(lambda: bool(ends))
    assert [str(error).partition(";")[0] for error in servicer.errors] == ["the connection was lost"] * 2
    assert ends == [(Status.CANCELLED, "the client is gone")]


async def test_after_the_servicer_itself_has_ended_the_call_sending_raises():
    texts = []

    async def talkative(stream: Any) -> None:
        await stream.recv_message()
        await stream.send_trailing_metadata(status=Status.ABORTED, status_message="enough")
        with pytest.raises(ProtocolError) as caught:
            await stream.send_message(Note("late"))
        texts.append(str(caught.value))

    async with in_memory(Script(server_streaming=talkative)) as served:
        request = served.channel.request(SERVER_STREAMING, Cardinality.UNARY_STREAM, Note, Note)
        with pytest.raises(GRPCError, match="enough"):  # noqa: PT012 - the block's end
            async with request as stream:
                await stream.send_message(Note())
                await stream.recv_message()
    assert texts == ["the call was ended already"]
