"""A virtual environment for each peer, made on first use and kept in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

FLYTE = ("flyte[connector]==2.12.1",)
GRPCIO = ("grpcio>=1.80", "flyteidl2>=2.0.51", "uvloop")
GRPCLIB = ("grpclib==0.4.9", "betterproto2[grpclib]>=0.10,<0.11", "uvloop", "-e", str(ROOT))
# as it is installed to serve, without what the tests and flyte-sdk need
OURS = ("-e", f"{ROOT}[trio,uvloop]")
# with flyte-sdk, whose connectors it hosts
HOSTED = (*FLYTE, *OURS)
PURERPC = ("purerpc==0.8.0", "flyteidl2>=2.0.51", "uvloop", "trio")


def python_of(requirements: tuple[str, ...]) -> Path:
    """The interpreter of an environment that holds `requirements`, as new as this one.

    :raises SystemExit: it cannot be made
    """
    directory = _cache() / _name(requirements)
    python, done = directory / "bin" / "python", directory / "done"
    if not done.exists():
        if shutil.which("uv") is None:
            raise SystemExit("uv, which makes the peers' environments, is not on the PATH; run: pip install uv")
        print(f"installing {requirements[0]} …", file=sys.stderr)
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, directory], check=True)
        install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *requirements]
        subprocess.run(install, check=True)
        done.touch()
    return python


def _name(requirements: tuple[str, ...]) -> str:
    """One for each Python, and for what this project requires at the time."""
    project = (ROOT / "pyproject.toml").read_text() if "-e" in requirements else ""
    return hashlib.sha256(repr((sys.version, requirements, project)).encode()).hexdigest()[:12]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "connectrio-bench"
