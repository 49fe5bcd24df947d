"""The outside judges: found where `go install` puts them, or the tests that need them are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import anyio
import pytest

MODULES = {
    "h2spec": "github.com/summerwind/h2spec/cmd/h2spec@latest",
    "client": "google.golang.org/grpc/interop/client@latest",
    "server": "google.golang.org/grpc/interop/server@latest",
    "http2": "google.golang.org/grpc/interop/http2@latest",
    "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@latest",
    "grpc-health-probe": "github.com/grpc-ecosystem/grpc-health-probe@latest",
}


def find_tool(name: str) -> str:
    """The path of a tool; skips the test that asks where it is not installed."""
    places = [os.environ.get("GOBIN"), Path.home() / "go" / "bin", *os.environ.get("PATH", "").split(os.pathsep)]
    found = shutil.which(name, path=os.pathsep.join(str(place) for place in places if place))
    if found is None:
        pytest.skip(f"{name} is not installed; get it with: go install {MODULES[name]} (or: just interop-tools)")
    return found


async def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a tool to its end, at most two minutes."""
    with anyio.fail_after(120):
        return await anyio.run_process(
            [find_tool(name), *arguments],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "GRPC_GO_LOG_SEVERITY_LEVEL": "info"},  # else it says nothing when all is well
        )
