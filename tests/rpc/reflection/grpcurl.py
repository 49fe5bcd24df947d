"""grpcurl, where it is installed: a client that knows only what reflection tells it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anyio
import pytest


def find_go_tool(name: str) -> str | None:
    """Return the path of a program that `go install` made; None if there is none."""
    places = [os.environ.get("PATH", os.defpath), os.environ.get("GOBIN", ""), str(Path.home() / "go" / "bin")]
    return shutil.which(name, path=os.pathsep.join(filter(None, places)))


GRPCURL = find_go_tool("grpcurl")

needs_grpcurl = pytest.mark.skipif(
    GRPCURL is None, reason="grpcurl is neither on PATH nor in $GOBIN or ~/go/bin: see github.com/fullstorydev/grpcurl"
)


async def grpcurl(*arguments: str, code: int = 0) -> str:
    """Run grpcurl, which must end with that exit code; return what it prints on both outputs."""
    assert GRPCURL is not None
    finished = await anyio.run_process([GRPCURL, "-max-time", "60", *arguments], check=False)
    printed = (finished.stdout + finished.stderr).decode()
    assert finished.returncode == code, printed
    return printed
