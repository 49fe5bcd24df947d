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
PURERPC = ("purerpc==0.8.0", "flyteidl2>=2.0.51", "uvloop", "trio")


def python_of(requirements: tuple[str, ...]) -> Path:
    """The interpreter of an environment that holds `requirements`, as new as this one.

    :raises SystemExit: it cannot be made
    """
    directory = _cache() / hashlib.sha256(repr((sys.version, requirements)).encode()).hexdigest()[:12]
    python, done = directory / "bin" / "python", directory / "done"
    if not done.exists():
        if shutil.which("uv") is None:
            raise SystemExit("uv, which makes the peers' environments, is not on the PATH; run: pip install uv")
        print(f"installing {requirements[0]} …", file=sys.stderr)
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, directory], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, *requirements], check=True)
        done.touch()
    return python


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "connectrio-bench"
