"""Write the table of differences, and the run's counts, into docs/explanation/differences.md."""

from __future__ import annotations

from pathlib import Path

from differential.compare import Comparison
from differential.table import DIFFERENCES
from e2e.reference import VERSION

__all__ = ["DOCUMENT", "document", "with_results"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "explanation" / "differences.md"
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
        f"{equal + listed} requests were sent to flyte-sdk {VERSION} and to connectrio. {equal} answers are equal to",
        f"the character. {refused} requests are refused by both, with different texts. The other",
        f"{listed - refused} answers differ. There are {len(DIFFERENCES)} reasons:",
        "",
        "| about | flyte-sdk | connectrio | because | requests |",
        "|---|---|---|---|--:|",
        *rows,
    ]
    return document("\n".join(lines) + "\n")
