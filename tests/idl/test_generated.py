"""The stubs below `connectrio.idl` are what `protos/generate.py` makes of the .proto files, to the byte."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
IDL = REPOSITORY / "src" / "connectrio" / "idl"


def missing_tools():
    found = {
        "betterproto2_compiler": importlib.util.find_spec("betterproto2_compiler"),
        "grpc_tools": importlib.util.find_spec("grpc_tools"),
        "ruff": shutil.which("ruff", path=sysconfig.get_path("scripts")) or shutil.which("ruff"),
    }
    return [tool for tool, where in found.items() if where is None]


pytestmark = pytest.mark.skipif(
    bool(missing_tools()), reason=f"generating stubs needs {', '.join(missing_tools())}: install the dev group"
)


def generate(output, **environment):
    """Run the generator as `just gen` does, but into `output`."""
    return subprocess.run(
        [sys.executable, REPOSITORY / "protos" / "generate.py", output],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def files_in(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


# two seeds, because the order of a set of strings is one way for generation to depend on chance
@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_committed_stubs_are_what_the_generator_writes(tmp_path, hash_seed):
    run = generate(tmp_path, PYTHONHASHSEED=hash_seed)
    assert run.returncode == 0, run.stderr
    fresh, committed = files_in(tmp_path), files_in(IDL)
    assert {
        "missing": sorted(fresh.keys() - committed.keys()),
        "extra": sorted(committed.keys() - fresh.keys()),
        "different": sorted(name for name in fresh.keys() & committed.keys() if fresh[name] != committed[name]),
    } == {"missing": [], "extra": [], "different": []}, "run `just gen` and commit what it writes"


def test_generating_again_touches_only_what_has_changed(tmp_path):
    output = tmp_path / "idl"
    shutil.copytree(IDL, output, ignore=shutil.ignore_patterns("__pycache__"))
    before = files_in(output)
    kept = output / "message_pool.py"
    inode = kept.stat().st_ino
    (output / "flyteidl2" / "core" / "__init__.py").write_text("outdated = True\n")
    (output / "flyteidl2" / "core" / "stale.py").write_text("# @generated\nstale = True\n")

    run = generate(output)

    assert run.returncode == 0, run.stderr
    assert files_in(output) == before
    assert kept.stat().st_ino == inode


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.py").write_text("years = 4\n")

    run = generate(tmp_path)

    assert run.returncode == 1
    assert f"{tmp_path} holds something else than generated stubs" in run.stderr
    assert files_in(tmp_path) == {"thesis.py": b"years = 4\n"}
