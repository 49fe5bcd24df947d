"""grpc's interoperability cases, played by our client.

Source: grpc's "Interoperability Test Case Descriptions"; the numbers are its own. Each case takes a channel, and raises
when the server does not answer as described.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from connectrio.rpc import Channel
from interop.messages import (
    BoolValue,
    EchoStatus,
    Empty,
    Payload,
    ResponseParameters,
    SimpleRequest,
    SimpleResponse,
    StreamingInputCallRequest,
    StreamingInputCallResponse,
    StreamingOutputCallRequest,
    StreamingOutputCallResponse,
)

Case: TypeAlias = Callable[[Channel], Awaitable[None]]

REQUEST_SIZE, RESPONSE_SIZE = 271_828, 314_159
REQUEST_SIZES, RESPONSE_SIZES = [27_182, 8, 1_828, 45_904], [31_415, 9, 2_653, 58_979]

METADATA = [("x-grpc-test-echo-initial", "test_initial_metadata_value"), ("x-grpc-test-echo-trailing-bin", b"\xab" * 3)]
MESSAGE = "test status message"
SPECIAL_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"

SOAK_ITERATIONS = 20


def call(channel: Channel, method: str, **options: Any) -> Any:
    """A call to grpc.testing.TestService."""
    return channel.request(f"/grpc.testing.TestService/{method}", *METHODS[method], **options)


METHODS: dict[str, tuple[Any, ...]] = {
    "EmptyCall": (Cardinality.UNARY_UNARY, Empty, Empty),
    "UnaryCall": (Cardinality.UNARY_UNARY, SimpleRequest, SimpleResponse),
    "StreamingOutputCall": (Cardinality.UNARY_STREAM, StreamingOutputCallRequest, StreamingOutputCallResponse),
    "StreamingInputCall": (Cardinality.STREAM_UNARY, StreamingInputCallRequest, StreamingInputCallResponse),
    "FullDuplexCall": (Cardinality.STREAM_STREAM, StreamingOutputCallRequest, StreamingOutputCallResponse),
    "UnimplementedCall": (Cardinality.UNARY_UNARY, Empty, Empty),
}


def zeros(size: int) -> Payload:
    return Payload(body=bytes(size))


def large_request(**fields: Any) -> SimpleRequest:
    return SimpleRequest(response_size=RESPONSE_SIZE, payload=zeros(REQUEST_SIZE), **fields)


def output_request(request_size: int, *response_sizes: int) -> StreamingOutputCallRequest:
    parameters = [ResponseParameters(size=size) for size in response_sizes]
    return StreamingOutputCallRequest(response_parameters=parameters, payload=zeros(request_size))


def input_request(size: int, **fields: Any) -> StreamingInputCallRequest:
    return StreamingInputCallRequest(payload=zeros(size), **fields)


async def unary(stream: Any, request: Any) -> Any:
    """The response to `request` on `stream`, which is awaited to its end."""
    await stream.send_message(request)
    response = await stream.recv_message()
    await stream.recv_trailing_metadata()
    return response


def check_large(response: SimpleResponse | None) -> None:
    assert response is not None
    assert response.payload is not None
    assert response.payload.body == bytes(RESPONSE_SIZE)


def check_size(response: StreamingOutputCallResponse | None, size: int) -> None:
    assert response is not None
    assert response.payload is not None
    assert response.payload.body == bytes(size)


# the cases


async def empty_unary(channel: Channel) -> None:
    async with call(channel, "EmptyCall") as stream:
        assert isinstance(await unary(stream, Empty()), Empty)


async def large_unary(channel: Channel) -> None:
    async with call(channel, "UnaryCall") as stream:
        check_large(await unary(stream, large_request()))


async def client_streaming(channel: Channel) -> None:
    async with call(channel, "StreamingInputCall") as stream:
        for size in REQUEST_SIZES:
            await stream.send_message(input_request(size))
        await stream.end()
        assert (await stream.recv_message()).aggregated_payload_size == sum(REQUEST_SIZES) == 74_922


async def server_streaming(channel: Channel) -> None:
    async with call(channel, "StreamingOutputCall") as stream:
        await stream.send_message(output_request(0, *RESPONSE_SIZES))
        for size in RESPONSE_SIZES:
            check_size(await stream.recv_message(), size)
        assert await stream.recv_message() is None


async def ping_pong(channel: Channel) -> None:
    async with call(channel, "FullDuplexCall") as stream:
        for request_size, response_size in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
            await stream.send_message(output_request(request_size, response_size))
            check_size(await stream.recv_message(), response_size)
        await stream.end()
        assert await stream.recv_message() is None


async def empty_stream(channel: Channel) -> None:
    async with call(channel, "FullDuplexCall") as stream:
        await stream.send_request(end=True)
        assert await stream.recv_message() is None
        await stream.recv_trailing_metadata()


async def timeout_on_sleeping_server(channel: Channel) -> None:
    with failing(Status.DEADLINE_EXCEEDED):
        async with call(channel, "FullDuplexCall", timeout=0.001) as stream:
            await stream.send_message(output_request(REQUEST_SIZES[0]))
            await stream.recv_message()


async def cancel_after_begin(channel: Channel) -> None:
    async with call(channel, "StreamingInputCall") as stream:
        await stream.send_request()
        await stream.cancel()
        with failing(Status.CANCELLED):
            await stream.recv_trailing_metadata()


async def cancel_after_first_response(channel: Channel) -> None:
    async with call(channel, "FullDuplexCall") as stream:
        await stream.send_message(output_request(REQUEST_SIZES[0], RESPONSE_SIZES[0]))
        check_size(await stream.recv_message(), RESPONSE_SIZES[0])
        await stream.cancel()
        with failing(Status.CANCELLED):
            await stream.recv_message()


async def status_code_and_message(channel: Channel) -> None:
    status = EchoStatus(code=Status.UNKNOWN.value, message=MESSAGE)
    with failing(Status.UNKNOWN, MESSAGE):
        async with call(channel, "UnaryCall") as stream:
            await unary(stream, SimpleRequest(response_status=status))
    with failing(Status.UNKNOWN, MESSAGE):
        async with call(channel, "FullDuplexCall") as stream:
            await stream.send_message(StreamingOutputCallRequest(response_status=status), end=True)
            await stream.recv_message()
            await stream.recv_trailing_metadata()


async def special_status_message(channel: Channel) -> None:
    with failing(Status.UNKNOWN, SPECIAL_MESSAGE):
        async with call(channel, "UnaryCall") as stream:
            status = EchoStatus(code=Status.UNKNOWN.value, message=SPECIAL_MESSAGE)
            await unary(stream, SimpleRequest(response_status=status))


async def custom_metadata(channel: Channel) -> None:
    async with call(channel, "UnaryCall", metadata=METADATA) as stream:
        check_large(await unary(stream, large_request()))
    check_metadata(stream)
    async with call(channel, "FullDuplexCall", metadata=METADATA) as stream:
        await stream.send_message(output_request(REQUEST_SIZE, RESPONSE_SIZE), end=True)
        check_size(await stream.recv_message(), RESPONSE_SIZE)
        await stream.recv_trailing_metadata()
    check_metadata(stream)


def check_metadata(stream: Any) -> None:
    (initial, initial_value), (trailing, trailing_value) = METADATA
    assert stream.initial_metadata[initial] == initial_value
    assert stream.trailing_metadata[trailing] == trailing_value


async def unimplemented_method(channel: Channel) -> None:
    with failing(Status.UNIMPLEMENTED):
        async with call(channel, "UnimplementedCall") as stream:
            await unary(stream, Empty())


async def unimplemented_service(channel: Channel) -> None:
    method = "/grpc.testing.UnimplementedService/UnimplementedCall"
    with failing(Status.UNIMPLEMENTED):
        async with channel.request(method, *METHODS["UnimplementedCall"]) as stream:
            await unary(stream, Empty())


async def rpc_soak(channel: Channel) -> None:
    for _ in range(SOAK_ITERATIONS):
        await large_unary(channel)


async def concurrent_large_unary(channel: Channel) -> None:
    """Not in the descriptions' list for clients of one thread, but a property that many of them rely on."""
    async with anyio.create_task_group() as tasks:
        for _ in range(SOAK_ITERATIONS):
            tasks.start_soon(large_unary, channel)


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        empty_unary,
        large_unary,
        client_streaming,
        server_streaming,
        ping_pong,
        empty_stream,
        timeout_on_sleeping_server,
        cancel_after_begin,
        cancel_after_first_response,
        status_code_and_message,
        special_status_message,
        custom_metadata,
        unimplemented_method,
        unimplemented_service,
        rpc_soak,
        concurrent_large_unary,
    )
}


# the compression cases; their channel has compression="gzip"


async def client_compressed_unary(channel: Channel) -> None:
    expected = BoolValue(value=True)
    with failing(Status.INVALID_ARGUMENT):  # the probe: does the server notice?
        async with call(channel, "UnaryCall") as stream:
            stream.compress_messages = False
            await unary(stream, large_request(expect_compressed=expected))
    for compressed in (True, False):
        async with call(channel, "UnaryCall") as stream:
            stream.compress_messages = compressed
            check_large(await unary(stream, large_request(expect_compressed=BoolValue(value=compressed))))


async def server_compressed_unary(channel: Channel) -> None:
    for compressed in (True, False):
        async with call(channel, "UnaryCall") as stream:
            check_large(await unary(stream, large_request(response_compressed=BoolValue(value=compressed))))
            assert stream.message_was_compressed is compressed


async def client_compressed_streaming(channel: Channel) -> None:
    expected = BoolValue(value=True)
    with failing(Status.INVALID_ARGUMENT):
        async with call(channel, "StreamingInputCall") as stream:
            stream.compress_messages = False
            await stream.send_message(input_request(27_182, expect_compressed=expected), end=True)
            await stream.recv_message()
            await stream.recv_trailing_metadata()
    async with call(channel, "StreamingInputCall") as stream:
        await stream.send_message(input_request(27_182, expect_compressed=expected))
        stream.compress_messages = False
        await stream.send_message(input_request(45_904, expect_compressed=BoolValue(value=False)), end=True)
        assert (await stream.recv_message()).aggregated_payload_size == 73_086


async def server_compressed_streaming(channel: Channel) -> None:
    wanted = {31_415: True, 92_653: False}
    parameters = [ResponseParameters(size=size, compressed=BoolValue(value=flag)) for size, flag in wanted.items()]
    async with call(channel, "StreamingOutputCall") as stream:
        await stream.send_message(StreamingOutputCallRequest(response_parameters=parameters))
        for size, compressed in wanted.items():
            check_size(await stream.recv_message(), size)
            assert stream.message_was_compressed is compressed
        assert await stream.recv_message() is None


COMPRESSION_CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        client_compressed_unary,
        server_compressed_unary,
        client_compressed_streaming,
        server_compressed_streaming,
    )
}


class failing:  # noqa: N801 - reads as a statement, like pytest.raises
    """A call in this block must fail with that status, and that very message if one is given."""

    def __init__(self, status: Status, message: str | None = None) -> None:
        self._status, self._message = status, message
        self._raises = pytest.raises(GRPCError)

    def __enter__(self) -> None:
        self._raised = self._raises.__enter__()

    def __exit__(self, *raised: object) -> bool:
        swallowed = self._raises.__exit__(*raised)
        error = self._raised.value
        assert error.status is self._status
        assert self._message is None or error.message == self._message
        return swallowed
