"""What the documents show is what happens: their files, scripts and sessions, tried in order as a reader would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.blocks import PAGES, ROOT, Block, Stop, parts
from docs.trial import EXAMPLES, Trial, needed_tools, skip_without

TRIED = [page for page in PAGES if any(isinstance(part, Block) for part in parts(page))]


def linked_examples(page: Path) -> list[Path]:
    """The examples that a page links to, which its reader has too."""
    targets = re.findall(r"\]\(([^)\s#]+\.py)\)", page.read_text())
    found = [(page.parent / target).resolve() for target in targets]
    return [path for path in found if path.is_relative_to(EXAMPLES)]


@pytest.mark.parametrize("page", TRIED, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_reader_gets_what_is_shown(page, tmp_path):
    found = list(parts(page))
    skip_without(needed_tools(found))
    problem = ""
    try:
        with Trial.of(tmp_path) as trial:
            for example in linked_examples(page):
                trial.put(example)
            for part, following in zip(found, [*found[1:], None], strict=True):
                if isinstance(part, Block) and part.title in trial.typed:
                    check_types(trial)
                trial.take(part, following if isinstance(following, Block) else None)
            trial.stop("", str(page.relative_to(ROOT)))
            check_types(trial)
    except AssertionError as wrong:
        problem = str(wrong)
    if problem:  # it says the line of the page, which our own lines would hide
        pytest.fail(problem, pytrace=False)


def check_types(trial: Trial) -> None:
    """Check the page's Python as its reader's own, as strictly as mypy can."""
    if trial.typed:
        options = ["--strict", "--explicit-package-bases", f"--cache-dir={ROOT / '.mypy_cache' / 'docs'}"]
        ran = subprocess.run(
            [sys.executable, "-m", "mypy", *options, *trial.typed],
            cwd=trial.directory, check=False, capture_output=True, text=True, timeout=170,
        )  # fmt: skip
        assert ran.returncode == 0, f"{', '.join(trial.typed.values())}: mypy --strict:\n{ran.stdout}{ran.stderr}"
        trial.typed.clear()


def test_every_stop_stops_something():
    for page in PAGES:
        for part in parts(page):
            assert not isinstance(part, Stop) or part.command, f"{part.place}: say the command that it stops"
