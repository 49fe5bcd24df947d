"""Outcomes beside the table: what is equal, what is listed, and what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from differential.outcomes import Outcome
from differential.table import DIFFERENCES, difference_of

__all__ = ["Comparison", "compare"]


@dataclass
class Comparison:
    """What came of comparing.

    :ivar equal: the requests that both hosts answered alike
    :ivar listed: how many were not, by the `what` of the difference that has them
    :ivar problems: where table and outcomes do not fit, as sentences
    """

    equal: list[str] = field(default_factory=list)
    listed: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def compare(theirs: Mapping[str, Outcome], ours: Mapping[str, Outcome]) -> Comparison:
    """Compare the outcomes of the same requests."""
    result = Comparison()
    for name in theirs:
        problem = _one(result, name, theirs[name], ours[name])
        if problem:
            result.problems.append(f"{name}: {problem}\n    theirs {theirs[name]:.400}\n    ours   {ours[name]:.400}")
    result.problems += _idle_patterns(theirs, result)
    return result


def _one(result: Comparison, name: str, theirs: Outcome, ours: Outcome) -> str | None:
    statuses = (theirs.status, ours.status)
    found = difference_of(name, statuses)
    whats = " and ".join(repr(difference.what) for difference in found)
    if theirs == ours:
        result.equal.append(name)
        return f"is equal, and listed under {whats}" if any(not each.is_general for each in found) else None
    if len(found) != 1:
        return f"differs, and is listed under {whats or 'nothing'}"
    result.listed[found[0].what] += 1
    return None if statuses in found[0].statuses else f"differs otherwise than {whats} has it: {statuses}"


def _idle_patterns(names: Mapping[str, Outcome], result: Comparison) -> Iterator[str]:
    for difference in DIFFERENCES:
        for pattern in difference.unused(names):
            yield f"{difference.what!r} has the pattern {pattern!r}, which names no request"
        if not result.listed[difference.what]:
            yield f"{difference.what!r} is no difference any more"
