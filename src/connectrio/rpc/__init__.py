"""gRPC for anyio: a server and a channel for grpclib's servicers and betterproto's stubs, on asyncio and trio.

    async with anyio.create_task_group() as tasks:
        server = Server([Greeter()])
        [address] = await tasks.start(server.serve, await anyio.create_tcp_listener(local_host="127.0.0.1"))
        async with Channel("127.0.0.1:50051") as channel:
            reply = await GreeterStub(channel).say_hello(HelloRequest(name="you"), timeout=1)
        await server.shutdown(grace=10)

It knows nothing of Flyte.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpclib.const import Status
    from grpclib.exceptions import GRPCError

    from connectrio.rpc._client.channel import Channel
    from connectrio.rpc._client.response_metadata import ResponseMetadata, response_metadata
    from connectrio.rpc._client.stubs import closing
    from connectrio.rpc._client.subchannel import ChannelState
    from connectrio.rpc._server.server import OpenConnection, Server, ServerStats
    from connectrio.rpc.call import Call, Deadline, OnCall, OnCallEnd, current_call
    from connectrio.rpc.interceptors import Interceptor, MessageStream, Proceed, StreamWrapper
    from connectrio.rpc.options import ChannelOptions, ConnectionOptions, ServerOptions
    from connectrio.rpc.sockets import listen_unix
    from connectrio.rpc.tls import ChannelTLS, ServerTLS

__all__ = [
    "Call",
    "Channel",
    "ChannelOptions",
    "ChannelState",
    "ChannelTLS",
    "ConnectionOptions",
    "Deadline",
    "GRPCError",
    "Interceptor",
    "MessageStream",
    "OnCall",
    "OnCallEnd",
    "OpenConnection",
    "Proceed",
    "ResponseMetadata",
    "Server",
    "ServerOptions",
    "ServerStats",
    "ServerTLS",
    "Status",
    "StreamWrapper",
    "closing",
    "current_call",
    "listen_unix",
    "response_metadata",
]

# each is imported when it is first asked for, so that users of the options do not load the server
_HOMES = {
    "Call": "connectrio.rpc.call",
    "Channel": "connectrio.rpc._client.channel",
    "ChannelOptions": "connectrio.rpc.options",
    "ChannelState": "connectrio.rpc._client.subchannel",
    "ChannelTLS": "connectrio.rpc.tls",
    "ConnectionOptions": "connectrio.rpc.options",
    "Deadline": "connectrio.rpc.call",
    "GRPCError": "grpclib.exceptions",
    "Interceptor": "connectrio.rpc.interceptors",
    "MessageStream": "connectrio.rpc.interceptors",
    "Proceed": "connectrio.rpc.interceptors",
    "StreamWrapper": "connectrio.rpc.interceptors",
    "OpenConnection": "connectrio.rpc._server.server",
    "OnCall": "connectrio.rpc.call",
    "OnCallEnd": "connectrio.rpc.call",
    "ResponseMetadata": "connectrio.rpc._client.response_metadata",
    "Server": "connectrio.rpc._server.server",
    "ServerOptions": "connectrio.rpc.options",
    "ServerStats": "connectrio.rpc._server.server",
    "ServerTLS": "connectrio.rpc.tls",
    "Status": "grpclib.const",
    "closing": "connectrio.rpc._client.stubs",
    "current_call": "connectrio.rpc.call",
    "listen_unix": "connectrio.rpc.sockets",
    "response_metadata": "connectrio.rpc._client.response_metadata",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
