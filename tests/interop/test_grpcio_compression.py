"""grpc's compression cases, played by grpcio's client against our server.

grpcio chooses compression for a whole call, so the streaming case that mixes messages is played as two calls; and it
does not tell whether a response came compressed, but the bytes on the wire do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anyio import to_thread

from interop import messages as m
from interop.cases import RESPONSE_SIZE, input_request, large_request
from interop.serving import serving
from interop.tap import tapping

grpc = pytest.importorskip("grpc", reason="needs the package grpcio")

SERVICE = "/grpc.testing.TestService"
TIMEOUT = 30
SMALL = 10_000  # bytes that no message here fits in, unless it is compressed

GZIP, DEFLATE, NONE = grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression
ALGORITHMS = pytest.mark.parametrize("algorithm", [GZIP, DEFLATE], ids=["gzip", "deflate"])


def compressed(value: bool) -> m.BoolValue:
    return m.BoolValue(value=value)


def unary(channel: Any, request: m.SimpleRequest, algorithm: Any = NONE) -> m.SimpleResponse:
    method = channel.unary_unary(
        f"{SERVICE}/UnaryCall", request_serializer=bytes, response_deserializer=m.SimpleResponse.parse
    )
    response = method(request, timeout=TIMEOUT, compression=algorithm)
    assert response.payload.body == bytes(RESPONSE_SIZE)
    return response


def streaming_input(channel: Any, *requests: m.StreamingInputCallRequest, algorithm: Any = NONE) -> int:
    method = channel.stream_unary(
        f"{SERVICE}/StreamingInputCall",
        request_serializer=bytes,
        response_deserializer=m.StreamingInputCallResponse.parse,
    )
    return method(iter(requests), timeout=TIMEOUT, compression=algorithm).aggregated_payload_size


async def with_grpcio(play: Callable[[Any], None]) -> Any:
    """Let `play` make calls to our server; the bytes that went either way."""

    def connected(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            play(channel)

    async with serving() as port, tapping(port) as tap:
        await to_thread.run_sync(connected, tap.port)
        return tap


@ALGORITHMS
async def test_client_compressed_unary(algorithm: Any):
    def probe(channel: Any) -> None:
        with pytest.raises(grpc.RpcError) as raised:
            unary(channel, large_request(expect_compressed=compressed(True)))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    def as_expected(channel: Any) -> None:
        unary(channel, large_request(expect_compressed=compressed(True)), algorithm)

    def without(channel: Any) -> None:
        unary(channel, large_request(expect_compressed=compressed(False)))

    await with_grpcio(probe)
    assert (await with_grpcio(as_expected)).from_clients < SMALL
    assert (await with_grpcio(without)).from_clients > SMALL


async def test_server_compressed_unary():
    for flag in (True, False):
        tap = await with_grpcio(
            lambda channel, flag=flag: unary(channel, large_request(response_compressed=compressed(flag)))
        )
        assert (tap.from_server < SMALL) is flag


@ALGORITHMS
async def test_client_compressed_streaming(algorithm: Any):
    def probe(channel: Any) -> None:
        with pytest.raises(grpc.RpcError) as raised:
            streaming_input(channel, input_request(27_182, expect_compressed=compressed(True)))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    def both(channel: Any) -> None:
        expected = input_request(27_182, expect_compressed=compressed(True))
        assert streaming_input(channel, expected, expected, algorithm=algorithm) == 2 * 27_182
        assert streaming_input(channel, input_request(45_904, expect_compressed=compressed(False))) == 45_904

    await with_grpcio(probe)
    await with_grpcio(both)


async def test_server_compressed_streaming():
    def play(channel: Any) -> None:
        method = channel.unary_stream(
            f"{SERVICE}/StreamingOutputCall",
            request_serializer=bytes,
            response_deserializer=m.StreamingOutputCallResponse.parse,
        )
        parameters = [
            m.ResponseParameters(size=31_415, compressed=compressed(True)),
            m.ResponseParameters(size=92_653, compressed=compressed(False)),
        ]
        responses = method(m.StreamingOutputCallRequest(response_parameters=parameters), timeout=TIMEOUT)
        assert [len(response.payload.body) for response in responses] == [31_415, 92_653]

    tap = await with_grpcio(play)
    assert 92_653 < tap.from_server < 92_653 + SMALL, "the first is compressed, the second is not"
