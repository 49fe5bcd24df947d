"""Runs type checkers over the programs of users: examples, and what documents show (`docs/test_pages.py`).

    python tests/type_checks/checkers.py

checks the examples with both, and prints what they refuse.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests" / "examples"
PROTOS = sorted(EXAMPLES.glob("*/*.proto"))


@dataclass(frozen=True, order=True)
class Refusal:
    """A line that a type checker refuses."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def mypy(directory: Path, python: str = sys.executable) -> list[Refusal]:
    """What `mypy --strict` refuses in the modules of a directory, which import each other by their path in it.

    :param python: has mypy, and what the modules import
    """
    command = [python, "-m", "mypy", "--strict", "--namespace-packages", "--explicit-package-bases", "--output=json"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / "type_checks"), "."]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return sorted(Refusal(each["file"], each["line"], each["message"]) for each in found if each["severity"] == "error")


def pyright(directory: Path, python: str = sys.executable, *, mode: str = "strict") -> list[Refusal]:
    """The same of pyright. `why_no_pyright` tells whether it can run.

    :param python: has what the modules import
    :param mode: how much it refuses: "standard", as by default, or "strict"
    """
    # asynccontextmanager on a function that returns AsyncIterator: the standard library's own documents show it
    settings = {"typeCheckingMode": mode, "deprecateTypingAliases": False, "reportDeprecated": False}
    config = directory / "pyrightconfig.json"
    config.write_text(json.dumps({**settings, "pythonVersion": "3.11"}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", python, "--project", str(config)]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, env=_environment())
    config.unlink()
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return sorted(
        Refusal(
            str(Path(each["file"]).relative_to(directory.resolve())),
            each["range"]["start"]["line"] + 1,
            each["message"],
        )
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    )


@cache
def why_no_pyright() -> str:
    """Why pyright cannot run here: its package fetches the program, and perhaps node, the first time. "" if it can."""
    command = [sys.executable, "-m", "pyright", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    return "" if done.returncode == 0 else f"pyright cannot be fetched: {(done.stdout + done.stderr).strip()[-300:]}"


def _environment() -> dict[str, str]:
    # the modules import connectrio as an installed package, and nothing of the tests
    hidden = ("PYTHONPATH", "MYPYPATH")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"
    }


def copy_examples(directory: Path) -> None:
    """Copy the examples into a directory, as the package `examples`, without those that need stubs."""
    # "from_…" are programs of other libraries, with protobuf's stubs, which have no types
    others = ["__pycache__", "from_*", "test_interceptors.py"]  # the last is a test of ours, with the kit of our tests
    ignored = shutil.ignore_patterns(*others, *(proto.parent.name for proto in PROTOS))
    shutil.copytree(EXAMPLES, directory / "examples", ignore=ignored)


def copy_project(proto: Path, directory: Path) -> None:
    """Copy an example that has a .proto file, and make its stubs."""
    shutil.copytree(proto.parent, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "connectrio", "rpc", "gen", proto.name]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)


CHECKERS: dict[str, Callable[[Path], list[Refusal]]] = {"mypy": mypy, "pyright": pyright}


def main() -> int:
    """Check all programs of users; return the exit code."""
    count = 0
    reason = why_no_pyright()
    for name, check in CHECKERS.items():
        if name == "pyright" and reason:
            print(reason)
            continue
        with tempfile.TemporaryDirectory() as made:
            copy_examples(Path(made))
            found = check(Path(made))
        for proto in PROTOS:
            with tempfile.TemporaryDirectory() as made:
                copy_project(proto, Path(made))
                found += check(Path(made))
        for refusal in found:
            print(f"{name}: {refusal}")
        count += len(found)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
