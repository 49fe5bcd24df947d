"""That the table is exact is only worth something if a table that is not would be found out."""

from __future__ import annotations

import pytest

from differential.compare import compare
from differential.outcomes import Outcome
from differential.table import DIFFERENCES


def problems_of(name: str, theirs: str, ours: str) -> list[str]:
    """What is said about one request that was answered so."""
    comparison = compare({name: Outcome(theirs)}, {name: Outcome(ours)})
    return [problem.splitlines()[0] for problem in comparison.problems if problem.startswith(f"{name}:")]


@pytest.mark.parametrize(
    ("name", "theirs", "ours", "problem"),
    [
        ("a new one", "OK 1", "OK 1", None),
        ("a new one", "OK 1", "OK 2", "differs, and is listed under nothing"),
        ("a new one", "INTERNAL x", "INTERNAL y", "differs, and is listed under nothing"),
        ("int <- float 5.9", "OK 5", "INVALID_ARGUMENT x", None),
        ("int <- float 5.9", "OK 5", "OK 5", "is equal, and listed under 'an integer from 5.9'"),
        ("int <- float 5.9", "OK 5", "OK 6", "differs otherwise than 'an integer from 5.9' has it: ('OK', 'OK')"),
        ("int <- text", "INTERNAL x", "INVALID_ARGUMENT y", None),
        ("int <- text", "INTERNAL x", "OK 7", "differs, and is listed under nothing"),
        ("int <- integer 7", "OK 7", "INVALID_ARGUMENT x", "differs, and is listed under nothing"),
    ],
)
def test_a_request_that_does_not_fit_is_found(name, theirs, ours, problem):
    assert problems_of(name, theirs, ours) == ([f"{name}: {problem}"] if problem else [])


def test_what_is_listed_and_never_asked_is_found():
    problems = compare({}, {}).problems
    assert "'an integer from 5.9' is no difference any more" in problems
    assert "'an integer from 5.9' has the pattern 'int <- float 5.9', which names no request" in problems


def test_each_difference_has_a_name_of_its_own():
    assert len({difference.what for difference in DIFFERENCES}) == len(DIFFERENCES)
