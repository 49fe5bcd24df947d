"""grpc.testing.TestService on grpcio's server, as far as it can tell and choose how messages are compressed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from interop import messages as m
from interop.servicer import ECHO_INITIAL, ECHO_TRAILING

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]


class GrpcioServicer:
    """The methods' names are the service's."""

    def empty_call(self, request: m.Empty, context: Any) -> m.Empty:
        echo_metadata(context)
        return m.Empty()

    def unary_call(self, request: m.SimpleRequest, context: Any) -> m.SimpleResponse:
        echo_metadata(context)
        end_with(request.response_status, context)
        if request.response_compressed is not None and request.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        return m.SimpleResponse(payload=m.Payload(body=bytes(request.response_size)))

    def streaming_output_call(self, request: m.StreamingOutputCallRequest, context: Any) -> Iterator[Any]:
        if any(parameters.compressed and parameters.compressed.value for parameters in request.response_parameters):
            context.set_compression(grpc.Compression.Gzip)
        yield from answers(request, context)

    def streaming_input_call(self, requests: Iterator[Any], context: Any) -> m.StreamingInputCallResponse:
        total = sum(len(request.payload.body) for request in requests)
        return m.StreamingInputCallResponse(aggregated_payload_size=total)

    def full_duplex_call(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        echo_metadata(context)
        for request in requests:
            end_with(request.response_status, context)
            yield from answers(request, context)


def answers(request: m.StreamingOutputCallRequest, context: Any) -> Iterator[m.StreamingOutputCallResponse]:
    for parameters in request.response_parameters:
        time.sleep(parameters.interval_us / 1e6)
        if parameters.compressed is not None and not parameters.compressed.value:
            context.disable_next_message_compression()
        yield m.StreamingOutputCallResponse(payload=m.Payload(body=bytes(parameters.size)))


def end_with(status: m.EchoStatus | None, context: Any) -> None:
    if status is not None and status.code:
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        context.abort(code, status.message)


def echo_metadata(context: Any) -> None:
    received = dict(context.invocation_metadata())
    if ECHO_INITIAL in received:
        context.send_initial_metadata([(ECHO_INITIAL, received[ECHO_INITIAL])])
    if ECHO_TRAILING in received:
        context.set_trailing_metadata([(ECHO_TRAILING, received[ECHO_TRAILING])])


def _handlers() -> dict[str, Any]:
    servicer = GrpcioServicer()
    methods = {
        "EmptyCall": (grpc.unary_unary_rpc_method_handler, servicer.empty_call, m.Empty),
        "UnaryCall": (grpc.unary_unary_rpc_method_handler, servicer.unary_call, m.SimpleRequest),
        "StreamingOutputCall": (
            grpc.unary_stream_rpc_method_handler,
            servicer.streaming_output_call,
            m.StreamingOutputCallRequest,
        ),
        "StreamingInputCall": (
            grpc.stream_unary_rpc_method_handler,
            servicer.streaming_input_call,
            m.StreamingInputCallRequest,
        ),
        "FullDuplexCall": (
            grpc.stream_stream_rpc_method_handler,
            servicer.full_duplex_call,
            m.StreamingOutputCallRequest,
        ),
    }
    return {
        name: make(method, request_deserializer=request.parse, response_serializer=bytes)
        for name, (make, method, request) in methods.items()
    }


@contextmanager
def serving_with_grpcio() -> Iterator[int]:
    """The service for the length of the block; its port."""
    with ThreadPoolExecutor(16) as workers:
        server = grpc.server(workers, options=UNLIMITED)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.testing.TestService", _handlers())])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()
