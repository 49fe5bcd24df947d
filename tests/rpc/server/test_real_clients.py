"""grpcio's clients and grpclib's own against our server, on every backend."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from anyio import to_thread
from grpclib.const import Cardinality, Status

from connectrio.rpc import Server, ServerOptions
from rpc.kit.commanded import FAILURE, LARGE, Commanded
from rpc.kit.real_clients import Result, grpc_aio, grpcio, grpclib
from rpc.kit.serving import PATIENCE, eventually, leaving_nothing, listening, timeouts

each_client = pytest.mark.parametrize("client", [grpcio, grpc_aio, grpclib])
each_cardinality = pytest.mark.parametrize("cardinality", list(Cardinality))


async def call(
    client: Any,
    *args: Any,
    servicer: Commanded | None = None,
    server_options: ServerOptions | None = None,
    **options: Any,
) -> Result:
    """Let a client call our server."""
    async with leaving_nothing():
        server = Server([servicer or Commanded()], options=server_options)
        async with listening(server) as port:
            result = await to_thread.run_sync(partial(client, port, *args, **options))
            await eventually(lambda: server.active_calls == 0)
            await server.shutdown(grace=PATIENCE)
        return result


def joined(cardinality: Cardinality, texts: list[str]) -> list[str]:
    return ["".join(texts)] if cardinality is Cardinality.STREAM_UNARY else texts


@each_client
@each_cardinality
async def test_calls_of_every_cardinality(client: Any, cardinality: Cardinality):
    texts = ["a", "", "ü"] if cardinality.client_streaming else ["a"]
    result = await call(client, cardinality, texts)
    assert result.replies == joined(cardinality, texts)
    assert result.status is Status.OK


@each_client
@each_cardinality
async def test_large_messages(client: Any, cardinality: Cardinality):
    texts = [LARGE] * 3 if cardinality.client_streaming else [LARGE]
    small = ServerOptions(stream_window=65_535, connection_window=65_535)
    result = await call(client, cardinality, texts, server_options=small)
    assert result.replies == joined(cardinality, texts)


@each_client
@each_cardinality
async def test_errors(client: Any, cardinality: Cardinality):
    result = await call(client, cardinality, ["fail"])
    assert (result.status, result.message) == FAILURE


@each_client
@each_cardinality
async def test_metadata_both_ways(client: Any, cardinality: Cardinality):
    metadata = {"x-text": "a, b", "x-raw-bin": bytes(range(256))}
    result = await call(client, cardinality, ["a"], metadata=list(metadata.items()))
    assert result.initial == result.trailing == metadata


@each_client
@each_cardinality
async def test_deadlines(client: Any, cardinality: Cardinality):
    for timeout in timeouts():
        servicer = Commanded()
        result = await call(client, cardinality, ["sleep"], servicer=servicer, timeout=timeout)
        assert result.status is Status.DEADLINE_EXCEEDED
        assert servicer.sleeps.cancelled.is_set() == servicer.sleeps.begun.is_set()
        if servicer.sleeps.begun.is_set():
            break


@each_client
@each_cardinality
async def test_cancelling(client: Any, cardinality: Cardinality):
    servicer = Commanded()
    result = await call(client, cardinality, ["sleep"], servicer=servicer, cancel_when=servicer.sleeps.begun.wait)
    assert result.status is Status.CANCELLED
    assert servicer.sleeps.cancelled.is_set()


@each_client
async def test_cancelling_in_the_middle_of_a_stream(client: Any):
    result = await call(client, Cardinality.STREAM_STREAM, ["a", "b", "sleep"], cancel_after=2)
    assert result.replies == ["a", "b"]
    assert result.status is Status.CANCELLED


@each_client
async def test_messages_over_the_limit(client: Any):
    limited = ServerOptions(max_receive_message_size=1000)
    result = await call(client, Cardinality.UNARY_UNARY, [LARGE], server_options=limited)
    assert result.status is Status.RESOURCE_EXHAUSTED
