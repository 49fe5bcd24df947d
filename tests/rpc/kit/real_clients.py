"""Other people's clients, each with the same blocking interface; call them from a worker thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from grpclib.const import Cardinality, Status

from rpc.kit.script import BIDI, CLIENT_STREAMING, SERVER_STREAMING, UNARY, Note

PATHS = {
    Cardinality.UNARY_UNARY: UNARY,
    Cardinality.UNARY_STREAM: SERVER_STREAMING,
    Cardinality.STREAM_UNARY: CLIENT_STREAMING,
    Cardinality.STREAM_STREAM: BIDI,
}
UNLIMITED = [("grpc.max_receive_message_length", -1)]


@dataclass
class Result:
    """What became of a call."""

    replies: list[str] = field(default_factory=list)
    status: Status = Status.OK
    message: str | None = None
    initial: dict[str, Any] = field(default_factory=dict)
    trailing: dict[str, Any] = field(default_factory=dict)


def custom(metadata: Any) -> dict[str, Any]:
    """The part of metadata that the service sent on purpose."""
    return {key: value for key, value in metadata or () if key.startswith("x-")}


def grpcio(
    port: int,
    cardinality: Cardinality,
    texts: Sequence[str],
    *,
    timeout: float | None = None,
    metadata: Sequence[tuple[str, Any]] = (),
    cancel_after: int | None = None,
    cancel_when: Callable[[], object] | None = None,
) -> Result:
    """A call by grpcio's blocking client.

    :param cancel_after: cancel when so many replies are here
    :param cancel_when: cancel when this returns
    """
    grpc = pytest.importorskip("grpc", reason="needs the package grpcio")
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
        make = getattr(channel, cardinality.name.lower())
        method = make(
            PATHS[cardinality], request_serializer=Note.SerializeToString, response_deserializer=Note.FromString
        )
        requests: Any = iter(map(Note, texts)) if cardinality.client_streaming else Note(texts[0])
        streaming = cardinality.server_streaming
        call = (method if streaming else method.future)(requests, timeout=timeout, metadata=metadata)
        result = Result()
        if cancel_when is not None:
            cancel_when()
            call.cancel()
        try:
            for reply in call if streaming else [call.result()]:
                result.replies.append(reply.text)
                if len(result.replies) == cancel_after:
                    call.cancel()
        except (grpc.RpcError, grpc.FutureCancelledError):
            pass
        result.status, result.message = Status[call.code().name], call.details()
        result.initial, result.trailing = custom(call.initial_metadata()), custom(call.trailing_metadata())
        return result


def grpc_aio(port: int, cardinality: Cardinality, texts: Sequence[str], **options: Any) -> Result:
    """A call by grpcio's asyncio client; see `grpcio`."""
    pytest.importorskip("grpc", reason="needs the package grpcio")
    return asyncio.run(_grpc_aio(port, cardinality, texts, **options))


async def _grpc_aio(
    port: int,
    cardinality: Cardinality,
    texts: Sequence[str],
    *,
    timeout: float | None = None,
    metadata: Sequence[tuple[str, Any]] = (),
    cancel_after: int | None = None,
    cancel_when: Callable[[], object] | None = None,
) -> Result:
    import grpc.aio

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
        make = getattr(channel, cardinality.name.lower())
        method = make(
            PATHS[cardinality], request_serializer=Note.SerializeToString, response_deserializer=Note.FromString
        )
        requests: Any = iter(map(Note, texts)) if cardinality.client_streaming else Note(texts[0])
        call = method(requests, timeout=timeout, metadata=metadata)
        result = Result()
        try:
            if cancel_when is not None:
                await started(call)
                await asyncio.to_thread(cancel_when)
                call.cancel()
            if cardinality.server_streaming:
                async for reply in call:
                    result.replies.append(reply.text)
                    if len(result.replies) == cancel_after:
                        call.cancel()
            else:
                result.replies.append((await call).text)
        except (grpc.RpcError, asyncio.CancelledError):
            pass
        result.status, result.message = Status[(await call.code()).name], await call.details()
        result.initial = custom(await call.initial_metadata()) if not call.cancelled() else {}
        result.trailing = custom(await call.trailing_metadata())
        return result


async def started(call: Any) -> None:
    """Let grpcio's asyncio client begin with a call that nobody waits for yet."""
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(call.wait_for_connection())), 0.01)


def grpclib(port: int, cardinality: Cardinality, texts: Sequence[str], **options: Any) -> Result:
    """A call by grpclib's client; see `grpcio`."""
    return asyncio.run(_grpclib(port, cardinality, texts, **options))


async def _grpclib(
    port: int,
    cardinality: Cardinality,
    texts: Sequence[str],
    *,
    timeout: float | None = None,
    metadata: Sequence[tuple[str, Any]] = (),
    cancel_after: int | None = None,
    cancel_when: Callable[[], object] | None = None,
) -> Result:
    from grpclib.client import Channel
    from grpclib.exceptions import GRPCError

    result = Result()
    async with Channel("127.0.0.1", port) as channel:
        try:
            async with channel.request(
                PATHS[cardinality], cardinality, Note, Note, timeout=timeout, metadata=list(metadata)
            ) as stream:
                await stream.send_request()
                for text in texts[:-1]:
                    await stream.send_message(Note(text))
                await stream.send_message(Note(texts[-1]), end=True)
                await stream.recv_initial_metadata()
                result.initial = custom(stream.initial_metadata.items())
                if cancel_when is not None:
                    await asyncio.to_thread(cancel_when)
                    cancel_after = 0
                while len(result.replies) != cancel_after:
                    reply = await stream.recv_message()
                    if reply is None:
                        break
                    result.replies.append(reply.text)
                    if not cardinality.server_streaming:
                        break
                else:
                    await stream.cancel()
                    result.status = Status.CANCELLED
                    return result
                await stream.recv_trailing_metadata()
                result.trailing = custom(stream.trailing_metadata.items())
        except GRPCError as error:
            result.status, result.message = error.status, error.message
        except TimeoutError:
            result.status = Status.DEADLINE_EXCEEDED
    return result
