"""An environment with flytekit and the plugins that Flyte publishes for it, as they are on PyPI.

It is made with uv, once, in pytest's cache: flytekit's stores and its plugins bring a hundred packages, and a host that
loads entry points loads them. Spark's own package is left out for its client, which is a fortieth of its size:
Databricks' connector only imports it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = "1.16.31"
NAMES = (
    "awssagemaker", "bigquery", "k8sdataservice", "mmcloud", "openai", "perian-job", "slurm", "snowflake", "spark"
)  # fmt: skip
REQUIREMENTS = [
    f"flytekit=={VERSION}",
    *(f"flytekitplugins-{name}=={VERSION}" for name in NAMES),
    # of flytekit's own host
    "grpcio-health-checking", "prometheus-client",
    "perian<0.3",  # later releases lack what the plugin imports
    "pyarrow<22",  # later releases need a newer NumPy than a plugin allows
    "pyspark-client",
]  # fmt: skip
OVERRIDES = "pyspark; python_version < '3'\n"


def find_flytekit(config: pytest.Config) -> Path:
    """Return the Python of that environment; skip the test where it cannot be made, or CONNECTRIO_PLUGINS=0 forbids."""
    uv = shutil.which("uv")
    if os.environ.get("CONNECTRIO_PLUGINS") == "0" or uv is None:
        pytest.skip("flytekit's plugins need uv, which installs them unless CONNECTRIO_PLUGINS=0")
    # editable, so that it goes out of date only when what is to be installed changes
    wanted = [(ROOT / "pyproject.toml").read_text(), sys.version, str(ROOT), *REQUIREMENTS]
    directory = Path(config.cache.mkdir("flytekit-" + hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]))
    python = directory / "venv" / "bin" / "python"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes that run tests, one installs it
        if not (directory / "done").exists():
            _install(uv, directory, python)
            (directory / "done").touch()
    return python


def _install(uv: str, directory: Path, python: Path) -> None:
    overrides = directory / "overrides.txt"
    overrides.write_text(OVERRIDES)
    commands: list[Sequence[str | Path]] = [
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, directory / "venv"],
        [
            uv, "pip", "install", "--quiet", "--python", python, "--overrides", overrides,
            "--editable", f"{ROOT}[flytekit,trio]", *REQUIREMENTS,
        ],
    ]  # fmt: skip
    for command in commands:
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        if ran.returncode != 0:
            pytest.skip(f"flytekit's plugins cannot be installed: {ran.stderr.strip()}")
