"""flyte-sdk's own host, to run beside ours.

It needs an environment of its own. CONNECTRIO_REFERENCE_PYTHON names the Python of one that has `flyte[connector]`;
with CONNECTRIO_REFERENCE=1 one is made with uv, in pytest's cache. Without either, the comparisons are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from e2e.programs import CONNECTORS, CommandProgram

VERSION = "2.12.1"
START = "from flyte._bin.connect import main; main()"


def find_reference(config: pytest.Config) -> Path:
    """The Python of an environment with flyte-sdk; skips the test where there is none."""
    named = os.environ.get("CONNECTRIO_REFERENCE_PYTHON")
    if named:
        return _checked(Path(named))
    if os.environ.get("CONNECTRIO_REFERENCE") == "1":
        return _installed(Path(config.cache.mkdir(f"flyte-{VERSION}")))
    pytest.skip(
        "no flyte-sdk to compare with: set CONNECTRIO_REFERENCE=1 to install it, or CONNECTRIO_REFERENCE_PYTHON"
    )


def _checked(python: Path) -> Path:
    found = subprocess.run(
        [python, "-c", "import flyte.connectors._server"], check=False, capture_output=True, text=True
    )
    if found.returncode != 0:
        pytest.skip(
            f"CONNECTRIO_REFERENCE_PYTHON: {python} cannot import flyte-sdk's connectors: {found.stderr[-200:]}"
        )
    return python


def _installed(directory: Path) -> Path:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv, which would install flyte-sdk to compare with, is not on the PATH")
    python, done = directory / "venv" / "bin" / "python", directory / "done"
    if not done.exists():
        subprocess.run([uv, "venv", "--quiet", "--clear", directory / "venv"], check=True)
        package = f"flyte[connector]=={VERSION}"
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, package], check=True)
        done.touch()
    return python


class ReferenceProgram(CommandProgram):
    """flyte-sdk's host, serving the probes."""

    def __init__(self, python: Path) -> None:
        super().__init__(
            lambda port, exporter_port: [
                python,
                "-c",
                START,
                "--port",
                port,
                "--prometheus_port",
                exporter_port,
                "--modules",
                "probes",
            ],
            cwd=CONNECTORS,
            env={"CONNECTOR_API": "flyte.connectors", "NO_COLOR": "1"},
        )
