"""Details of statuses and trailing metadata, from grpcio's server and to its client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from anyio import to_thread
from grpclib.const import Cardinality, Status

from connectrio.rpc import Channel, GRPCError, Server, current_call
from connectrio.rpc.codec import PackedMessage, StatusDetailsCodec
from rpc.kit.script import UNARY, Note, Script

grpc = pytest.importorskip("grpc", reason="needs the package grpcio")
rpc_status = pytest.importorskip("grpc_status.rpc_status", reason="needs the package grpcio-status")
error_details_pb2 = pytest.importorskip("google.rpc.error_details_pb2", reason="needs googleapis-common-protos")

MESSAGE = "trouble: 100 % ü\n"
PAIRS = [("x-a", "1"), ("x-a", "2"), ("x-raw-bin", b"\0\xff"), ("x-raw-bin", b"b")]
TIMEOUT = 30


def errors() -> list[Any]:
    return [error_details_pb2.ErrorInfo(reason="QUOTA"), error_details_pb2.DebugInfo(detail="d")]


async def test_our_client_reads_what_grpcio_sends():
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.rpc.status_pb2 import Status as StatusMessage

    def fail(request: bytes, context: Any) -> bytes:
        status = StatusMessage(code=8, message=MESSAGE)
        for error in errors():
            packed = AnyMessage()
            packed.Pack(error)
            status.details.append(packed)
        rich = rpc_status.to_status(status)
        context.abort_with_status(type(rich)(rich.code, rich.details, (*rich.trailing_metadata, *PAIRS)))

    with ThreadPoolExecutor(1) as workers:
        server = grpc.server(workers)
        _, service, method = UNARY.split("/")
        handlers = {method: grpc.unary_unary_rpc_method_handler(fail)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            codec = StatusDetailsCodec([error_details_pb2.ErrorInfo])
            async with Channel(f"127.0.0.1:{port}", status_details_codec=codec) as channel:
                call = channel.request(UNARY, Cardinality.UNARY_UNARY, Note, Note, timeout=TIMEOUT)
                async with call:
                    await call.send_message(Note())
                    with pytest.raises(GRPCError) as caught:
                        await call.recv_message()
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(server.stop(None).wait)
    assert (caught.value.status, caught.value.message) == (Status.RESOURCE_EXHAUSTED, MESSAGE)
    info, debug = errors()
    assert caught.value.details == [
        info,
        PackedMessage("type.googleapis.com/google.rpc.DebugInfo", debug.SerializeToString()),
    ]
    assert list(call.trailing_metadata.items()) == PAIRS


async def test_grpcio_reads_what_our_server_sends():
    async def fail(stream: Any) -> None:
        current_call().set_trailing_metadata(PAIRS)
        raise GRPCError(Status.RESOURCE_EXHAUSTED, MESSAGE, errors())

    def ask(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(UNARY)(b"", timeout=TIMEOUT)
        status = rpc_status.from_call(caught.value)  # it compares code and message with those of the call
        for error, detail in zip(errors(), status.details, strict=True):
            unpacked = type(error)()
            assert detail.Unpack(unpacked)
            assert unpacked == error
        received = [(key, value) for key, value in caught.value.trailing_metadata() if not key.startswith("grpc-")]
        assert received == PAIRS

    async with anyio.create_task_group() as tasks:
        server = Server([Script(fail)], status_details_codec=StatusDetailsCodec())
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        [(_, port)] = await tasks.start(server.serve, listener)
        await to_thread.run_sync(ask, port)
        await server.shutdown(grace=5)
