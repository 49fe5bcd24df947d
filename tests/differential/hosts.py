"""Both hosts, with the mirror."""

from __future__ import annotations

from pathlib import Path

from e2e.programs import CommandProgram, HostProgram
from e2e.reference import START

__all__ = ["our_host", "their_host"]

PROGRAMS = Path(__file__).parent / "programs"


def our_host(backend: str) -> HostProgram:
    """A host of ours. What it would try again for some seconds, it does not, so that its answers come at once."""
    return HostProgram(backend, modules=[str(PROGRAMS / "mirror.py")], poll_retry=0)


def their_host(python: Path) -> CommandProgram:
    """flyte-sdk's own.

    :param python: of an environment that has it
    """
    return CommandProgram(
        lambda port, exporter_port: [
            python, "-c", START, "--port", port, "--prometheus_port", exporter_port, "--modules", "mirror"
        ],
        cwd=PROGRAMS,
        env={"CONNECTOR_API": "flyte.connectors", "NO_COLOR": "1"},
    )  # fmt: skip
