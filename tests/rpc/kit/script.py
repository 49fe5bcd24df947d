"""A message, a servicer made of the functions a test gives it, and its stub; all by hand, nothing generated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpclib.server
from betterproto2.grpclib import ServiceBase, ServiceStub
from grpclib.const import Cardinality, Handler

UNARY = "/test.Script/Unary"
SERVER_STREAMING = "/test.Script/ServerStreaming"
CLIENT_STREAMING = "/test.Script/ClientStreaming"
BIDI = "/test.Script/Bidi"


@dataclass
class Note:
    """A message: UTF-8, so that there are bytes that cannot be decoded."""

    text: str = ""

    def SerializeToString(self) -> bytes:
        return self.text.encode()

    @classmethod
    def FromString(cls, data: bytes) -> Note:
        return cls(data.decode())


Stream: TypeAlias = grpclib.server.Stream[Note, Note]
Method: TypeAlias = Callable[[Stream], Awaitable[Any]]


async def echo(stream: Stream) -> None:
    """Answer each message with itself."""
    async for note in stream:
        await stream.send_message(note)


async def echo_last(stream: Stream) -> None:
    """Answer with all messages in one."""
    await stream.send_message(Note("".join([note.text async for note in stream])))


class Script:
    """A plain grpclib servicer, one method for each cardinality."""

    def __init__(
        self,
        unary: Method = echo,
        server_streaming: Method = echo,
        client_streaming: Method = echo_last,
        bidi: Method = echo,
    ) -> None:
        self._methods = {
            UNARY: (unary, Cardinality.UNARY_UNARY),
            SERVER_STREAMING: (server_streaming, Cardinality.UNARY_STREAM),
            CLIENT_STREAMING: (client_streaming, Cardinality.STREAM_UNARY),
            BIDI: (bidi, Cardinality.STREAM_STREAM),
        }

    def __mapping__(self) -> dict[str, Handler]:
        return {path: Handler(method, cardinality, Note, Note) for path, (method, cardinality) in self._methods.items()}


class ScriptBase(ServiceBase):
    """The same service as betterproto's compiler would write it; subclasses override its methods."""

    async def unary(self, note: Note) -> Note:
        return note

    async def server_streaming(self, note: Note) -> AsyncIterator[Note]:
        for character in note.text:
            yield Note(character)

    async def client_streaming(self, notes: AsyncIterator[Note]) -> Note:
        return Note("".join([note.text async for note in notes]))

    async def bidi(self, notes: AsyncIterator[Note]) -> AsyncIterator[Note]:
        async for note in notes:
            yield note

    async def _unary(self, stream: Stream) -> None:
        request = await stream.recv_message()
        assert request is not None
        await stream.send_message(await self.unary(request))

    async def _server_streaming(self, stream: Stream) -> None:
        request = await stream.recv_message()
        assert request is not None
        await self._call_rpc_handler_server_stream(self.server_streaming, stream, request)

    async def _client_streaming(self, stream: Stream) -> None:
        await stream.send_message(await self.client_streaming(stream.__aiter__()))

    async def _bidi(self, stream: Stream) -> None:
        await self._call_rpc_handler_server_stream(self.bidi, stream, stream.__aiter__())

    def __mapping__(self) -> dict[str, Handler]:
        script = Script(self._unary, self._server_streaming, self._client_streaming, self._bidi)
        return script.__mapping__()


class ScriptStub(ServiceStub):
    """The service's stub as betterproto's compiler would write it."""

    async def unary(self, note: Note, **options: Any) -> Note:
        return await self._unary_unary(UNARY, note, Note, **options)

    async def server_streaming(self, note: Note, **options: Any) -> AsyncIterator[Note]:
        async for answer in self._unary_stream(SERVER_STREAMING, note, Note, **options):
            yield answer

    async def client_streaming(self, notes: Any, **options: Any) -> Note:
        return await self._stream_unary(CLIENT_STREAMING, notes, Note, Note, **options)

    async def bidi(self, notes: Any, **options: Any) -> AsyncIterator[Note]:
        async for answer in self._stream_stream(BIDI, notes, Note, Note, **options):
            yield answer
