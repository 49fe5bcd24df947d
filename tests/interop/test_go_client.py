"""grpc-go's interoperability client against our server."""

from __future__ import annotations

import pytest

from interop.serving import serving
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


@pytest.mark.parametrize("case", CASES)
async def test_case(case):
    async with serving() as port:
        ran = await run_tool(
            "client",
            f"--test_case={case}",
            "--server_host=127.0.0.1",
            f"--server_port={port}",
            "--soak_iterations=20",
            "--soak_overall_timeout_seconds=60",
            "--soak_per_iteration_max_acceptable_latency_ms=60000",
        )
    output = ran.stdout.decode()
    assert ran.returncode == 0, output
    assert "done" in output.lower(), output
