"""A service that does what its messages say, as a grpclib servicer and as a grpcio handler.

"sleep" waits for ever, "fail" fails, "large" answers with a megabyte; anything else is answered with itself. Metadata
whose keys begin with "x-" come back, at the start and at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from rpc.kit.script import BIDI, CLIENT_STREAMING, SERVER_STREAMING, UNARY, Note, Script, Stream

FAILURE = (Status.FAILED_PRECONDITION, "not now: ünïcödé,\n100 %")
LARGE = "0123456789" * 100_000


class Sleeps:
    """What happened to a call that was told to sleep; for any thread to look at."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cancelled = threading.Event()


class Commanded(Script):
    """The grpclib servicer; on our server, and on grpclib's own.

    :ivar sleeps: how the calls that were told to sleep fare
    """

    def __init__(self) -> None:
        super().__init__(self._echo, self._echo, self._join, self._echo)
        self.sleeps = Sleeps()

    async def _begin(self, stream: Stream) -> dict[str, Any]:
        metadata = {key: value for key, value in (stream.metadata or {}).items() if key.startswith("x-")}
        await stream.send_initial_metadata(metadata=metadata)
        return metadata

    async def _echo(self, stream: Stream) -> None:
        metadata = await self._begin(stream)
        async for note in stream:
            await stream.send_message(await self._obey(note))
        await stream.send_trailing_metadata(metadata=metadata)

    async def _join(self, stream: Stream) -> None:
        metadata = await self._begin(stream)
        await stream.send_message(Note("".join([(await self._obey(note)).text async for note in stream])))
        await stream.send_trailing_metadata(metadata=metadata)

    async def _obey(self, note: Note) -> Note:
        if note.text == "fail":
            raise GRPCError(*FAILURE)
        if note.text == "sleep":
            self.sleeps.begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                self.sleeps.cancelled.set()
        return Note(LARGE) if note.text == "large" else note


class GrpcioCommanded:
    """The same for grpcio's server.

    :param grpc: the module, which may not be installed
    """

    def __init__(self, grpc: Any) -> None:
        self.sleeps = Sleeps()
        self._grpc = grpc

    def handlers(self) -> Any:
        """For `grpc.server`."""
        grpc = self._grpc
        codec = {"request_deserializer": Note.FromString, "response_serializer": Note.SerializeToString}
        methods = {
            UNARY: grpc.unary_unary_rpc_method_handler(self._unary, **codec),
            SERVER_STREAMING: grpc.unary_stream_rpc_method_handler(self._server_streaming, **codec),
            CLIENT_STREAMING: grpc.stream_unary_rpc_method_handler(self._client_streaming, **codec),
            BIDI: grpc.stream_stream_rpc_method_handler(self._bidi, **codec),
        }
        _, service, _ = UNARY.split("/")
        by_name = {path.rsplit("/", 1)[1]: handler for path, handler in methods.items()}
        return grpc.method_handlers_generic_handler(service, by_name)

    def _begin(self, context: Any) -> None:
        metadata = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
        context.send_initial_metadata(metadata)
        context.set_trailing_metadata(metadata)

    def _obey(self, note: Note, context: Any) -> Note:
        if note.text == "fail":
            context.abort(self._grpc.StatusCode[FAILURE[0].name], FAILURE[1])
        if note.text == "sleep":
            ended = threading.Event()
            self.sleeps.begun.set()
            if context.add_callback(ended.set):
                ended.wait()
            self.sleeps.cancelled.set()
        return Note(LARGE) if note.text == "large" else note

    def _unary(self, note: Note, context: Any) -> Note:
        self._begin(context)
        return self._obey(note, context)

    def _server_streaming(self, note: Note, context: Any) -> Iterator[Note]:
        self._begin(context)
        yield self._obey(note, context)

    def _client_streaming(self, notes: Iterator[Note], context: Any) -> Note:
        self._begin(context)
        return Note("".join(self._obey(note, context).text for note in notes))

    def _bidi(self, notes: Iterator[Note], context: Any) -> Iterator[Note]:
        self._begin(context)
        for note in notes:
            yield self._obey(note, context)
