"""A gRPC server and a client in one trio program; any servicer that betterproto or grpclib generates will do."""

import anyio

from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthStub
from connectrio.rpc import Channel, Server
from connectrio.rpc.health import Health, ServingStatus


async def main() -> None:
    servicer = Health()
    servicer.set("", ServingStatus.SERVING)
    server = Server([servicer])
    async with anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        [(host, port)] = await tasks.start(server.serve, listener)
        async with Channel(f"{host}:{port}") as channel:
            reply = await HealthStub(channel).check(HealthCheckRequest(), timeout=30)
            print(reply.status.name)
        await server.shutdown(grace=10)


anyio.run(main, backend="trio")
