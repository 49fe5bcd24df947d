"""The table of differences, and the run's counts, as docs/differences.md has them."""

from __future__ import annotations

from pathlib import Path

from differential.compare import Comparison
from differential.table import DIFFERENCES
from e2e.reference import VERSION

__all__ = ["DOCUMENT", "document", "with_results"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "differences.md"
BEGIN, END = "<!-- written by differential.run -->\n", "<!-- up to here -->\n"


def document(results: str) -> str:
    """The document as it is, with these results in it."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    return f"{before}{BEGIN}{results}{END}{rest.partition(END)[2]}"


def with_results(comparison: Comparison) -> str:
    """The document as it should be."""
    listed, equal = sum(comparison.listed.values()), len(comparison.equal)
    refused = sum(comparison.listed[each.what] for each in DIFFERENCES if each.is_general)
    rows = [
        f"| {each.what} | {each.theirs} | {each.ours} | {each.why} | {comparison.listed[each.what]} |"
        for each in DIFFERENCES
    ]
    lines = [
        f"Of {equal + listed} requests to flyte-sdk {VERSION} and to connectrio, {equal} are answered alike, to the",
        f"character, and {refused} are refused by both, in other words. The other {listed - refused} are answered",
        f"otherwise. In all there are {len(DIFFERENCES)} reasons:",
        "",
        "| about | flyte-sdk | connectrio | because | requests |",
        "|---|---|---|---|--:|",
        *rows,
    ]
    return document("\n".join(lines) + "\n")
