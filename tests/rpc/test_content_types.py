"""Content subtypes: which codec a message is for, on both sides."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import grpclib.client
import grpclib.events
import grpclib.server
import pytest
from anyio import to_thread
from grpclib.const import Cardinality, Status
from grpclib.encoding.base import CodecBase

from connectrio.rpc import Channel, GRPCError, Server, current_call
from connectrio.rpc._grpc import frame_message
from connectrio.rpc.codec import MessageCodec
from connectrio.rpc.testing import memory_channel
from rpc.kit.frames import Data, Headers, request_headers
from rpc.kit.playing import OK, playing
from rpc.kit.raw import raw_client
from rpc.kit.script import UNARY, Note, Script, ScriptStub
from rpc.kit.serving import leaving_nothing

PROTO, BACKWARDS = "application/grpc+proto", "application/grpc+backwards"
TIMEOUT = 30


class Backwards(CodecBase):
    __content_subtype__ = "backwards"

    def encode(self, message, message_type):
        return message.text[::-1].encode()

    def decode(self, data, message_type):
        return message_type(data.decode()[::-1])


# servers


async def answer_to(server: Server, content_type: str, path: str = UNARY, **headers: str | None) -> list[Any]:
    """The frames of the answer to a request of that content type, whose message is "abc"."""
    async with leaving_nothing(), raw_client(server) as client:
        changes = {"content-type": content_type, ":path": path, **headers}
        await client.send(
            client.make.headers(1, request_headers(changes)), client.make.message(1, b"abc", end_stream=True)
        )
        return await client.whole(1)


async def tell(stream):
    """Answer with the message and the content type."""
    note = await stream.recv_message()
    await stream.send_message(Note(f"{note.text} {current_call().content_type}"))


@pytest.mark.parametrize(
    ("sent", "answered", "message"),
    [
        ("application/grpc", "application/grpc", b"abc application/grpc"),
        (PROTO, PROTO, b"abc application/grpc+proto"),
        ("application/grpc+PROTO", PROTO, b"abc application/grpc+proto"),
        ("application/grpc+proto ; charset=utf-8", PROTO, b"abc application/grpc+proto"),
        (BACKWARDS, BACKWARDS, b"sdrawkcab+cprg/noitacilppa abc"),
        ("Application/gRPC+Backwards;x=y", BACKWARDS, b"sdrawkcab+cprg/noitacilppa abc"),
    ],
)
async def test_a_server_with_several_codecs_uses_the_requests(sent: str, answered: str, message: bytes):
    headers, data, trailers = await answer_to(Server([Script(tell)], codec=[MessageCodec(), Backwards()]), sent)
    assert headers["content-type"] == answered
    assert data == Data(1, frame_message(message))
    assert trailers["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("codec", "sent", "served"),
    [
        (None, BACKWARDS, "application/grpc or application/grpc+proto"),
        (MessageCodec(), "application/grpc+", "application/grpc or application/grpc+proto"),
        (Backwards(), "application/grpc", BACKWARDS),
        (Backwards(), PROTO, BACKWARDS),
        ([Backwards(), MessageCodec()], "application/grpc+x", f"{BACKWARDS} or application/grpc or {PROTO}"),
    ],
)
async def test_a_subtype_that_no_codec_is_for_is_refused(codec: Any, sent: str, served: str):
    [headers, *rest] = await answer_to(Server([Script()], codec=codec), sent)
    assert headers[":status"] == "415"
    assert headers["grpc-status"] == str(Status.INTERNAL.value)
    assert headers["grpc-message"] == f"content-type must be {served}, got '{sent}'"
    assert headers.end_stream
    assert not [frame for frame in rest if isinstance(frame, Headers | Data)]


async def fail(stream):
    raise GRPCError(Status.ABORTED)


async def fail_with_words(stream):
    raise GRPCError(Status.ABORTED, "why")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.ABORTED),
        ({"path": "/unknown"}, Status.UNIMPLEMENTED),
        ({"te": None}, Status.INTERNAL),
        ({"grpc-encoding": "odd"}, Status.UNIMPLEMENTED),
        ({"grpc-timeout": "odd"}, Status.INTERNAL),
        ({"grpc-timeout": "0S"}, Status.DEADLINE_EXCEEDED),
    ],
)
@pytest.mark.parametrize("method", [fail, fail_with_words])
async def test_failures_and_refusals_have_the_requests_subtype(method, changes: dict[str, Any], status: Status):
    headers = (await answer_to(Server([Script(method)], codec=Backwards()), BACKWARDS, **changes))[0]
    assert headers["content-type"] == BACKWARDS
    assert headers["grpc-status"] == str(status.value)


def test_two_codecs_of_one_subtype_are_refused():
    with pytest.raises(ValueError, match="two codecs are for the content subtype 'backwards'"):
        Server([], codec=[Backwards(), MessageCodec(), Backwards()])


async def test_listeners_are_told_the_content_type():
    async def listen(event: Any) -> None:
        heard.append(event.content_type)

    heard: list[str] = []
    server = Server([Script()], codec=Backwards())
    grpclib.events.listen(server, grpclib.events.RecvRequest, listen)
    async with memory_channel(server, codec=Backwards()) as channel:
        grpclib.events.listen(channel, grpclib.events.SendRequest, listen)
        assert await ScriptStub(channel).unary(Note("abc")) == Note("abc")
    assert heard == [BACKWARDS, BACKWARDS]


# channels


async def test_a_channel_whose_codec_the_server_does_not_have():
    async with memory_channel(Server([Script()]), codec=Backwards()) as channel:
        with pytest.raises(GRPCError, match="content-type must be application/grpc or ") as caught:
            await ScriptStub(channel).unary(Note())
    assert caught.value.status is Status.INTERNAL


@pytest.mark.parametrize(
    ("codec", "sent", "received", "is_taken"),
    [
        (MessageCodec(), "application/grpc", "application/grpc", True),
        (MessageCodec(), "application/grpc", PROTO, True),
        (MessageCodec(), "application/grpc", "application/grpc+Proto;x=y", True),
        (MessageCodec(), "application/grpc", BACKWARDS, False),
        (Backwards(), BACKWARDS, BACKWARDS, True),
        (Backwards(), BACKWARDS, "application/grpc+Backwards; x=y", True),
        (Backwards(), BACKWARDS, "application/grpc", True),
        (Backwards(), BACKWARDS, PROTO, False),
    ],
)
async def test_a_channel_sends_and_checks_its_subtype(codec: CodecBase, sent: str, received: str, is_taken: bool):
    async with playing(channel={"codec": codec}) as played:
        peer = await played.connected()
        call = await played.called("abc")
        headers, data = (await peer.whole(1))[:2]
        assert headers["content-type"] == sent
        await peer.send(
            peer.make.headers(1, [(":status", "200"), ("content-type", received)]),
            peer.make.data(1, data.data),
            peer.make.headers(1, OK, end_stream=True),
        )
        assert await call.status() is (Status.OK if is_taken else Status.UNKNOWN)
        if is_taken:
            assert call.reply == "abc"
        else:
            assert f"content-type is {received!r}, the request's {sent!r}" in str(call.error)


# grpclib, which is strict about the subtypes of responses


def ask_with_grpclib(port: int, codec: CodecBase | None) -> str:
    async def ask() -> str:
        async with grpclib.client.Channel("127.0.0.1", port, codec=codec) as channel:
            call = channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note, timeout=TIMEOUT)
            async with call as stream:
                await stream.send_message(Note("abc"), end=True)
                return (await stream.recv_message()).text

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("codec", "reply"),
    [(None, "abc application/grpc"), (Backwards(), f"abc {BACKWARDS}")],
    ids=["proto", "backwards"],
)
async def test_grpclibs_client(codec: CodecBase | None, reply: str):
    async with anyio.create_task_group() as tasks:
        server = Server([Script(tell)], codec=[MessageCodec(), Backwards()])
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        [(_, port)] = await tasks.start(server.serve, listener)
        assert await to_thread.run_sync(ask_with_grpclib, port, codec) == reply
        await server.shutdown(grace=5)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("codec", [None, Backwards()], ids=["proto", "backwards"])
async def test_grpclibs_server(codec: CodecBase | None):
    """On asyncio alone, where it runs."""
    server = grpclib.server.Server([Script()], codec=codec)
    await server.start("127.0.0.1", 0)
    try:
        [port] = {sock.getsockname()[1] for sock in server._server.sockets}
        async with Channel(f"127.0.0.1:{port}", codec=codec) as channel:
            assert await ScriptStub(channel).unary(Note("abc"), timeout=TIMEOUT) == Note("abc")
    finally:
        server.close()
        await server.wait_closed()
