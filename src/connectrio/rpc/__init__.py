"""gRPC for anyio: a server and a channel for grpclib's servicers and betterproto's stubs, on asyncio and trio.

    async with anyio.create_task_group() as tasks:
        server = Server([Greeter()])
        [address] = await tasks.start(server.serve, await anyio.create_tcp_listener(local_host="127.0.0.1"))
        async with Channel("127.0.0.1:50051") as channel:
            reply = await GreeterStub(channel).say_hello(HelloRequest(name="you"), timeout=1)
        await server.shutdown(grace=10)

It knows nothing of Flyte.
"""

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.rpc.call import Call, current_call
from connectrio.rpc.channel import Channel
from connectrio.rpc.connectivity import ChannelState
from connectrio.rpc.deadline import Deadline
from connectrio.rpc.options import ChannelOptions, ConnectionOptions, ServerOptions
from connectrio.rpc.server import Server
from connectrio.rpc.tls import ChannelTLS, ServerTLS
from connectrio.rpc.unix import listen_unix

__all__ = [
    "Call",
    "Channel",
    "ChannelOptions",
    "ChannelState",
    "ChannelTLS",
    "ConnectionOptions",
    "Deadline",
    "GRPCError",
    "Server",
    "ServerOptions",
    "ServerTLS",
    "Status",
    "current_call",
    "listen_unix",
]
