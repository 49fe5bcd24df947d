"""A gRPC service with nothing generated: its messages, codec, servicer, interceptors and calls, from connectrio.rpc."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from connectrio.rpc import (
    Call,
    CallEndedError,
    Cardinality,
    Channel,
    ClientStream,
    CodecBase,
    GRPCError,
    Handler,
    Interceptor,
    MessageStream,
    Proceed,
    Server,
    ServerStream,
    Servicer,
    Status,
    StreamWrapper,
    current_call,
)
from connectrio.rpc.testing import memory_channel


class Text(CodecBase):
    """Messages that are texts."""

    @property
    def __content_subtype__(self) -> str:
        return "text"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return str(message).encode()

    def decode(self, data: bytes, message_type: Any) -> str:
        return data.decode()


class Shouter:
    async def shout(self, stream: ServerStream[str, str]) -> None:
        call = current_call()
        if call.deadline is not None and call.deadline.time_remaining() < 1:
            raise GRPCError(Status.DEADLINE_EXCEEDED, "shouting takes a second")
        call.set_initial_metadata([("x-by", str(call.state["by"]))])
        await call.send_initial_metadata()
        async for text in stream:
            await stream.send_message(text.upper())

    def __mapping__(self) -> dict[str, Handler]:
        return {"/demo.Shouter/Shout": Handler(self.shout, Cardinality.STREAM_STREAM, str, str)}


class Marked(StreamWrapper):
    async def send_message(self, message: Any, **options: Any) -> None:
        await super().send_message(f"{message}!", **options)


@asynccontextmanager
async def marking(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    call.state["by"] = call.peer or "memory"
    async with proceed() as stream:
        yield Marked(stream)


def request(channel: Channel) -> ClientStream[str, str]:
    return channel.request("/demo.Shouter/Shout", Cardinality.STREAM_STREAM, str, str)


async def main() -> list[str]:
    """Return what is answered."""
    servicer: Servicer = Shouter()
    interceptors: list[Interceptor] = [marking]
    server = Server([servicer], codec=Text(), interceptors=interceptors)
    async with memory_channel(server, codec=Text()) as channel, request(channel) as stream:
        with suppress(CallEndedError):
            await stream.send_message("a")
        await stream.recv_initial_metadata()
        await stream.end()
        by = stream.initial_metadata["x-by"] if stream.initial_metadata is not None else ""
        return [str(by), *[answer async for answer in stream]]
