"""The Pythons that connectrio supports, as pyproject.toml's classifiers name them, and where this machine has them.

    python .ci/pythons.py

prints a line for each: the version, and the path of an interpreter that runs, if there is one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def supported(tree: Path = ROOT) -> list[str]:
    """Return the versions, such as "3.11", oldest first."""
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    return re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)


def interpreter(version: str) -> Path | None:
    """Return an interpreter of this version: that of PATH, or pyenv's. One that does not start is no interpreter."""
    found = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [Path(found)] if found else []
    candidates += sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    for each in candidates:
        told = subprocess.run(
            [each, "-c", asked], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if told.returncode == 0 and told.stdout.strip() == version:
            return each
    return None


if __name__ == "__main__":
    for each in supported():
        print(each, interpreter(each) or "")
