"""gRPC for anyio: a server and a channel for grpclib's servicers and betterproto's stubs, on asyncio and trio.

    async with anyio.create_task_group() as tasks:
        server = Server([Greeter()])
        [address] = await tasks.start(server.serve, await anyio.create_tcp_listener(local_host="127.0.0.1"))
        async with Channel("127.0.0.1:50051") as channel:
            reply = await GreeterStub(channel).say_hello(HelloRequest(name="you"), timeout=1)
        await server.shutdown(grace=10)

What comes from grpclib is here too, so that servicers, codecs and interceptors need no other import:

- `Status` and `GRPCError`: how a call ends, and what a servicer raises to end it so. `ProtocolError` is raised where
  code uses a call in a way that gRPC does not allow.
- `Handler`: an entry of what a servicer's `__mapping__` returns: function, `Cardinality`, and the classes of requests
  and responses. Generated servicers have it; it is for those that are written by hand.
- `Cardinality`: whether requests, and responses, are one message or many: UNARY_UNARY, UNARY_STREAM, STREAM_UNARY or
  STREAM_STREAM.
- `CodecBase` and `StatusDetailsCodecBase`: the bases of codecs, for messages and for details of statuses. They have
  `encode` and `decode`; the first also `__content_subtype__`, the name in the content type.

`connectrio.rpc.testing` has servers and channels without sockets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpclib.const import Cardinality, Handler, Status
    from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
    from grpclib.exceptions import GRPCError, ProtocolError

    from connectrio.rpc._client.call import ClientStream
    from connectrio.rpc._client.channel import Channel
    from connectrio.rpc._client.response_metadata import ResponseMetadata, response_metadata
    from connectrio.rpc._client.response_status import CallEndedError
    from connectrio.rpc._client.stubs import closing
    from connectrio.rpc._client.subchannel import ChannelState
    from connectrio.rpc._http2.stream import StreamTerminatedError
    from connectrio.rpc._server.server import OpenConnection, Server, ServerStats, Servicer
    from connectrio.rpc._server.stream import ServerStream
    from connectrio.rpc.call import Call, Deadline, OnCall, OnCallEnd, current_call
    from connectrio.rpc.codec import DecodeError, EncodeError, MessageCodec, StatusDetailsCodec
    from connectrio.rpc.health import Health, ServingStatus
    from connectrio.rpc.interceptors import Interceptor, MessageStream, Proceed, StreamWrapper
    from connectrio.rpc.options import (
        ChannelOptions,
        ConnectionOptions,
        MethodConfig,
        RetryPolicy,
        RetryThrottling,
        ServerOptions,
    )
    from connectrio.rpc.reflection import Reflection
    from connectrio.rpc.service_config import ServiceConfigError, options_from_service_config
    from connectrio.rpc.sockets import listen_unix
    from connectrio.rpc.tls import ChannelTLS, ServerTLS

__all__ = [
    "Call",
    "CallEndedError",
    "Cardinality",
    "Channel",
    "ChannelOptions",
    "ChannelState",
    "ChannelTLS",
    "ClientStream",
    "CodecBase",
    "ConnectionOptions",
    "Deadline",
    "DecodeError",
    "EncodeError",
    "GRPCError",
    "Handler",
    "Health",
    "Interceptor",
    "MessageCodec",
    "MessageStream",
    "MethodConfig",
    "OnCall",
    "OnCallEnd",
    "OpenConnection",
    "Proceed",
    "ProtocolError",
    "Reflection",
    "ResponseMetadata",
    "RetryPolicy",
    "RetryThrottling",
    "Server",
    "ServerOptions",
    "ServerStats",
    "ServerStream",
    "ServerTLS",
    "ServiceConfigError",
    "Servicer",
    "ServingStatus",
    "Status",
    "StatusDetailsCodec",
    "StatusDetailsCodecBase",
    "StreamTerminatedError",
    "StreamWrapper",
    "closing",
    "current_call",
    "listen_unix",
    "options_from_service_config",
    "response_metadata",
]

# each is imported when it is first asked for, so that users of the options do not load the server
_HOMES = {
    "Call": "connectrio.rpc.call",
    "CallEndedError": "connectrio.rpc._client.response_status",
    "Cardinality": "grpclib.const",
    "Channel": "connectrio.rpc._client.channel",
    "ChannelOptions": "connectrio.rpc.options",
    "ChannelState": "connectrio.rpc._client.subchannel",
    "ChannelTLS": "connectrio.rpc.tls",
    "ClientStream": "connectrio.rpc._client.call",
    "CodecBase": "grpclib.encoding.base",
    "ConnectionOptions": "connectrio.rpc.options",
    "Deadline": "connectrio.rpc.call",
    "DecodeError": "connectrio.rpc.codec",
    "EncodeError": "connectrio.rpc.codec",
    "GRPCError": "grpclib.exceptions",
    "Handler": "grpclib.const",
    "Health": "connectrio.rpc.health",
    "Interceptor": "connectrio.rpc.interceptors",
    "MessageCodec": "connectrio.rpc.codec",
    "MessageStream": "connectrio.rpc.interceptors",
    "MethodConfig": "connectrio.rpc.options",
    "OnCall": "connectrio.rpc.call",
    "OnCallEnd": "connectrio.rpc.call",
    "OpenConnection": "connectrio.rpc._server.server",
    "Proceed": "connectrio.rpc.interceptors",
    "ProtocolError": "grpclib.exceptions",
    "Reflection": "connectrio.rpc.reflection",
    "ResponseMetadata": "connectrio.rpc._client.response_metadata",
    "RetryPolicy": "connectrio.rpc.options",
    "RetryThrottling": "connectrio.rpc.options",
    "Server": "connectrio.rpc._server.server",
    "ServerOptions": "connectrio.rpc.options",
    "ServerStats": "connectrio.rpc._server.server",
    "ServerStream": "connectrio.rpc._server.stream",
    "ServerTLS": "connectrio.rpc.tls",
    "ServiceConfigError": "connectrio.rpc.service_config",
    "Servicer": "connectrio.rpc._server.server",
    "ServingStatus": "connectrio.rpc.health",
    "Status": "grpclib.const",
    "StatusDetailsCodec": "connectrio.rpc.codec",
    "StatusDetailsCodecBase": "grpclib.encoding.base",
    "StreamTerminatedError": "connectrio.rpc._http2.stream",
    "StreamWrapper": "connectrio.rpc.interceptors",
    "closing": "connectrio.rpc._client.stubs",
    "current_call": "connectrio.rpc.call",
    "listen_unix": "connectrio.rpc.sockets",
    "options_from_service_config": "connectrio.rpc.service_config",
    "response_metadata": "connectrio.rpc._client.response_metadata",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
