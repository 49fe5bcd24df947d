"""What the documents show is what happens: their files, scripts and sessions, tried in order as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.blocks import PAGES, ROOT, Block, Stop, parts
from docs.trial import EXAMPLES, Trial, needed_tools, skip_without
from type_checks.checkers import CHECKERS, why_no_pyright

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
    """Check the page's Python as its reader's own, as strictly as mypy and pyright can."""
    for name, check in CHECKERS.items() if trial.typed else ():
        if name != "pyright" or not why_no_pyright():
            refused = [each for each in check(trial.directory) if each.file in trial.typed]
            assert not refused, f"{name}:\n" + "\n".join(f"{trial.typed[each.file]}: {each}" for each in refused)
    trial.typed.clear()


def test_every_stop_stops_something():
    for page in PAGES:
        for part in parts(page):
            assert not isinstance(part, Stop) or part.command, f"{part.place}: say the command that it stops"
