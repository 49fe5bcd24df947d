"""grpc.testing.TestService as grpc's interoperability test descriptions have it, on grpclib's servicer contract."""

from __future__ import annotations

import anyio
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from connectrio.rpc import current_call
from interop.messages import (
    Empty,
    Payload,
    SimpleRequest,
    SimpleResponse,
    StreamingInputCallRequest,
    StreamingInputCallResponse,
    StreamingOutputCallRequest,
    StreamingOutputCallResponse,
)

ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"


class InteropServicer:
    """What the interoperability clients call."""

    def __mapping__(self):
        methods = {
            "EmptyCall": (self.empty_call, Cardinality.UNARY_UNARY, Empty, Empty),
            "UnaryCall": (self.unary_call, Cardinality.UNARY_UNARY, SimpleRequest, SimpleResponse),
            "StreamingOutputCall": (
                self.streaming_output_call,
                Cardinality.UNARY_STREAM,
                StreamingOutputCallRequest,
                StreamingOutputCallResponse,
            ),
            "StreamingInputCall": (
                self.streaming_input_call,
                Cardinality.STREAM_UNARY,
                StreamingInputCallRequest,
                StreamingInputCallResponse,
            ),
            "FullDuplexCall": (
                self.full_duplex_call,
                Cardinality.STREAM_STREAM,
                StreamingOutputCallRequest,
                StreamingOutputCallResponse,
            ),
        }
        return {f"/grpc.testing.TestService/{name}": Handler(*method) for name, method in methods.items()}

    async def empty_call(self, stream):
        await stream.recv_message()
        await echo_metadata(stream)
        await stream.send_message(Empty())

    async def unary_call(self, stream):
        request = await stream.recv_message()
        check_compression(request)
        if request.response_compressed is not None and request.response_compressed.value:
            current_call().compress_response("gzip")
        await echo_metadata(stream)
        raise_status(request.response_status)
        await stream.send_message(SimpleResponse(payload=payload(request.response_size)))

    async def streaming_output_call(self, stream):
        request = await stream.recv_message()
        if any(parameters.compressed and parameters.compressed.value for parameters in request.response_parameters):
            current_call().compress_response("gzip")
        await echo_metadata(stream)
        await answer(stream, request)

    async def streaming_input_call(self, stream):
        total = 0
        async for request in stream:
            check_compression(request)
            total += len(request.payload.body)
        await stream.send_message(StreamingInputCallResponse(aggregated_payload_size=total))

    async def full_duplex_call(self, stream):
        await echo_metadata(stream)
        async for request in stream:
            raise_status(request.response_status)
            await answer(stream, request)


async def answer(stream, request):
    for parameters in request.response_parameters:
        await anyio.sleep(parameters.interval_us / 1e6)
        current_call().compress_messages = parameters.compressed is None or parameters.compressed.value
        await stream.send_message(StreamingOutputCallResponse(payload=payload(parameters.size)))


def check_compression(request):
    expected = request.expect_compressed
    if expected is not None and expected.value is not current_call().message_was_compressed:
        raise GRPCError(Status.INVALID_ARGUMENT, f"compressed: {not expected.value}, expected: {expected.value}")


def payload(size):
    return Payload(body=bytes(size))


def raise_status(status):
    if status is not None and status.code:
        raise GRPCError(Status(status.code), status.message)


async def echo_metadata(stream):
    initial = stream.metadata.get(ECHO_INITIAL)
    trailing = stream.metadata.get(ECHO_TRAILING)
    if trailing is not None:
        current_call().set_trailing_metadata([(ECHO_TRAILING, trailing)])
    if initial is not None:
        await stream.send_initial_metadata(metadata=[(ECHO_INITIAL, initial)])
