"""Runs type checkers over the programs of users: examples, and what documents show.

    python tests/type_checks/checkers.py

checks them all with both, and prints what they refuse.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests" / "examples"
# a fenced block whose title is the name of its file
TITLED = re.compile(r'^```python title="([^"]+\.py)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)


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
    """Copy the examples into a directory, as the package `examples`."""
    shutil.copytree(EXAMPLES, directory / "examples", ignore=shutil.ignore_patterns("__pycache__"))


def pages(text: str) -> Iterator[dict[str, str]]:
    """Yield the files of Python that a document tells its reader to write: name → text.

    If it has a file twice, the files before the second version are one set of programs, those after it another.
    """
    files: dict[str, str] = {}
    for name, block in TITLED.findall(text):
        if name in files:
            yield dict(files)
        files[name] = block
    if files:
        yield files


def documents() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the files of the README and of each document, with the name of the document."""
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for files in pages(document.read_text()):
            yield str(document.relative_to(ROOT)), files


def write(directory: Path, files: dict[str, str]) -> None:
    """Write files into a directory, with the folders that they need."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


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
            found = [*check(Path(made))]
        for document, files in documents():
            with tempfile.TemporaryDirectory() as made:
                write(Path(made), files)
                found += [Refusal(f"{document}: {each.file}", each.line, each.text) for each in check(Path(made))]
        for refusal in found:
            print(f"{name}: {refusal}")
        count += len(found)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
