"""What a client can ask of a call and of a channel; the parts of "Call a server" in the documents."""

from __future__ import annotations

import anyio

from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthStub
from connectrio.rpc import Channel, GRPCError, Server, closing, response_metadata
from connectrio.rpc.health import Health, ServingStatus


async def make_calls(target: str) -> None:
    async with Channel(target) as channel:
        stub = HealthStub(channel)
        reply = await stub.check(HealthCheckRequest(), timeout=30)
        print(reply.status.name)

        async with closing(stub.watch(HealthCheckRequest())) as replies:
            async for reply in replies:
                print(reply.status.name)
                break


async def limit_the_time(stub: HealthStub) -> None:
    try:
        async for reply in stub.watch(HealthCheckRequest(), timeout=0.2):
            print(reply.status.name)
    except GRPCError as error:
        print(error.status.name, error.message)


async def wait_for_the_server(channel: Channel) -> None:
    stub = HealthStub(channel.when_ready)
    await stub.check(HealthCheckRequest(), timeout=30)


async def send_and_read_metadata(stub: HealthStub) -> None:
    with response_metadata() as seen:
        await stub.check(HealthCheckRequest(), metadata={"x-request-id": "42"})
    print(seen.trailing["build"], seen.status)

    with response_metadata() as seen:
        try:
            await stub.check(HealthCheckRequest(service="no.such.Service"))
        except GRPCError:
            print(seen.trailing["build"], seen.status)


async def main() -> None:
    health = Health(details=lambda: [("build", "7f3a")])
    health.set("", ServingStatus.SERVING)
    server = Server([health])
    async with anyio.create_task_group() as tasks:
        [(host, port)] = await tasks.start(server.serve, await anyio.create_tcp_listener(local_host="127.0.0.1"))
        await make_calls(f"{host}:{port}")
        async with Channel(f"{host}:{port}") as channel:
            stub = HealthStub(channel)
            await limit_the_time(stub)
            await wait_for_the_server(channel)
            await send_and_read_metadata(stub)
        await server.shutdown(grace=0)


if __name__ == "__main__":
    anyio.run(main)
