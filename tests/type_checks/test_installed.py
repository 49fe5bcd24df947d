"""The package as it is published has its types: `py.typed` and annotations, for programs outside of the source tree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from type_checks.checkers import EXAMPLES, ROOT, mypy, pyright, why_no_pyright

PROGRAMS = Path(__file__).parent / "programs"


def uv(*arguments: str | Path) -> None:
    done = subprocess.run(["uv", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and any(word in done.stderr for word in ("error sending request", "Failed to fetch")):
        pytest.skip(f"the registry of packages cannot be reached: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
def test_a_users_program_is_checked_against_the_installed_wheel(tmp_path: Path):
    uv("build", "--quiet", "--wheel", "--out-dir", tmp_path / "dist")
    [wheel] = (tmp_path / "dist").glob("*.whl")
    uv("venv", "--quiet", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", python, wheel, "mypy")
    [package] = (tmp_path / "venv").glob("lib/*/site-packages/connectrio")
    assert (package / "py.typed").exists()
    program = tmp_path / "program"
    program.mkdir()
    shutil.copy(PROGRAMS / "accepted.py", program)
    shutil.copy(EXAMPLES / "hello.py", program)
    assert mypy(program, str(python)) == []
    if not why_no_pyright():
        assert pyright(program, str(python)) == []
    # without py.typed, all of the package would be Any, and nothing refused
    shutil.copy(PROGRAMS / "refused.py", program)
    assert len(mypy(program, str(python))) >= 9
