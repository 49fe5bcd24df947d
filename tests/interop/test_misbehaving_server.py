"""Our channel against a server that misbehaves; and grpc-go's client against the same, to see that it does so properly.

Source: grpc's "Negative HTTP/2 Interop Test Case Descriptions".
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from connectrio.rpc import Channel, ChannelOptions
from interop.messages import Payload, SimpleRequest, SimpleResponse
from interop.misbehaving import Misbehaving
from interop.tools import run_tool
from rpc.kit.serving import eventually

REQUEST_SIZE = 271_828
RESPONSE_SIZE = 314_159
PATIENCE = 60.0


@asynccontextmanager
async def playing(case: str):
    """A server that plays `case`, and its port."""
    server = Misbehaving(case)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            yield server, await tasks.start(server.serve)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def against(case: str, **options):
    async with (
        playing(case) as (server, port),
        Channel(f"127.0.0.1:{port}", options=ChannelOptions(**options)) as channel,
    ):
        yield server, channel


async def large_unary(channel: Channel) -> None:
    """The call of every case; raises unless it succeeds with the right answer."""
    request = SimpleRequest(response_size=RESPONSE_SIZE, payload=Payload(body=bytes(REQUEST_SIZE)))
    method = "/grpc.testing.TestService/UnaryCall"
    async with channel.request(method, Cardinality.UNARY_UNARY, SimpleRequest, SimpleResponse) as stream:
        await stream.send_message(request)
        response = await stream.recv_message()
        await stream.recv_trailing_metadata()
    assert response is not None
    assert response.payload is not None
    assert response.payload.body == bytes(RESPONSE_SIZE)


async def test_goaway():
    async with against("goaway") as (server, channel):
        await large_unary(channel)
        await large_unary(channel)  # the description sleeps a second here; there is no need
    assert server.connections == 2
    assert server.answered == 2


async def test_goaway_again_and_again():
    async with against("goaway") as (server, channel):
        for _ in range(10):
            await large_unary(channel)
    assert server.connections == 10


@pytest.mark.parametrize("case", ["rst_after_header", "rst_during_data", "rst_after_data"])
async def test_a_reset(case):
    async with against(case) as (server, channel):
        for _ in range(3):
            with pytest.raises(GRPCError) as raised:
                await large_unary(channel)
            assert raised.value.status is Status.INTERNAL
    assert server.connections == 1, "a reset is one call's affair"


async def test_ping():
    async with against("ping") as (server, channel):
        for _ in range(3):
            await large_unary(channel)
        await eventually(lambda: server.pings["came back"] == 12)  # the last comes after the response
    assert server.pings == {"sent": 12, "came back": 12}


async def test_max_streams():
    async with against("max_streams") as (server, channel):
        await large_unary(channel)
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(large_unary, channel)
    assert server.answered == 11
    assert server.most_streams == 1
    assert server.connections == 1


@pytest.mark.parametrize("case", ["data_frame_padding", "no_df_padding_sanity_test"])
async def test_frames_that_are_nearly_all_padding(case):
    """Windows as small as HTTP/2 allows: bytes of padding that are not credited would end it at once."""
    async with against(case, stream_window=65_535, connection_window=65_535) as (server, channel):
        await large_unary(channel)
    assert server.answered == 1


# grpc-go's client, which also says what it expects

GO_CASES = ["goaway", "rst_after_header", "rst_after_data", "ping", "max_streams"]


@pytest.mark.parametrize("case", GO_CASES)
async def test_grpc_gos_client_meets_what_it_expects(case):
    async with playing(case) as (server, port):
        ran = await run_tool("http2", f"--test_case={case}", "--server_host=127.0.0.1", f"--server_port={port}")
    output = ran.stdout.decode()
    assert ran.returncode == 0, output
    assert f"{case} done" in output, output
    if case == "goaway":
        assert server.connections == 2
    if case == "ping":
        assert server.pings["sent"] >= 4


async def test_grpc_gos_client_sees_what_ours_sees_in_the_middle_of_a_message():
    """It says that it wants UNKNOWN, but what it gets is INTERNAL as well: what gRPC over HTTP/2 has for this reset."""
    async with playing("rst_during_data") as (_, port):
        ran = await run_tool("http2", "--test_case=rst_during_data", "--server_host=127.0.0.1", f"--server_port={port}")
    assert "Internal, want" in ran.stdout.decode()
