"""grpc-go's interoperability client against our server."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

from connectrio.rpc import Server
from interop.servicer import InteropServicer
from interop.tools import run_tool

CASES = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
]


@asynccontextmanager
async def serving():
    async with anyio.create_task_group() as tasks:
        server = Server([InteropServicer()])
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        [(_, port)] = await tasks.start(server.serve, listener)
        yield port
        await server.shutdown(grace=5)
        assert server.active_calls == 0


@pytest.mark.parametrize("case", CASES)
async def test_case(case):
    async with serving() as port:
        ran = await run_tool(
            "client",
            f"--test_case={case}",
            "--server_host=127.0.0.1",
            f"--server_port={port}",
            "--soak_iterations=20",
            "--soak_overall_timeout_seconds=30",
        )
    output = ran.stdout.decode()
    assert ran.returncode == 0, output
    assert "done" in output.lower(), output
