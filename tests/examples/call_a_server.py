"""What a client can ask of a call and of a channel; the parts of "Call a server" in the documents."""

from __future__ import annotations

import anyio
import trustme

from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse, HealthStub
from connectrio.rpc import (
    Channel,
    ChannelOptions,
    ChannelState,
    ChannelTLS,
    GRPCError,
    RetryPolicy,
    Server,
    ServerTLS,
    Status,
    closing,
    options_from_service_config,
    response_metadata,
)
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


async def retry(target: str) -> None:
    policy = RetryPolicy(max_attempts=4, initial_backoff=0.1, retryable_status_codes=[Status.UNAVAILABLE])
    async with Channel(target, options=ChannelOptions(retry=policy)) as channel:
        reply = await HealthStub(channel).check(HealthCheckRequest(service="starting"), timeout=30)
        print(reply.status.name)


SERVICE_CONFIG = """
{
  "methodConfig": [{
    "name": [{"service": "grpc.health.v1.Health"}],
    "timeout": "30s",
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.1s",
      "maxBackoff": "1s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }],
  "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
}
"""


async def use_a_service_config(target: str) -> None:
    async with Channel(target, options=options_from_service_config(SERVICE_CONFIG)) as channel:
        reply = await HealthStub(channel).check(HealthCheckRequest(service="starting"))
        print(reply.status.name)


async def follow_the_health(target: str, health: Health) -> None:
    options = ChannelOptions(load_balancing="round_robin", health_service="")
    async with Channel(target, options=options) as channel:
        await channel.wait_until_ready()
        health.set("", ServingStatus.NOT_SERVING)
        await channel.wait_for_state(ChannelState.TRANSIENT_FAILURE)
        print(channel.state.name, channel.error)
        health.set("", ServingStatus.SERVING)
        print((await channel.wait_for_state(ChannelState.READY)).name)


async def print_states(channel: Channel) -> None:
    state = channel.state
    while state is not ChannelState.SHUTDOWN:
        print(state.name)
        state = await channel.wait_for_state_change(state)


async def call_with_tls(target: str, authority: bytes, certificate: bytes, key: bytes) -> None:
    tls = ChannelTLS(authority, certificate, key)
    async with Channel(target, tls=tls) as channel:
        reply = await HealthStub(channel).check(HealthCheckRequest(), timeout=30)
        print(reply.status.name)


class StartingHealth(Health):
    """Its service "starting" fails two calls of three."""

    calls = 0

    async def check(self, message: HealthCheckRequest) -> HealthCheckResponse:
        if message.service == "starting":
            self.calls += 1
            if self.calls % 3:
                raise GRPCError(Status.UNAVAILABLE, "starting")
        return await super().check(message)


async def main() -> None:
    health = StartingHealth(details=lambda: [("build", "7f3a")])
    health.set("", ServingStatus.SERVING)
    health.set("starting", ServingStatus.SERVING)
    server = Server([health])
    trusted = trustme.CA()
    ours, theirs = trusted.issue_cert("127.0.0.1"), trusted.issue_cert("client@example.com")
    ca = trusted.cert_pem.bytes()
    tls = ServerTLS(ours.private_key_and_cert_chain_pem.bytes(), client_ca=ca)
    plain, secured = [await anyio.create_tcp_listener(local_host="127.0.0.1") for _ in range(2)]
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(server.serve, [plain, tls.listen(secured)])
        (host, port), (_, tls_port) = addresses
        await make_calls(f"{host}:{port}")
        async with Channel(f"{host}:{port}") as channel:
            stub = HealthStub(channel)
            await limit_the_time(stub)
            await wait_for_the_server(channel)
            await send_and_read_metadata(stub)
        await retry(f"{host}:{port}")
        await use_a_service_config(f"{host}:{port}")
        await follow_the_health(f"{host}:{port}", health)
        async with Channel(f"{host}:{port}") as channel:
            await channel.wait_until_ready()
            tasks.start_soon(print_states, channel)
            await anyio.wait_all_tasks_blocked()
        certificate, key = theirs.cert_chain_pems[0].bytes(), theirs.private_key_pem.bytes()
        await call_with_tls(f"{host}:{tls_port}", ca, certificate, key)
        await server.shutdown(grace=0)


if __name__ == "__main__":
    anyio.run(main)
