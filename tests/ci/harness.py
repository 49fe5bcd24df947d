"""Copies of this tree that are repositories of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def git(directory: Path, *arguments: str) -> str:
    """Run git, and return what it writes."""
    return subprocess.run(
        ["git", *arguments], cwd=directory, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def tracked_files() -> list[str]:
    """The files of this tree that git has or would add; skip the test in a tree without git, as an sdist is."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this tree is no repository of git, or git is not installed")
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    return [each for each in listed if (ROOT / each).exists()]


def copy_tree(directory: Path) -> Path:
    """Copy these files into a directory, and return it."""
    for each in tracked_files():
        target = directory / each
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / each, target)
    return directory


def make_repository(directory: Path) -> None:
    """Commit all files of a directory to a new repository's branch `main`."""
    git(directory, "init", "--quiet", "--initial-branch", "main")
    git(directory, "config", "user.name", "A maintainer")
    git(directory, "config", "user.email", "maintainer@example.org")
    commit(directory)


def commit(directory: Path) -> None:
    """Commit all files of a repository."""
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "All")
