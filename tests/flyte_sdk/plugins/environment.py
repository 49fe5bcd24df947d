"""An environment with the plugins that Flyte publishes, as they are on PyPI.

It is made with uv, once, in pytest's cache. The plugins drag in what would slow down all other tests: a host that loads
entry points loads them. Spark's own package is left out for its client, which is a fortieth of its size: Databricks'
connector only imports it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VERSION = "2.12.1"
PLUGINS = [f"flyteplugins-{name}=={VERSION}" for name in ("bigquery", "snowflake", "databricks", "slurm")]
# flyte-sdk's own host, to compare with; and the description of BigQuery's API, which is in the wheel of its client
REQUIREMENTS = [*PLUGINS, f"flyte[connector]=={VERSION}", "google-api-python-client", "pyspark-client"]
OVERRIDES = "pyspark; python_version < '3'\n"


def find_plugins(config: pytest.Config) -> Path:
    """The Python of that environment; skips the test where it cannot be made, or CONNECTRIO_PLUGINS=0 forbids it."""
    uv = shutil.which("uv")
    if os.environ.get("CONNECTRIO_PLUGINS") == "0" or uv is None:
        pytest.skip("Flyte's plugins need uv, which installs them unless CONNECTRIO_PLUGINS=0")
    # editable, so that it goes out of date only when what is to be installed changes
    wanted = [(ROOT / "pyproject.toml").read_text(), sys.version, str(ROOT), *REQUIREMENTS]
    directory = Path(config.cache.mkdir("plugins-" + hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]))
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
    commands = [
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, directory / "venv"],
        [
            uv, "pip", "install", "--quiet", "--python", python, "--overrides", overrides,
            "--editable", f"{ROOT}[flyte,trio,uvloop]", *REQUIREMENTS,
        ],
    ]  # fmt: skip
    for command in commands:
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        if ran.returncode != 0:
            pytest.skip(f"Flyte's plugins cannot be installed: {ran.stderr.strip()}")


def bigquery_description(python: Path) -> Path:
    """BigQuery's discovery document."""
    (found,) = python.parents[1].glob("lib/*/site-packages/googleapiclient/discovery_cache/documents/bigquery.v2.json")
    return found
