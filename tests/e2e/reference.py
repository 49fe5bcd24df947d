"""flyte-sdk's own host, to compare with ours.

With CONNECTRIO_REFERENCE=1 it is installed with uv, in an environment of its own in pytest's cache. Otherwise it is
looked for in the environment of the Python that CONNECTRIO_REFERENCE_PYTHON names, or else of the one that runs the
tests, and where it is not there the comparisons are skipped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from e2e.programs import CONNECTORS, CommandProgram

VERSION = "2.12.1"
START = "from flyte._bin.connect import main; main()"


def find_reference(config: pytest.Config) -> Path:
    """Return the Python of an environment with flyte-sdk; skip the test if there is none."""
    if os.environ.get("CONNECTRIO_REFERENCE") == "1":
        return _installed(Path(config.cache.mkdir(f"flyte-{VERSION}")))
    python = Path(os.environ.get("CONNECTRIO_REFERENCE_PYTHON") or sys.executable)
    command = [python, "-c", "import flyte.connectors._server"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode != 0:
        reason = (found.stderr.splitlines() or ["?"])[-1]
        pytest.skip(f"no flyte-sdk to compare with: {python}: {reason}; CONNECTRIO_REFERENCE=1 installs one")
    return python


def _installed(directory: Path) -> Path:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv, which would install flyte-sdk to compare with, is not on the PATH")
    python, done = directory / "venv" / "bin" / "python", directory / "done"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several test processes installs it
        if not done.exists():
            subprocess.run([uv, "venv", "--quiet", "--clear", directory / "venv"], check=True)
            package = f"flyte[connector]=={VERSION}"
            subprocess.run([uv, "pip", "install", "--quiet", "--python", python, package], check=True)
            done.touch()
    return python


class ReferenceProgram(CommandProgram):
    """flyte-sdk's host, which serves the probes or other modules in `cwd`."""

    def __init__(self, python: Path, *, modules: Sequence[str] = ("probes",), cwd: Path = CONNECTORS) -> None:
        super().__init__(
            lambda port, exporter_port: [
                python, "-c", START, "--port", port, "--prometheus_port", exporter_port,
                *(part for module in modules for part in ("--modules", module)),
            ],
            cwd=cwd,
            env={"CONNECTOR_API": "flyte.connectors", "NO_COLOR": "1"},
        )  # fmt: skip
