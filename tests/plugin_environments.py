"""Environments with what Flyte publishes for its frameworks, made with uv, once, in pytest's cache.

What is in them would slow down all other tests: a host that loads entry points loads them. Spark's own package is left
out for its client, which is a fortieth of its size: Databricks' connector only imports it.
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

ROOT = Path(__file__).parents[1]
OVERRIDES = "pyspark; python_version < '3'\n"


def python_with(config: pytest.Config, name: str, extras: str, requirements: Sequence[str]) -> Path:
    """Return the Python of an environment; skip the test where it cannot be made, or CONNECTRIO_PLUGINS=0 forbids it.

    :param name: what it is called in the cache
    :param extras: of connectrio
    """
    uv = shutil.which("uv")
    if os.environ.get("CONNECTRIO_PLUGINS") == "0" or uv is None:
        pytest.skip(f"the environment {name} needs uv, which makes it unless CONNECTRIO_PLUGINS=0")
    # editable, so that it goes out of date only when what is to be installed changes
    wanted = [(ROOT / "pyproject.toml").read_text(), sys.version, str(ROOT), *requirements]
    directory = Path(config.cache.mkdir(f"{name}-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]}"))
    python = directory / "venv" / "bin" / "python"
    overrides = directory / "overrides.txt"
    commands: list[Sequence[str | Path]] = [
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, directory / "venv"],
        [
            uv, "pip", "install", "--quiet", "--python", python, "--overrides", overrides,
            "--editable", f"{ROOT}[{extras}]", *requirements,
        ],
    ]  # fmt: skip
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes that run tests, one installs it
        if not (directory / "done").exists():
            overrides.write_text(OVERRIDES)
            for command in commands:
                ran = subprocess.run(command, check=False, capture_output=True, text=True)
                if ran.returncode != 0:
                    pytest.skip(f"the environment {name} cannot be made: {ran.stderr.strip()}")
            (directory / "done").touch()
    return python
